"""Melodies from an LSTM that writes a note, its duration, a note, ...: entropy and over-fitting by training epochs.

    OMP_NUM_THREADS=1 python training/note_experiment.py --midi build/data/sample/midi/openscore --stride 25 \\
        -o runs/notes

repeats the MIDI experiment of J. Roman Morales, "Redes recurrentes para el analisis de series temporales" (UAM, 2018),
on any folder of MIDI files (his were eleven Chopin sonata movements): one LSTM of 100 and one of 256 units on one-hot
tokens, windows of 50 tokens without carried state, dropout 0.3, a softmax at every step, Adam. After 1, 150 and 300
epochs each writes 30 melodies of 500 tokens; their entropy, conditional entropies and Fourier cross-correlation stand
beside those of the training set, of held-out files and the published ones. His windows began at every token; --stride
25 makes an epoch 25 times shorter, and the report says so.

The first instrument with pitches of each file is read; how notes become tokens is explained in
partimento.training.note_durations. `--forms series fused_two_hot two_heads` adds models that read and predict a note
and its duration at once (partimento.training.note_models); joining both in one vector did not work for him. His printed
generator feeds the probabilities back, not the drawn token:
`--feedback soft` does that.

Writes report.json, report.md, plot.png and melodies as MIDI. An interrupted run goes on from the last multiple of
--save-every epochs.
"""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from partimento.training.checkpointing import write_atomically
from partimento.training.experiment_recipes import parse_with_recipe
from partimento.training.metrics.overfitting import correlation_table
from partimento.training.note_durations import decode, encode, read_events, round_trip, save_midi
from partimento.training.note_measures import (
    findings,
    measure_set,
    melody_roll,
    notes_markdown,
    plot_notes,
)
from partimento.training.note_models import FORMS, Melodies, NoteSettings
from partimento.training.reports import write_report


def read_melodies(folder: Path, held_out: int, seed: int) -> Melodies:
    """All MIDI files below a folder; a seeded draw of them is held out.

    Raises:
        ValueError: too few files.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    if len(files) < held_out + 1:
        raise ValueError(f"{folder}: {len(files)} MIDI files are too few to hold out {held_out} of them")
    events = [read_events(file) for file in files]
    away = set(np.random.default_rng(seed).permutation(len(files))[:held_out].tolist())
    words = [encode(piece) for piece in events]
    symbols = tuple(sorted({word for piece in words for word in piece}))
    number = {symbol: i for i, symbol in enumerate(symbols)}
    ids = [np.array([number[word] for word in piece], dtype=np.int64) for piece in words]
    kept = [round_trip(piece) for piece in events]
    total = sum(trip["events"] for trip in kept)
    training = [piece for i, piece in enumerate(ids) if i not in away]
    facts = {
        "folder": str(folder),
        "pieces": len(files),
        "held_out": held_out,
        "tokens": sum(map(len, training)),
        "alphabet": len(symbols),
        "sha256": hashlib.sha256(" ".join(word for piece in words for word in piece).encode()).hexdigest(),
        "round_trip": {
            key: sum(trip[key] * trip["events"] for trip in kept) / total
            for key in ("pitches_kept", "durations_kept", "length")
        },
    }
    return Melodies(symbols, training, [ids[i] for i in sorted(away)], facts)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--midi", type=Path, required=True, help="folder of MIDI files")
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 256], help="units (default: 100 256)")
    parser.add_argument(
        "--forms",
        nargs="+",
        default=["series"],
        choices=list(FORMS),
        help="how a note meets its duration (default series)",
    )
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[1, 150, 300], help="when to write (default: 1 150 300)"
    )
    parser.add_argument("--stride", type=int, default=25, help="tokens between windows (default 25; 1 was published)")
    parser.add_argument("--held-out", type=int, default=1, help="files held out (default 1)")
    parser.add_argument("--melodies", type=int, default=30, help="melodies of each model (default 30)")
    parser.add_argument("--tokens", type=int, default=500, help="tokens of a melody (default 500)")
    parser.add_argument("--correlate", type=int, default=10, help="melodies that are correlated (default 10; 0: none)")
    parser.add_argument("--feedback", choices=("sample", "soft"), default="sample", help="what is read next")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default 0)")
    parser.add_argument(
        "--save-every", type=int, default=25, metavar="EPOCHS", help="how often a run is saved (default 25)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs and report")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_with_recipe(make_parser(), argv, "note_experiment")
    try:
        experiment(options, sys.argv[1:] if argv is None else list(argv))
    except (ValueError, OSError) as error:
        print(f"note_experiment.py: {error}", file=sys.stderr)
        return 2
    return 0


def experiment(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Train what is not trained, write melodies at the marks, then measure and report."""
    numbers = [*options.hidden, *options.epochs, options.stride, options.melodies, options.save_every, options.tokens]
    if min(numbers) < 1 or options.tokens < 10:
        raise ValueError(
            "--hidden, --epochs, --stride, --melodies, --save-every: give positive numbers; --tokens 10 or more"
        )
    settings = NoteSettings(stride=options.stride, feedback=options.feedback, seed=options.seed)
    melodies = read_melodies(options.midi, options.held_out, options.seed)
    folder = options.output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    identity = {**asdict(settings), "sha256": melodies.facts["sha256"], "held_out": options.held_out}
    check_identity(options.output / "settings.json", {**identity, "write": [options.melodies, options.tokens]})
    marks = sorted(set(options.epochs))
    generated: dict[str, list[np.ndarray]] = {}
    runs: dict[str, Any] = {}
    models = [FORMS[form](hidden, settings, melodies, folder) for form in options.forms for hidden in options.hidden]
    with tqdm(total=len(models) * marks[-1], unit="epoch") as progress:
        for run in models:
            progress.set_description(run.title)
            progress.update(len(run.losses))
            for epoch in marks:
                file = folder / f"{run.name}-epoch-{epoch}.json"
                if not file.is_file():
                    if len(run.losses) > epoch:
                        raise ValueError(f"{run.path} is already beyond epoch {epoch}: give another --output")
                    run.train_to(epoch, options.save_every, progress)
                    write_atomically(file, json.dumps(run.write_melodies(options.melodies, options.tokens)))
                name = f"{run.title}, epoch {epoch}"
                generated[name] = [np.array(ids) for ids in json.loads(file.read_text(encoding="utf-8"))]
                target = options.output / f"{run.name}-epoch-{epoch}.mid"
                save_midi(decode([melodies.symbols[i] for i in generated[name][0]]), target)
            runs[run.title] = {
                "form": run.form,
                "hidden": run.hidden,
                "parameters": run.model.num_free_parameters(),
                "held_out_nats": run.held_out_nats(),
                "minutes": run.seconds / 60,
                "losses": run.losses,
            }
    report = make_report(options, settings, melodies, generated, runs)
    report["command"] = f"python training/note_experiment.py {shlex.join(command)}"
    text = notes_markdown(report)
    plot_notes(report, options.output / "plot.png")
    write_report(options.output / "report.json", report, text)
    print(text)


