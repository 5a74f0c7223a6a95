"""Learning curves by the amount of data: one recipe on 10, 30 and 100 % of the training songs.

    OMP_NUM_THREADS=1 python training/learning_curves.py --corpus build/corpus --recipe comparison-lstm \\
        --tokens 3_000_000 -o runs/learning-curves

Each share of the songs is trained on for the same number of tokens, so that a small one is read several times; the
validation songs are the same for all. Where the training loss leaves the validation loss behind, data is what is
missing; where both stay together and fall, training is. The training loss is that of the updates, with the recipe's
dropout and transpositions, and therefore above what the same model would score without them.

The parts are runs of train.py and go on after an interruption. Writes learning_curves.json, .md and .png.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from partimento.training.arguments import load_arguments
from partimento.training.comparison_runs import keep_identity, run_step, training_step
from partimento.training.plot_curves import column
from partimento.training.reports import library_versions, markdown_table, write_report
from partimento.training.run_log import read_log
from partimento.training.songs import split_files

RECIPES = Path(__file__).parent / "recipes"
LAST = 0.1  # share of the updates over which the training loss of the end is averaged
COLUMNS = {
    "songs": "songs",
    "passes": "passes",
    "train": "training, nats per token",
    "validation": "validation",
    "best": "validation, lowest",
    "gap": "validation less training",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by prepare_data.py")
    parser.add_argument(
        "--recipe", default="comparison-lstm", help="name of a recipe of train.py, or a file (default comparison-lstm)"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="of the training songs")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="training tokens of each (default 3,000,000)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="GROUP.KEY=VALUE", dest="overrides",
        help="changes to the recipe, as in train.py",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of weights and crops (default 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs and the report")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(argv)
    try:
        run(options, sys.argv[1:] if argv is None else list(argv))
    except (ValueError, OSError) as error:
        print(f"learning_curves.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("learning_curves.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Train on every share that is not done, then report."""
    if not all(0 < share <= 1 for share in options.shares) or options.tokens < 1:
        raise ValueError(f"--shares {options.shares} must be in (0, 1] and --tokens {options.tokens} positive")
    recipe = Path(options.recipe)
    recipe = recipe if recipe.suffix in (".yaml", ".yml") else RECIPES / f"{options.recipe}.yaml"
    split = load_arguments(recipe, options.overrides).data.train_split
    total = sum(pq.read_metadata(file).num_rows for file in split_files(options.corpus, split))
    settings = {"corpus": str(options.corpus), "overrides": options.overrides, "tokens": options.tokens}
    recipes = {recipe.stem: yaml.safe_load(recipe.read_text(encoding="utf-8"))}
    keep_identity(options.output, {**settings, "seed": options.seed, "recipes": recipes})
    rows = []
    for share in sorted(set(options.shares)):
        songs = max(1, round(share * total))
        folder = options.output / f"{recipe.stem}-{songs}-songs"
        overrides = [*options.overrides, f"train.max_tokens={options.tokens}", f"data.train_songs={songs}"]
        step = training_step(recipe, folder, options.corpus, options.seed, overrides)
        if not step.done.exists():
            print(f"{share:.0%}: {songs:,} of {total:,} songs", file=sys.stderr)
            run_step(step)
        rows.append({"share": share, "songs": songs, **read_curves(folder)})
    report = {
        "command": f"python training/learning_curves.py {shlex.join(command)}",
        "recipe": recipe.stem,
        **settings,
        "seed": options.seed,
        "libraries": library_versions(),
        "shares": rows,
    }
    text = to_markdown(report)
    plot(report, options.output / "learning_curves.png")
    write_report(options.output / "learning_curves.json", report, text)
    print(text)


def read_curves(folder: Path) -> dict[str, Any]:
    """Losses of a run by training tokens, and what they are at its end.

    Raises:
        ValueError: a log without training or validation lines.
    """
    entries = list(read_log(folder / "log.jsonl"))
    train = [entry for entry in entries if entry["kind"] == "train"]
    validation = [entry for entry in entries if entry["kind"] == "validation"]
    if not train or not validation:
        raise ValueError(f"{folder}/log.jsonl: no training or no validation lines")
    updates, losses = column(train, "loss")
    seen = column(train, "tokens_seen")[1]
    places, costs = column(validation, "nll")
    last = losses[updates > updates[-1] * (1 - LAST)]
    return {
        "passes": float(train[-1].get("epoch", 0)),
        "train": float(last.mean()),
        "validation": float(costs[-1]),
        "best": float(costs.min()),
        "gap": float(costs[-1] - last.mean()),
        "train_curve": [seen.tolist(), losses.tolist()],
        "validation_curve": [np.interp(places, [0, *updates], [0, *seen]).tolist(), costs.tolist()],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    rows = [[f"{row['share']:.0%}", *(row[key] for key in COLUMNS)] for row in report["shares"]]
    return (
        f"# Learning curves by the amount of data: {report['recipe']}\n\n`{report['command']}`\n\n"
        f"{report['tokens']:,} training tokens each, seed {report['seed']}. Training: mean over the last tenth of the "
        "updates, with dropout and augmentation; passes: finished ones.\n\n"
        f"{markdown_table(['training songs', *COLUMNS.values()], rows)}\n![curves](learning_curves.png)\n"
    )


def plot(report: dict[str, Any], image: Path) -> None:
    """Training (thin) and validation loss by tokens for every share, and the losses of the end by share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rows = report["shares"]
    for number, row in enumerate(rows):
        tokens, losses = row["train_curve"]
        left.plot(tokens, losses, color=f"C{number}", linewidth=0.5, alpha=0.6)
        tokens, losses = row["validation_curve"]
        left.plot(tokens, losses, color=f"C{number}", marker="o", markersize=3, label=f"{row['songs']:,} songs")
    left.set(xlabel="training tokens", ylabel="nats per token", title="training (thin) and validation")
    for key in ("train", "validation", "best"):
        right.plot([row["songs"] for row in rows], [row[key] for row in rows], marker="o", label=COLUMNS[key])
    right.set(xscale="log", xlabel="training songs", title="at the end")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
