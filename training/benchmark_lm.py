"""How fast is one language model: training tokens a second, and milliseconds for a generated token.

    OMP_NUM_THREADS=1 python training/benchmark_lm.py --model runs/comparison/lstm-seed0/final \\
        --config runs/comparison/lstm-seed0/config.yaml --corpus build/corpus -o build/speed.json

Training: whole updates (forward, backward, clipping, optimiser) on batches of the recipe, after one that does not
count. Generation: pieces for piano, bass and drums as `partimento generate` writes them, grammar and constraints
included. With one thread on a CPU the time is that of this process alone, so that other programs disturb little; the
report says which clock was used. `--model 5-gram` times the fit and the samples of an n-gram model of the corpus.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import partimento.modeling  # noqa: F401  (registers the architectures)
from partimento.tokenization import MidiProcessor
from partimento.training.arguments import load_arguments
from partimento.training.benchmark_models import clock
from partimento.training.bptt_data import WindowData
from partimento.training.devices import choose_device
from partimento.training.ngram_lm import load_generator, ngram_order
from partimento.training.optimization import make_optimizer
from partimento.training.reports import library_versions, markdown_table, write_report
from partimento.training.token_data import TokenData


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder, Hub id, embedded checkpoint, or 5-gram")
    parser.add_argument("--config", type=Path, help="recipe whose updates are timed (default: generation only)")
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by prepare_data.py")
    parser.add_argument("--updates", type=int, default=3, help="training updates that are timed (default 3)")
    parser.add_argument("--pieces", type=int, default=2, help="pieces that are generated (default 2)")
    parser.add_argument("--bars", type=int, default=8, help="bars of a piece (default 8)")
    parser.add_argument("--ngram-tokens", type=int, metavar="N", help="training tokens of the n-gram model")
    parser.add_argument("--device", help="default: the first GPU when there is one, else the CPU")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; Markdown goes beside it")
    return parser


def training_speed(model: str, config: Path, corpus: Path, updates: int, device: torch.device) -> dict[str, Any]:
    """Time whole updates of a recipe, one process, on its first batches."""
    arguments = load_arguments(config, [f"data.corpus={corpus}"])
    if arguments.train.num_threads:
        torch.set_num_threads(arguments.train.num_threads)
    processor = MidiProcessor.from_pretrained(corpus / "processor")
    shared = {"seed": 0, "batches_per_update": arguments.train.batches_per_update}
    if arguments.bptt.window:
        data: TokenData = WindowData(arguments.data, arguments.bptt, processor, **shared)
    else:
        data = TokenData(arguments.data, processor, **shared)
    options = (
        {"attn_implementation": arguments.model.attn_implementation} if arguments.model.attn_implementation else {}
    )
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, **options).to(device).train()
    optimizer = make_optimizer(network, arguments.train)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arguments.train.mixed_precision)
    tokens, seconds = 0, 0.0
    for number, batches in zip(range(updates + 1), data.epoch(0)):
        started = clock(device)
        for batch in batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            with torch.autocast(device.type, half) if half else nullcontext():
                loss = network(**inputs, use_cache=False).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number:  # the first one also makes the optimiser's state
            seconds += clock(device) - started
            tokens += sum(batch.num_tokens for batch in batches)
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds if seconds else None}


def generation_speed(generator: Any, pieces: int, bars: int, device: torch.device) -> dict[str, Any]:
    """Time pieces of seeds 0, 1, … one by one."""
    tokens, seconds = 0, 0.0
    for seed in range(pieces):
        started = clock(device)
        piece = generator.generate(instruments=["piano", "bass", "drums"], bars=bars, seed=seed)[0]
        seconds += clock(device) - started
        tokens += len(piece.ids)
    return {"tokens": tokens, "seconds": seconds, "milliseconds_per_token": 1000 * seconds / tokens}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both figures of a model."""
    device = choose_device(args.device)
    threads = torch.get_num_threads()
    started = clock(device)
    generator = load_generator(args.model, device, args.corpus, args.ngram_tokens)
    fitting = clock(device) - started
    one_cpu_thread = device.type == "cpu" and threads == 1
    report: dict[str, Any] = {
        "model": args.model,
        "clock": "CPU time of one thread" if one_cpu_thread else f"wall clock, {threads} threads, {device.type}",
        "generation": generation_speed(generator, args.pieces, args.bars, device),
        "training": None,
        "libraries": library_versions(),
    }
    order = ngram_order(args.model)
    if order:
        fitted: int = generator.model.ngram.num_train_tokens
        report["training"] = {"tokens": fitted, "seconds": fitting, "tokens_per_second": fitted / fitting}
    elif args.config:
        report["training"] = training_speed(args.model, args.config, args.corpus, args.updates, device)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        report = measure(args)
    except (ValueError, OSError) as error:
        print(f"benchmark_lm.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    training = report["training"] or {"tokens_per_second": None}
    row = [args.model, training["tokens_per_second"], report["generation"]["milliseconds_per_token"]]
    header = ["model", "training, tokens per second", "generation, ms per token"]
    text = markdown_table(header, [row]) + f"\n{report['clock']}\n"
    write_report(args.output, report, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
