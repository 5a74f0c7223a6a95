"""How much must a code hold to bring music back? Train one MusicVAE recipe at several weights of the KL term.

    OMP_NUM_THREADS=1 python training/rate_distortion.py --corpus build/grids -o runs/rate-distortion

trains training/recipes/musicvae-mel-2bar-small-open.yaml for 2,000 updates at every pair of --betas and --free-bits
(and every --z-sizes), and, for the same number of updates on the same windows, the *reference*: the paper's recipe for
two bars, beta 0.2 * (1 - 0.99999^s), 48 free bits, learning rate 1e-5 + (1e-3 - 1e-5) * 0.9999^s (Roberts et al. 2018).
About ten minutes a point on one core. A look at whether all steps work, in two minutes:

    python training/rate_distortion.py --corpus build/grids -o build/rd --updates 30 --betas 0.2 --free-bits 0 \\
        --windows 64 --set train.warmup_updates=5 train.cooldown_updates=5 grids.validation_windows=64

Each point is a training and an evaluation of its own, skipped when it is done and resumed when it was interrupted: give
the same command again, also to add points. Writes OUTPUT/rate_distortion.json, .md and .png: per point KL bits, nats
per step, accuracies of steps with and without an event, F1 of notes or hits, active units and overlap of prior samples;
and how the other points compare with the reference at its number of bits, on straight lines between them. So few
updates are made that the reference's beta hardly rises: a small beta is among the others to stand beside it.
"""

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from partimento.training.arguments import load_arguments
from partimento.training.comparison_runs import Step, keep_identity, run_step
from partimento.training.grid_songs_store import shards
from partimento.training.reports import library_versions, markdown_table, write_report

FOLDER = Path(__file__).parent
RECIPE = FOLDER / "recipes" / "musicvae-mel-2bar-small-open.yaml"
REFERENCE = "reference"
SCHEDULED_SAMPLING_FROM = 6000  # updates before which the reference feeds back less than 1 % of its samples (k = 2000)


class Point(NamedTuple):
    """One setting of the objective, and the overrides of the recipe that make it."""

    name: str
    beta: float
    free_bits: float
    z_size: int | None
    overrides: tuple[str, ...]


def make_point(beta: float, free_bits: float, z_size: int | None, gamma: float = 0.999) -> Point:
    """A point with the recipe's learning rate."""
    name = f"beta{beta:g}-free{free_bits:g}" + (f"-z{z_size}" if z_size else "")
    return Point(name, beta, free_bits, z_size, objective(beta, free_bits, z_size, gamma))


def reference_point(updates: int) -> Point:
    """The paper's recipe for two bars."""
    overrides = (
        *objective(0.2, 48, None, 0.99999),
        "train.lr_schedule=exponential", "train.lr_gamma=0.9999", "train.warmup_updates=0", "train.cooldown_updates=0",
    )  # fmt: skip
    if updates > SCHEDULED_SAMPLING_FROM:
        overrides += ("schedules.sampling_probability={kind: inverse_sigmoid, k: 2000}",)
    return Point(REFERENCE, 0.2, 48, None, overrides)


def objective(beta: float, free_bits: float, z_size: int | None, gamma: float) -> tuple[str, ...]:
    """Overrides that set the objective."""
    config = {"max_beta": beta, "free_bits": free_bits} | ({"z_size": z_size} if z_size else {})
    return (
        f"model.config={json.dumps(config)}",
        f"schedules.beta={json.dumps({'kind': 'saturating', 'max': beta, 'gamma': gamma})}",
        f"validation_values.beta={beta}",
    )


def training(point: Point, folder: Path, args: argparse.Namespace) -> Step:
    """The training of a point; a setting of --set goes before the point's own."""
    shared = [f"train.max_updates={args.updates}", "train.max_minutes=0", f"train.seed={args.seed}"]
    shared += [f"train.output={folder}", f"grids.corpus={args.corpus}", *args.overrides]
    arguments = ("--config", str(args.recipe), "--resume", "auto", "--set", *shared, *point.overrides)
    return Step("training", folder / "final" / "model.safetensors", "train.py", arguments)


