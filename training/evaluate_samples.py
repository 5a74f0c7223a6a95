"""Does a model write what it is asked for, and is what it writes new? Samples over all its genres, measured.

    python training/evaluate_samples.py --model museformer-small -n 100 --bars 16 --seed 0 -o build/samples.json
    python training/evaluate_samples.py --model museformer-small --corpus build/corpus --bars 64 -o build/long.json

Each request asks for a genre, instruments, a number of bars, a tempo and, every second time, a key. With `--corpus`
instruments, tempo and key are those of a random training song of the genre. Two figures for each check: as the
command generates (instruments, tempo and bars are constraints of the sampler), and by conditions only, where nothing
but the grammar is imposed and the model's own obedience shows.

With `--corpus` the samples are also compared with all training songs:

    L_t         mean similarity of bars that are t bars apart, t = 1 … 40 or as far as the samples reach
    SE          similarity error: mean of |L_t of the samples - L_t of the training songs|, in percentage points
    copies      the longest span of each sample that stands in a training song, in tokens and, transposed, in notes
    figures     pitch-class entropy, scale and groove consistency, polyphony, empty bars, density; Fréchet distance

and so are held-out songs cut to the same number of bars, the figures that samples should be held against. SE says
little for short samples: ask for 64 bars or more.

Each sample is on disk (OUTPUT with the ending .jsonl) as soon as it is finished: after an interruption the same command
goes on behind it, and a larger -n adds to what is there. Writes JSON and, beside it, Markdown and the plot (.png).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from partimento.pipelines import MidiGenerator
from partimento.tokenization import MidiProcessor
from partimento.training.devices import choose_device
from partimento.training.form_comparison import compare_with_training
from partimento.training.form_report import SKYLINE, form_markdown, measure_form, plot_form
from partimento.training.likelihood_store import weights_fingerprint
from partimento.training.metrics.notes import Notes
from partimento.training.ngram_lm import load_generator, ngram_order
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
from partimento.training.sample_store import SampleStore, StoredSample
from partimento.training.songs import Song, corpus_vocab_hash, first_bar, read_songs

MODES = {"constrained": True, "conditions_only": False}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="model folder, Hub id, embedded checkpoint, or 5-gram for an n-gram model"
    )
    parser.add_argument("--corpus", type=Path, help="folder written by prepare_data.py: ask for what its songs have")
    parser.add_argument(
        "--ngram-tokens", type=int, metavar="N", help="training tokens of the n-gram model (default: all)"
    )
    parser.add_argument(
        "--only-checks", action="store_true", help="leave out the comparison with the training songs of --corpus"
    )
    parser.add_argument("-n", "--num-samples", type=int, default=100, help="samples in each mode (default 100)")
    parser.add_argument("--bars", type=int, default=16, help="bars of each sample (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests and of the sampler (default 0)")
    parser.add_argument("--key-share", type=float, default=0.5, help="share of requests that ask for a key")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=list(MODES),
        default=list(MODES),
        help="constrained: what is asked is forced; conditions_only: the model is only told (default: both)",
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampler (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="likeliest tokens kept; 0 keeps all (default)")
    parser.add_argument("--top-p", type=float, default=0.95, help="probability kept (default 0.95)")
    parser.add_argument(
        "--melody",
        nargs="+",
        default=[SKYLINE],
        metavar="FAMILY",
        help='instrument families that are the melody track of L_t and SE; default "skyline": the highest notes',
    )
    parser.add_argument(
        "--held-out", type=int, metavar="N", help="validation songs beside the samples (default: as many)"
    )
    parser.add_argument("--device", help="default: the first GPU when there is one, else the CPU")
    parser.add_argument("--save-midi", type=Path, help="folder for the generated files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; Markdown goes beside it")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        evaluate(args, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError) as error:
        print(f"evaluate_samples.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate_samples.py: interrupted; the same command goes on behind the last sample", file=sys.stderr)
        return 130
    return 0


def evaluate(args: argparse.Namespace, command: list[str]) -> None:
    """Generate what is missing, then measure, write and print the report."""
    check_arguments(args)
    json_path, _ = report_paths(args.output)
    training = read_songs(args.corpus, "train") if args.corpus else []
    generator = load_generator(args.model, choose_device(args.device), args.corpus, args.ngram_tokens, args.seed)
    processor = generator.processor
    if args.corpus:
        check_vocabulary(processor, args.corpus, args.model)
    table = training_conditions(training, processor)
    genres = processor.labels("genre")
    requests = plan_requests(genres, args.num_samples, args.bars, args.seed, table, args.key_share)
    identity = {
        "weights": weights_fingerprint(generator.model),
        **({"ngram": [args.model, args.ngram_tokens, args.seed]} if ngram_order(args.model) else {}),
        "vocabulary": processor.vocab_hash,
        **{name: getattr(args, name) for name in ("temperature", "top_k", "top_p")},
    }
    store = SampleStore(json_path.with_suffix(".jsonl"), identity)
    report: dict[str, Any] = {
        "model": args.model,
        "corpus": str(args.corpus) if args.corpus else None,
        "command": "python training/evaluate_samples.py " + " ".join(command),
        "weights": identity["weights"],
        "sampling": {name: getattr(args, name) for name in ("seed", "bars", "temperature", "top_k", "top_p")},
        "libraries": library_versions(),
        "modes": {},
    }
    pieces: dict[str, list[tuple[np.ndarray, Notes]]] = {}
    for mode in args.modes:
        samples = generate_and_check(generator, requests, mode, args, store)
        report["modes"][mode] = {
            **summarise_samples(samples),
            "by_genre": by_genre(samples),
            "requests": [describe(sample) for sample in samples],
        }
        pieces[mode] = [
            (np.array(sample.body), Notes.from_ids(sample.body, processor)) for sample in samples if is_music(sample)
        ]
    image = json_path.with_suffix(".png")
    if args.corpus and not args.only_checks:
        report["form"] = compare_with_training(
            pieces,
            training,
            processor,
            args.corpus,
            bars=args.bars,
            num_held_out=args.num_samples if args.held_out is None else args.held_out,
            melody=args.melody,
            seed=args.seed,
        )
        json_path.parent.mkdir(parents=True, exist_ok=True)
        plot_form(report["form"], image)
    text = markdown(report)
    json_path, markdown_path = write_report(args.output, report, text)
    print(text)
    print(f"written: {json_path}, {markdown_path}, {store.path}" + (f" and {image}" if report.get("form") else ""))


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse impossible values before a model is loaded."""
    report_paths(args.output)
    limits = {
        "num-samples": (args.num_samples, 1, 1_000_000),
        "bars": (args.bars, 1, 256),
        "key-share": (args.key_share, 0, 1),
        "temperature": (args.temperature, 0, 100),
        "top-p": (args.top_p, 0, 1),
        "held-out": (args.held_out or 0, 0, 1_000_000),
    }
    for name, (value, lowest, highest) in limits.items():
        if not lowest <= value <= highest:
            raise ValueError(f"--{name} {value}: give a value from {lowest} to {highest:,}")
    if args.output.with_suffix(".jsonl") == args.output:
        raise ValueError(f"--output {args.output}: this is the name of the samples; end the report's in .json")
    measure_form([], args.melody)
    choose_device(args.device)


