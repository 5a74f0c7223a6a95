"""Pictures of the latent laboratory. Music is drawn with time to the right and pitch (or drum class) upwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

MOST_LABELS = 20  # that a legend holds


def picture(item: np.ndarray, is_music: bool) -> np.ndarray:
    """An item `[steps, width]` or `[rows, columns]` as an image `[rows, columns]`."""
    item = np.asarray(item, np.float32)
    return item.T[::-1] if is_music else item


def mosaic(items: np.ndarray, columns: int, is_music: bool, border: float = 0.5) -> np.ndarray:
    """Items `[n, ...]` side by side, `columns` in a row, with a line of grey between them."""
    pictures = [picture(item, is_music) for item in items]
    height, width = pictures[0].shape
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), border, np.float32)
    for i, image in enumerate(pictures):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_mosaic(
    items: np.ndarray,
    columns: int,
    is_music: bool,
    path: Path,
    title: str,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> None:
    """Draw `mosaic` to a PNG, its rows and columns named at the edges."""
    canvas = mosaic(items, columns, is_music)
    height, width = canvas.shape
    size = (14 if is_music else 9) / max(width, height * 0.8)
    figure = Figure(figsize=(max(4.0, width * size + 1), max(2.0, height * size + 1)))
    axes = figure.subplots()
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto" if is_music else "equal")
    rows = -(-len(items) // columns)
    axes.set_yticks((np.arange(len(row_names)) + 0.5) * height / rows - 0.5, row_names)
    axes.set_xticks((np.arange(len(column_names)) + 0.5) * width / columns - 0.5, column_names)
    axes.tick_params(length=0)
    axes.set_title(title)
    _finish(figure, path)


def save_sweep(rows: Sequence[dict[str, Any]], curves: dict[str, dict[str, list]], path: Path, name: str) -> None:
    """Validation bound by latent size, its two terms, and the learning curves of the first seed."""
    figure = Figure(figsize=(14, 4))
    left, middle, right = figure.subplots(1, 3)
    sizes = [row["latent_size"] for row in rows]
    left.errorbar(sizes, [row["elbo"] for row in rows], [row["elbo_sd"] or 0 for row in rows], marker="o", capsize=3)
    left.set(xscale="log", xlabel="latent size J", ylabel="validation ELBO, nats per item", title=name)
    middle.plot(sizes, [row["recon"] for row in rows], marker="o", label="reconstruction, nats")
    middle.plot(sizes, [row["kl"] for row in rows], marker="s", label="KL, nats")
    middle.plot(sizes, [row["active_units"] for row in rows], marker="^", label="active dimensions")
    middle.set(xscale="log", xlabel="latent size J", title="what the bound is made of")
    for axes in (left, middle):
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    middle.legend()
    for label, curve in curves.items():
        line = right.plot(curve["epoch"], curve["train"], label=label)[0]
        right.plot(curve["validation_epoch"], curve["validation"], linestyle="--", color=line.get_color())
    right.set(xlabel="epoch", ylabel="-ELBO, nats per item", title="training (full) and validation (dashed)")
    right.legend(fontsize="small")
    _finish(figure, path)


def save_scatter(
    points: np.ndarray, labels: np.ndarray, names: Sequence[str], path: Path, title: str, axis: str
) -> None:
    """Points `[n, 2 or 3]` in the plane and, with a third coordinate, in space; coloured by label, else by index."""
    deep = points.shape[1] > 2
    figure = Figure(figsize=(13 if deep else 7, 6))
    views = [figure.add_subplot(1, 2 if deep else 1, 1)]
    if deep:
        views.append(figure.add_subplot(1, 2, 2, projection="3d"))
    for number, axes in enumerate(views):
        shown = points[:, : 2 + number]
        if names and len(names) <= MOST_LABELS:
            colours = colormaps["tab20" if len(names) > 10 else "tab10"]
            for i, name in enumerate(names):
                axes.scatter(*shown[labels == i].T, s=6, color=colours(i), label=name)
        else:
            axes.scatter(*shown.T, s=6, c=np.arange(len(shown)), cmap="viridis")
        axes.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    if names and len(names) <= MOST_LABELS:
        views[0].legend(fontsize="small", markerscale=2)
    figure.suptitle(title)
    _finish(figure, path)


def save_classes(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Accuracy by number of labels, a line for each mode."""
    figure = Figure(figsize=(6.5, 4.5))
    axes = figure.subplots()
    for mode in dict.fromkeys(row["mode"] for row in rows):
        own = [row for row in rows if row["mode"] == mode]
        spread = [row["accuracy_sd"] or 0 for row in own]
        axes.errorbar(
            [row["labels_used"] for row in own],
            [row["accuracy"] for row in own],
            spread,
            marker="o",
            capsize=3,
            label=mode,
        )
    axes.set(xscale="log", xlabel="labels used", ylabel="accuracy on the test split", title=title)
    axes.legend()
    _finish(figure, path)


def _finish(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110, bbox_inches="tight")
    temporary.replace(path)