def make_report(
    options: argparse.Namespace,
    settings: NoteSettings,
    melodies: Melodies,
    generated: dict[str, list[np.ndarray]],
    runs: dict[str, Any],
) -> dict[str, Any]:
    """Measure all sets of melodies."""
    sets = {"training": windows_of(melodies.training, options.melodies, options.tokens, options.seed)}
    if held_out := windows_of(melodies.held_out, options.melodies, options.tokens, options.seed):
        sets["held-out"] = held_out
    sets |= generated
    if not sets["training"]:
        raise ValueError(f"--tokens {options.tokens}: no training piece is so long")
    correlation = None
    if options.correlate:
        rolls = {
            name: [melody_roll(ids, melodies.symbols) for ids in some[: options.correlate]]
            for name, some in generated.items()
        }
        training, away = (
            [melody_roll(ids, melodies.symbols) for ids in some] for some in (melodies.training, melodies.held_out)
        )
        correlation = correlation_table(training, away * options.correlate, rolls, options.seed)
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "corpus": melodies.facts,
        "runs": runs,
        "epochs": sorted(set(options.epochs)),
        "melodies": options.melodies,
        "tokens": options.tokens,
        "sets": {name: measure_set(some, melodies.training, melodies.symbols) for name, some in sets.items()},
        "correlation": correlation,
    }
    report["findings"] = findings(report)
    return report


def windows_of(pieces: list[np.ndarray], count: int, tokens: int, seed: int) -> list[np.ndarray]:
    """`count` seeded windows of equal length, each inside one piece; none where all pieces are shorter."""
    long_enough = [piece for piece in pieces if len(piece) >= tokens]
    rng = np.random.default_rng(seed)
    if not long_enough:
        return []
    room = np.array([len(piece) - tokens + 1 for piece in long_enough])
    chosen = rng.choice(len(long_enough), size=count, p=room / room.sum())
    starts = [int(rng.integers(room[piece])) // 2 * 2 for piece in chosen]  # at a note, as the melodies
    return [long_enough[piece][start : start + tokens] for piece, start in zip(chosen, starts)]


def check_identity(path: Path, wanted: dict[str, Any]) -> None:
    """Write the settings of a new folder; refuse runs of other settings beside those of an old one."""
    if not path.is_file():
        write_atomically(path, json.dumps(wanted, indent=1))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if different := sorted(key for key in wanted if before.get(key) != wanted[key]):
        raise ValueError(f"{path.parent}: its runs differ in {', '.join(different)}; give another --output")


if __name__ == "__main__":
    sys.exit(main())
