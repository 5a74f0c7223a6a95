"""Does a model write what it is asked for? Samples over all its genres, every request checked in the finished MIDI.

    python training/evaluate_samples.py --model museformer-small -n 100 --bars 16 --seed 0 -o build/samples.json
    python training/evaluate_samples.py --model museformer-small --corpus build/corpus -n 100 -o build/samples.json

Each request asks for a genre, instruments, a number of bars, a tempo and, every second time, a key. With `--corpus`
instruments, tempo and key are those of a random training song of the genre. Two figures for each check: as the
command generates (instruments, tempo and bars are constraints of the sampler), and by conditions only, where nothing
but the grammar is imposed and the model's own obedience shows. Writes JSON and, beside it, Markdown.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from partimento.pipelines import MidiGenerator
from partimento.tokenization import MidiProcessor
from partimento.training.reports import library_versions, markdown_table, report_paths, write_report
from partimento.training.sample_checks import (
    CHECKS,
    CheckedSample,
    Request,
    by_genre,
    check_sample,
    conditions_by_genre,
    plan_requests,
    summarise_samples,
)
from partimento.training.songs import first_bar, read_songs

MODES = {"constrained": True, "conditions_only": False}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder, Hub id or name of an embedded checkpoint")
    parser.add_argument("--corpus", type=Path, help="folder written by prepare_data.py: ask for what its songs have")
    parser.add_argument("-n", "--num-samples", type=int, default=100, help="samples in each mode (default 100)")
    parser.add_argument("--bars", type=int, default=16, help="bars of each sample (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests and of the sampler (default 0)")
    parser.add_argument("--key-share", type=float, default=0.5, help="share of requests that ask for a key")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--device", help="default: the first GPU when there is one, else the CPU")
    parser.add_argument("--save-midi", type=Path, help="folder for the generated files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; Markdown goes beside it")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = make_parser().parse_args(arguments)
    report_paths(args.output)
    generator = MidiGenerator.from_pretrained(args.model, device=args.device)
    processor = generator.processor
    requests = plan_requests(
        processor.labels("genre"),
        args.num_samples,
        args.bars,
        args.seed,
        training_conditions(args.corpus, processor) if args.corpus else {},
        args.key_share,
    )
    report: dict[str, Any] = {
        "model": args.model,
        "corpus": str(args.corpus) if args.corpus else None,
        "command": "python training/evaluate_samples.py " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "sampling": {name: getattr(args, name) for name in ("seed", "bars", "temperature", "top_k", "top_p")},
        "libraries": library_versions(),
        "modes": {},
    }
    for mode in args.modes:
        samples = generate_and_check(generator, requests, mode, args)
        report["modes"][mode] = {
            **summarise_samples(samples),
            "by_genre": by_genre(samples),
            "requests": [describe(sample) for sample in samples],
        }
    text = markdown(report)
    json_path, markdown_path = write_report(args.output, report, text)
    print(text)
    print(f"written: {json_path} and {markdown_path}")


def training_conditions(corpus: Path, processor: MidiProcessor) -> dict[str, list[dict[str, Any]]]:
    """Conditions of the training songs by genre, read from their prefixes."""
    prefixes = (song.ids[: first_bar(song.ids, processor.bar_token_id)] for song in read_songs(corpus, "train"))
    return conditions_by_genre(processor.parse_conditions(prefix.tolist()) for prefix in prefixes)


def generate_and_check(
    generator: MidiGenerator, requests: list[Request], mode: str, args: argparse.Namespace
) -> list[CheckedSample]:
    """One sample per request, in a progress bar that counts samples and shows the bar being written."""
    samples = []
    with tqdm(requests, desc=mode.replace("_", " "), unit="sample") as progress:
        for i, request in enumerate(progress):
            output = generator.generate(
                **request.arguments(),
                temperature=args.temperature,
                top_k=args.top_k,
                top_p=args.top_p,
                constrain=MODES[mode],
                on_bar=lambda _, bar, total: progress.set_postfix_str(f"bar {bar} of {total}"),
            )[0]
            samples.append(check_sample(request, output, generator.processor, MODES[mode]))
            if args.save_midi:
                args.save_midi.mkdir(parents=True, exist_ok=True)
                generator.processor.save_midi(output.ids, args.save_midi / f"{mode}-{i:03d}-{request.genre}.mid")
    return samples


def describe(sample: CheckedSample) -> dict[str, Any]:
    """One sample in the report."""
    return {
        **sample.request.arguments(),
        "checks": sample.checks,
        "asked_heard": sample.asked_heard,
        "num_bars": sample.num_bars,
        "num_empty_bars": sample.num_empty_bars,
        "num_notes": sample.num_notes,
        "num_tokens": sample.num_tokens,
        "seconds": round(sample.seconds, 2),
        "error": sample.error,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as tables: checks by mode, then instruments and genres."""
    modes = report["modes"]
    titles = [mode.replace("_", " ") for mode in modes]
    rows = [[text, *(share(m["checks"][name]) for m in modes.values())] for name, text in CHECKS.items()]
    rows += [
        ["asked instruments that sound", *(share(m["asked_instruments_heard"]) for m in modes.values())],
        ["empty bars", *(share(m["empty_bars"]) for m in modes.values())],
        ["bars per sample", *(m["bars_per_sample"] for m in modes.values())],
        ["notes per bar", *(m["notes_per_bar"] for m in modes.values())],
        ["samples equal to another", *(m["duplicates"]["samples"] for m in modes.values())],
        [
            "equal pairs with one seed and two genres",
            *(
                f"{m['duplicates']['same_seed_other_genre_equal']} of {m['duplicates']['same_seed_other_genre_pairs']}"
                for m in modes.values()
            ),
        ],
        ["tokens per second", *(m["tokens_per_second"] for m in modes.values())],
    ]
    parts = [f"# Samples of {report['model']}\n", f"`{report['command']}`\n", markdown_table(["", *titles], rows)]
    families = sorted({family for m in modes.values() for family in m["by_instrument"]})
    rows = [[family, *(share(m["by_instrument"].get(family)) for m in modes.values())] for family in families]
    parts.append(markdown_table(["asked instrument sounds", *titles], rows))
    for mode, title in zip(modes.values(), titles):
        rows = [
            [
                genre,
                figures["samples"],
                *(share(figures["checks"][name]) for name in ("instruments", "no_other_instrument", "bars")),
                figures["notes_per_bar"],
            ]
            for genre, figures in mode["by_genre"].items()
        ]
        header = [f"{title}, by genre", "samples", "instruments", "no other instrument", "bars", "notes per bar"]
        parts.append(markdown_table(header, rows))
    return "\n".join(parts)


def share(figure: dict[str, Any] | None) -> str | None:
    """`93 of 100 (93 %)`; None where nothing was asked."""
    if figure is None or not figure["of"]:
        return None
    return f"{figure['count']} of {figure['of']} ({figure['count'] / figure['of']:.0%})"


if __name__ == "__main__":
    main()
