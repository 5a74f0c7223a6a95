"""Draw the learning curves of a run from its log alone.

python training/plot_curves.py runs/small/log.jsonl -o curves.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.run_log import read_log

SMOOTHING_WINDOWS = 100  # the training loss is averaged over this share of the run


def plot_curves(log: str | Path, image: str | Path) -> None:
    """Write a PNG with loss, gradient norm, learning rate and speed over the updates.

    Raises:
        ValueError: the log holds neither training nor validation lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = list(read_log(log))
    train = [entry for entry in entries if entry["kind"] == "train"]
    validation = [entry for entry in entries if entry["kind"] == "validation"]
    if not train and not validation:
        raise ValueError(f"{log}: no training and no validation lines to draw")
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    updates, losses = column(train, "loss")
    loss_axis = axes[0, 0]
    loss_axis.plot(updates, losses, color="0.8", linewidth=0.7)
    loss_axis.plot(updates, smooth(losses), label="training")
    loss_axis.plot(*column(validation, "nll"), marker="o", markersize=3, label="validation")
    if any("average_nll" in entry for entry in validation):
        loss_axis.plot(
            *column(validation, "average_nll"), marker="o", markersize=3, label="validation, averaged weights"
        )
    finite = losses[np.isfinite(losses)]
    if len(finite) > 20:
        loss_axis.set_ylim(top=float(np.quantile(finite, 0.99)) * 1.05)
    loss_axis.set_ylabel("nats per token")
    loss_axis.legend()
    for axis, key, label in (
        (axes[0, 1], "norm", "gradient norm before clipping"),
        (axes[1, 0], "lr", "learning rate"),
        (axes[1, 1], "tokens_per_second", "tokens per second"),
    ):
        axis.plot(*column(train, key), linewidth=0.8)
        axis.set_ylabel(label)
    if train:
        axes[0, 1].set_yscale("log")
    for axis in axes.flat:
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    figure.savefig(image, dpi=110)


def column(entries: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (updates, values) of the entries that have the key; text such as "nan" becomes a number again."""
    pairs = [(entry["update"], float(entry[key])) for entry in entries if key in entry]
    return np.array([p[0] for p in pairs], dtype=float), np.array([p[1] for p in pairs], dtype=float)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean over a hundredth of the run, centred."""
    width = max(1, len(values) // SMOOTHING_WINDOWS)
    if width == 1:
        return values
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="log.jsonl of a run of train.py")
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="picture (default curves.png)")
    options = parser.parse_args(argv)
    try:
        plot_curves(options.log, options.output)
    except (ValueError, OSError) as error:
        print(f"plot_curves.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