def check_vocabulary(processor: MidiProcessor, corpus: Path, model: str) -> None:
    """Refuse a corpus of other tokens: no copy would ever be found."""
    stored = corpus_vocab_hash(corpus, "train")
    if stored not in (None, processor.vocab_hash):
        raise ValueError(
            f"{corpus} has the vocabulary {stored}, {model} has {processor.vocab_hash}; a corpus for a model that was "
            "trained on another one is made by prepare_data.py --processor FOLDER_OF_THE_MODEL"
        )


def is_music(sample: CheckedSample) -> bool:
    """Whether the sample decodes to notes at all."""
    return bool(sample.checks["decodes"]) and sample.num_notes > 0


def training_conditions(songs: list[Song], processor: MidiProcessor) -> dict[str, list[dict[str, Any]]]:
    """Conditions of the training songs by genre, read from their prefixes."""
    prefixes = (song.ids[: first_bar(song.ids, processor.bar_token_id)] for song in songs)
    return conditions_by_genre(processor.parse_conditions(prefix.tolist()) for prefix in prefixes)


def generate_and_check(
    generator: MidiGenerator, requests: list[Request], mode: str, args: argparse.Namespace, store: SampleStore
) -> list[CheckedSample]:
    """One sample per request, in a progress bar that counts samples and shows the bar being written."""
    samples = []
    with tqdm(requests, desc=mode.replace("_", " "), unit="sample") as progress:
        for i, request in enumerate(progress):
            stored = store.get(mode, i, request.arguments())
            if stored is None:
                output = generator.generate(
                    **request.arguments(),
                    temperature=args.temperature,
                    top_k=args.top_k,
                    top_p=args.top_p,
                    constrain=MODES[mode],
                    on_bar=lambda _, bar, total: progress.set_postfix_str(f"bar {bar} of {total}"),
                )[0]
                stored = StoredSample(output.ids, output.seconds, output.complete, output.transposed)
                store.add(mode, i, request.arguments(), stored)
            samples.append(check_sample(request, stored, generator.processor, MODES[mode]))
            if args.save_midi and samples[-1].checks["decodes"]:
                file = args.save_midi / f"{mode}-{i:03d}-{request.genre}.mid"
                if not file.is_file():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    generator.processor.save_midi(stored.ids, file)
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
    if report.get("form"):
        parts.append(form_markdown(report["form"]))
    return "\n".join(parts)


def share(figure: dict[str, Any] | None) -> str | None:
    """`93 of 100 (93 %)`; None where nothing was asked."""
    if figure is None or not figure["of"]:
        return None
    return f"{figure['count']} of {figure['of']} ({figure['count'] / figure['of']:.0%})"


if __name__ == "__main__":
    sys.exit(main())
