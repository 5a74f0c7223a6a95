"""Train variants of a model with one budget and several seeds, and compare them on the same held-out songs.

    OMP_NUM_THREADS=1 python training/run_ablations.py --corpus build/corpus --samples 100 -o runs/ablations

trains Museformer, no coarse attention, no bar selection and full attention (training/recipes/ablation-*.yaml), each
with three seeds: hours on two CPU cores. A quick look at whether all steps work, in minutes:

    python training/run_ablations.py --corpus build/corpus -o build/ablations-smoke --seeds 0 --max-songs 4 --set \\
        train.max_updates=4 train.warmup_updates=1 train.cooldown_updates=1 train.log_every=1 data.validation_songs=4

Any recipe of a causal language model may stand in --recipes; the first one is what the others are compared with. Each
step (training, likelihood, samples) is a program of its own that goes on where it stopped, and finished steps are
skipped: after an interruption, give the same command again.

Writes OUTPUT/ablations.json, .md and .png. Per model, over seeds: perplexity of the first 1,024, 5,120 and 10,240
tokens, bits per bar, the difference of the loss from the first model on the same songs, and with --samples the
similarity error.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from partimento.training.ablation_report import ablation_markdown, compare_runs, plot_ablations
from partimento.training.arguments import load_arguments
from partimento.training.comparison_runs import Step, keep_identity, report_step, run_step, training_step
from partimento.training.reports import library_versions, write_report
from partimento.training.songs import split_files

FOLDER = Path(__file__).parent
RECIPES = [FOLDER / "recipes" / f"ablation-{name}.yaml" for name in (
    "museformer", "no-coarse", "no-bar-selection", "full-attention",
)]  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by prepare_data.py")
    parser.add_argument("--recipes", type=Path, nargs="+", default=RECIPES, help="default: the four of the ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="GROUP.KEY=VALUE", dest="overrides",
        help="changes to every recipe, as in train.py",
    )  # fmt: skip
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="songs of the comparison")
    parser.add_argument("--max-songs", type=int, help="at most this many songs, a seeded draw (default: all)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the likelihood, see evaluate_lm.py")
    parser.add_argument("--samples", type=int, default=0, help="samples of each trained model (default: none)")
    modes = ["constrained", "conditions_only"]
    parser.add_argument(
        "--mode", choices=modes, default=modes[0], help="of samples, see evaluate_samples.py (default constrained)"
    )
    parser.add_argument("--bars", type=int, default=64, help="bars of a sample (default 64)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of all runs and of the report")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        run(args, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError) as error:
        print(f"run_ablations.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("run_ablations.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace, command: list[str]) -> None:
    """Do all steps that are not done, then write and print the comparison."""
    split_files(args.corpus, "train")
    names = {recipe: recipe.stem.removeprefix("ablation-") for recipe in args.recipes}
    if len(set(names.values())) < len(names):
        raise ValueError(f"recipes {', '.join(map(str, args.recipes))}: two of them have one name")
    for recipe in args.recipes:
        load_arguments(recipe, args.overrides)
    identity = {
        "corpus": str(args.corpus),
        "recipes": {recipe.name: yaml.safe_load(recipe.read_text(encoding="utf-8")) for recipe in args.recipes},
        "overrides": args.overrides,
        "likelihood": [args.split, args.max_songs, args.dtype],
    }
    if args.samples:
        identity["samples"] = [args.samples, args.bars, args.mode]
    keep_identity(args.output, identity)
    plan = [(recipe, name, seed) for seed in args.seeds for recipe, name in names.items()]
    folders: dict[str, dict[int, Path]] = {name: {} for name in names.values()}
    for number, (recipe, name, seed) in enumerate(plan, start=1):
        folder = folders[name][seed] = args.output / f"{name}-seed{seed}"
        for step in steps(args, recipe, folder, seed):
            if not step.done.exists():
                print(f"[{number} of {len(plan)}] {name}, seed {seed}: {step.title}", file=sys.stderr)
                run_step(step)
    report: dict[str, Any] = {
        "command": "python training/run_ablations.py " + shlex.join(command),
        "corpus": str(args.corpus),
        "split": args.split,
        "seeds": args.seeds,
        "overrides": args.overrides,
        "libraries": library_versions(),
        **compare_runs(folders, args.split),
    }
    text = ablation_markdown(report)
    json_path, markdown_path = write_report(args.output / "ablations.json", report, text)
    image = args.output / "ablations.png"
    plot_ablations(report, image)
    print(text)
    print(f"written: {json_path}, {markdown_path} and {image}")


def steps(args: argparse.Namespace, recipe: Path, folder: Path, seed: int) -> list[Step]:
    """All programs of one run."""
    model, corpus = str(folder / "final"), str(args.corpus)
    likelihood = ["--model", model, "--corpus", corpus, "--splits", args.split, "--ngram", "0", "--conditions", "all"]
    likelihood += ["--max-songs", str(args.max_songs)] if args.max_songs is not None else []
    likelihood += ["--dtype", args.dtype] if args.dtype else []
    result = [
        training_step(recipe, folder, args.corpus, seed, args.overrides),
        report_step("likelihood", "evaluate_lm.py", folder, likelihood),
    ]
    if args.samples:
        options = ["--model", model, "--corpus", corpus, "-n", str(args.samples), "--bars", str(args.bars)]
        options += ["--seed", str(seed), "--modes", args.mode]
        result.append(report_step("samples", "evaluate_samples.py", folder, options))
    return result


if __name__ == "__main__":
    sys.exit(main())
