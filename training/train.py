"""Train any of the package's models from one YAML recipe.

One process (CPU, or one GPU with single_gpu.yaml):

    accelerate launch --config_file training/launch_configs/cpu.yaml training/train.py \
        --config training/recipes/museformer-tiny-smoke.yaml --set data.corpus=out/corpus

Two processes on the CPU:

    ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 training/train.py \
        --expect-processes 2 --config training/recipes/museformer-small-open.yaml --set data.corpus=out/corpus

Four GPUs:

    accelerate launch --config_file training/launch_configs/ddp.yaml training/train.py \
        --config training/recipes/museformer-paper-lakh.yaml --set data.corpus=out/lakh train.output=runs/paper

After an interruption, the same command with `--resume auto` goes on from the newest complete checkpoint. The output
folder holds config.yaml, run.json, log.jsonl, curves.png, step-N/, latest, best/ and final/ (both in Hub layout).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from partimento.training.arguments import load_arguments
from partimento.training.plot_curves import plot_curves
from partimento.training.run_setup import make_accelerator, make_loop, start_or_resume
from partimento.training.training_loop import NonFiniteError


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="a recipe, see training/recipes")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="GROUP.KEY=VALUE",
        dest="overrides",
        help="values over those of the recipe, such as train.max_updates=100 data.corpus=build/corpus",
    )
    parser.add_argument("--resume", default="never", metavar="never|auto|FOLDER", help="go on from a checkpoint")
    parser.add_argument("--expect-processes", type=int, help="fail unless exactly so many processes were started")
    parser.add_argument("--allow-resharding", action="store_true", help="resume with another number of processes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training; return the exit status."""
    options = make_parser().parse_args(argv)
    disable_progress_bar()  # of every saved file; the loop has its own
    try:
        arguments = load_arguments(options.config, options.overrides)
        if arguments.train.num_threads:
            torch.set_num_threads(arguments.train.num_threads)
        accelerator = make_accelerator(arguments, options.expect_processes)
        loop = make_loop(arguments, accelerator)
        start_or_resume(loop, options.resume, options.allow_resharding)
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    try:
        state = loop.run()
    except NonFiniteError as error:
        print(f"train.py: stopped at {error}", file=sys.stderr)
        return 1
    if accelerator.is_main_process:
        plot_curves(loop.output / "log.jsonl", loop.output / "curves.png")
        print(f"{loop.output}: {state.update} updates ({state.finished}), best {state.best:.4f} at {state.best_update}")
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main())