def evaluation(folder: Path, args: argparse.Namespace) -> Step:
    """The evaluation of a trained point."""
    grids = load_arguments(args.recipe).grids
    arguments = ["--model", str(folder / "final"), "--corpus", str(args.corpus), "--split", args.split]
    arguments += ["--windows", str(args.windows), "--min-onsets", str(grids.min_onsets), "--no-pictures"]
    arguments += ["--max-dropped-share", str(grids.max_dropped_share), "-o", str(folder / "evaluation.json")]
    return Step("evaluation", folder / "evaluation.json", "evaluate_musicvae.py", tuple(arguments))


def summarise(point: Point, report: dict[str, Any]) -> dict[str, Any]:
    """One row of the table; accuracies, F1 and overlaps are means over tracks."""
    modes, tracks = report["reconstruction"], report["tracks"]

    def mean(mode: str, figure: str) -> float:
        return float(np.mean([modes[mode][track][figure] for track in tracks]))

    f1 = [modes["free_argmax_mu"][t]["hit_f1" if t == "drums" else "onset_pitch_f1"] for t in tracks]
    return {
        "point": point.name,
        "beta": point.beta,
        "free_bits": point.free_bits,
        "z_size": point.z_size or "preset",
        "kl_bits": report["latent"]["kl_bits"],
        "nats_per_step": float(np.sum(list(report["likelihood"]["nats_per_step"].values()))),
        "teacher_forced": mean("teacher_forced", "accuracy"),
        "free": mean("free_argmax_mu", "accuracy"),
        "free_event": mean("free_argmax_mu", "event_accuracy"),
        "free_no_event": mean("free_argmax_mu", "no_event_accuracy"),
        "always_no_event": mean("always_no_event", "accuracy"),
        "note_f1": float(np.mean(f1)),
        "active_units": report["latent"]["active_by_sigma"],
        "shuffled_gap": report["latent"]["shuffled_nll_gap"],
        "prior_overlap": float(np.mean([list(report["prior_overlap"][track].values()) for track in tracks])),
    }


