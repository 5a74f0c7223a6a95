"""Pictures of a MusicVAE evaluation: KL per dimension, interpolation curves and strips, reconstructions.

Legend: n windows, S points of a path, K tracks, T steps.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.drum_classes import DRUM_CLASSES
from partimento.tokenization.grid_songs import STEPS_PER_BAR
from partimento.tokenization.melody_lines import line_notes
from partimento.training.latent_paths import MIXTURE, PATHS

NAMES = {"linear": "straight", "slerp": "great circle", MIXTURE: "mixture of the ends"}
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # melody, bass, drums


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the picture whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    return path


def draw_windows(axis, window: np.ndarray, processor: MusicVAEProcessor, low: int, high: int) -> None:
    """Piano roll of a window `[K, T]` between two MIDI pitches; drums alone as nine rows."""
    only_drums = processor.tracks == ["drums"]
    for name, ids in zip(processor.tracks, window):
        colour = COLOURS[("melody", "bass", "drums").index(name)]
        if name == "drums":
            steps, classes = np.nonzero(np.asarray(ids)[:, None] >> np.arange(len(DRUM_CLASSES)) & 1)
            heights = classes if only_drums else low + classes
            axis.scatter(steps + 0.5, heights, s=6, marker="s", color=colour, linewidths=0)
            continue
        starts, ends, pitches = line_notes(ids, processor.pitch_min)
        axis.barh(pitches, ends - starts, left=starts, height=0.9, color=colour, edgecolor="white", linewidth=0.3)
    num_steps = window.shape[1]
    axis.set_xlim(0, num_steps)
    axis.set_ylim(*((-0.5, len(DRUM_CLASSES) - 0.5) if only_drums else (low - 1, high + 1)))
    axis.set_xticks(range(STEPS_PER_BAR, num_steps, STEPS_PER_BAR), [])
    axis.set_yticks([])
    axis.grid(axis="x", color="0.8", linewidth=0.6)


def pitch_range(windows: np.ndarray, processor: MusicVAEProcessor) -> tuple[int, int]:
    """Lowest and highest pitch of windows `[n, K, T]`, with room for drums below the melodic tracks."""
    pitches = [
        line_notes(ids, processor.pitch_min).pitches
        for i, name in enumerate(processor.tracks)
        if name != "drums"
        for ids in windows[:, i]
    ]
    joined = np.concatenate([part for part in pitches if len(part)] or [np.array([60])])
    room = len(DRUM_CLASSES) + 1 if "drums" in processor.tracks else 0
    return int(joined.min()) - room, int(joined.max())


def plot_strips(
    music: np.ndarray, processor: MusicVAEProcessor, path: Path, titles: Sequence[str] = (), num_rows: int = 6
) -> Path:
    """Windows `[S, n, K, T]`: one row per path, time from left to right within each of its points."""
    num_rows = min(num_rows, music.shape[1])
    width = 2.0 if music.shape[3] <= 64 else 3.2
    figure = new_figure(min(24.0, width * len(music)), 1.3 * num_rows + 0.4)
    axes = figure.subplots(num_rows, len(music), squeeze=False)
    for row in range(num_rows):
        low, high = pitch_range(music[:, row], processor)
        for column, axis in enumerate(axes[row]):
            draw_windows(axis, music[column, row], processor, low, high)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=9)
    return save(figure, path)


def plot_paths(report: dict[str, Any], path: Path) -> Path:
    """Distance from the start and n-gram cost along the paths."""
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    for method in (*PATHS, MIXTURE):
        figures = report[method]
        along = np.linspace(0, 1, len(figures["distance_from_start"]))
        left.plot(along, figures["distance_from_start"], marker="o", markersize=3, label=NAMES[method])
        if figures["ngram_nats"]:
            right.plot(along, figures["ngram_nats"], marker="o", markersize=3, label=NAMES[method])
    if report.get("ngram_nats_of_music") is not None:
        right.axhline(report["ngram_nats_of_music"], color="0.5", linestyle="--", label="held-out music")
    left.set(xlabel="from the first to the second", ylabel="share of ids that differ from the first")
    right.set(xlabel="from the first to the second", ylabel="nats under an n-gram model")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return save(figure, path)


def plot_latent(kl_bits_per_dim: Sequence[float], path: Path) -> Path:
    """KL of the dimensions, largest first."""
    figure = new_figure(6, 3.4)
    axis = figure.subplots()
    bits = np.sort(np.asarray(kl_bits_per_dim))[::-1]
    axis.bar(np.arange(1, len(bits) + 1), bits, width=1.0)
    axis.set(xlabel="latent dimension, by KL", ylabel="bits", title=f"{bits.sum():.1f} bits in all")
    axis.grid(axis="y", alpha=0.3)
    return save(figure, path)