def against_reference(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the other points reach at the reference's KL, on straight lines between neighbours by KL; None if no two do.

    Differences are those of the others minus the reference: fewer nats and more F1 are better.
    """
    reference = next(row for row in rows if row["point"] == REFERENCE)
    others = sorted((row for row in rows if row["point"] != REFERENCE), key=lambda row: row["kl_bits"])
    bits = [row["kl_bits"] for row in others]
    if not bits or not bits[0] <= reference["kl_bits"] <= bits[-1]:
        return None
    result: dict[str, Any] = {"kl_bits": reference["kl_bits"]}
    for figure in ("nats_per_step", "free", "free_event", "note_f1"):
        reached = float(np.interp(reference["kl_bits"], bits, [row[figure] for row in others]))
        result[figure] = {"reference": reference[figure], "others": reached, "difference": reached - reference[figure]}
    return result


def to_markdown(report: dict[str, Any]) -> str:
    """The table, and the comparison in a sentence."""
    rows = sorted(report["rows"], key=lambda row: row["kl_bits"])
    columns = [name for name in rows[0] if name not in ("beta", "free_bits", "z_size")]
    text = (
        f"# Rate and distortion\n\n{report['updates']:,} updates of {report['recipe']} a point, seed {report['seed']}; "
        f"{report['windows']:,} windows of the {report['split']} split. `free`: emitted from the posterior mean, "
        "likeliest ids.\n\n"
    )
    text += markdown_table([name.replace("_", " ") for name in columns], [[row[c] for c in columns] for row in rows])
    found = report["against_reference"]
    if found is None:
        return (
            text + "\nThe reference's KL lies outside of that of the other points: nothing can be said at equal bits.\n"
        )
    nats, notes = found["nats_per_step"], found["note_f1"]
    return text + (
        f"\nAt the reference's {found['kl_bits']:.1f} bits the other points reach {nats['others']:.3f} nats per step "
        f"({nats['difference']:+.3f}) and a note F1 of {notes['others']:.3f} ({notes['difference']:+.3f}).\n"
    )


def plot(report: dict[str, Any], path: Path) -> None:
    """Nats per step and note F1 against KL bits."""
    from partimento.training.musicvae_plots import new_figure, save

    figure = new_figure(10, 4)
    axes = figure.subplots(1, 2)
    for axis, key, label in zip(axes, ("nats_per_step", "note_f1"), ("nats per step", "F1 of notes, from the code")):
        for free_bits in sorted({row["free_bits"] for row in report["rows"] if row["point"] != REFERENCE}):
            rows = [row for row in report["rows"] if row["free_bits"] == free_bits and row["point"] != REFERENCE]
            rows.sort(key=lambda row: row["kl_bits"])
            bits, values = [row["kl_bits"] for row in rows], [row[key] for row in rows]
            axis.plot(bits, values, marker="o", markersize=4, label=f"{free_bits:g} free bits")
            for row in rows:
                axis.annotate(f"β {row['beta']:g}", (row["kl_bits"], row[key]), fontsize=7, xytext=(4, 4),
                              textcoords="offset points")  # fmt: skip
        reference = next(row for row in report["rows"] if row["point"] == REFERENCE)
        axis.plot([reference["kl_bits"]], [reference[key]], marker="*", markersize=13, color="black",
                  linestyle="none", label="reference recipe")  # fmt: skip
        axis.set(xlabel="KL, bits", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save(figure, path)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder made by prepare_grids.py")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help=f"default: {RECIPE.name}")
    parser.add_argument("--updates", type=int, default=2000, help="of every point, the reference too (default 2000)")
    betas = [0.0005, 0.005, 0.05, 0.2]
    parser.add_argument("--betas", type=float, nargs="+", default=betas, help="default 0.0005 ... 0.2")
    parser.add_argument("--free-bits", type=float, nargs="+", default=[0, 48], help="default 0 48")
    parser.add_argument("--z-sizes", type=int, nargs="+", default=[], help="latent sizes (default: the preset's)")
    parser.add_argument("--windows", type=int, default=1024, help="held-out windows of the evaluation; 0: all")
    parser.add_argument(
        "--split",
        default="validation",
        choices=("validation", "test"),
        help="songs that are measured (default validation)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and windows (default 0)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="GROUP.KEY=VALUE", dest="overrides",
        help="changes to every point, as in train.py",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of all points and of the report")
    return parser


def run(args: argparse.Namespace, command: Sequence[str]) -> None:
    """Do what is not done, then write and print the report."""
    shards(args.corpus, "train")
    grid = itertools.product(args.betas, args.free_bits, args.z_sizes or [None])
    points = [reference_point(args.updates), *(make_point(*values) for values in grid)]
    for point in points:
        load_arguments(args.recipe, training(point, args.output / point.name, args).arguments[5:])
    identity = {
        "corpus": str(args.corpus), "updates": args.updates, "seed": args.seed, "overrides": args.overrides,
        "evaluation": [args.split, args.windows],
        "recipes": {args.recipe.name: yaml.safe_load(args.recipe.read_text(encoding="utf-8"))},
    }  # fmt: skip
    keep_identity(args.output, identity)
    rows = []
    for number, point in enumerate(points, start=1):
        folder = args.output / point.name
        for step in (training(point, folder, args), evaluation(folder, args)):
            if not step.done.exists():
                print(f"[{number} of {len(points)}] {point.name}: {step.title}", file=sys.stderr)
                run_step(step)
        rows.append(summarise(point, json.loads((folder / "evaluation.json").read_text())))
    report = {
        "command": "python training/rate_distortion.py " + shlex.join(command),
        "recipe": args.recipe.stem,
        "updates": args.updates,
        "seed": args.seed,
        "split": args.split,
        "windows": json.loads((args.output / REFERENCE / "evaluation.json").read_text())["windows"],
        "rows": rows,
        "against_reference": against_reference(rows),
        "libraries": library_versions(),
    }
    text = to_markdown(report)
    paths = write_report(args.output / "rate_distortion.json", report, text)
    plot(report, args.output / "rate_distortion.png")
    print(f"{text}\nwritten: {', '.join(map(str, paths))} and {args.output / 'rate_distortion.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; return the exit status."""
    args = make_parser().parse_args(argv)
    try:
        run(args, sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError) as error:
        print(f"rate_distortion.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rate_distortion.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
