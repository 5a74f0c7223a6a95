"""Do samples repeat themselves as the training songs do, and do they repeat the training songs? Figures and a plot.

Bar similarity L_t and similarity error SE are those of the Museformer paper (see `bar_similarity`); copied spans are
explained in `metrics.copying`, the figures of single pieces in `metrics.descriptors`, the Fréchet distance of their
embeddings in `metrics.distributions`. Every figure stands beside that of held-out songs cut to the length of the
samples: no generator can be expected to come nearer to the training set than they.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.bar_similarity import (
    MAX_LAG,
    SimilarityStatistics,
    bar_notes,
    measure_songs,
    programs_of_families,
    similarity_error,
)
from partimento.training.metrics.copying import longest_copies, note_symbols
from partimento.training.metrics.descriptors import DESCRIPTORS
from partimento.training.metrics.distributions import (
    EMBEDDING_SIZE,
    embedding,
    frechet_distance,
    overlapping_area,
)
from partimento.training.metrics.notes import Notes, skyline
from partimento.training.reports import markdown_table

SKYLINE = "skyline"
TRACKS = ("melody", "all")
OVERLAPS = ("overlapping_area", "kl_divergence")
AVERAGES = {"pooled": SimilarityStatistics.pooled, "per_song": SimilarityStatistics.per_song}


@dataclass(frozen=True, eq=False)
class Form:
    """Of a set of pieces: bar similarities of the melody and of all tracks, what copies are looked for in, figures."""

    statistics: dict[str, SimilarityStatistics]  # by TRACKS
    symbols: list[np.ndarray]
    tokens: list[np.ndarray]
    bars: np.ndarray  # [pieces]
    descriptors: dict[str, list[float | None]]
    embeddings: np.ndarray  # [pieces with notes, EMBEDDING_SIZE]


def measure_form(
    pieces: Iterable[tuple[np.ndarray, Notes]], melody: Sequence[str] = (SKYLINE,), max_lag: int = MAX_LAG
) -> Form:
    """Measure pieces, each (token ids without prefix, notes).

    Args:
        melody: families whose programs are the melody track, or "skyline": the highest note at each onset.
    Raises: ValueError: an unknown family.
    """
    programs = None if tuple(melody) == (SKYLINE,) else programs_of_families(*melody)
    melodies, all_tracks, symbols, tokens, bars = [], [], [], [], []
    descriptors: dict[str, list[float | None]] = {name: [] for name in DESCRIPTORS}
    embeddings = [np.zeros((0, EMBEDDING_SIZE))]
    for ids, notes in pieces:
        tune = skyline(notes) if programs is None else notes.select(np.isin(notes.programs, list(programs)))
        melodies.append(bar_notes(tune, with_program=False))
        all_tracks.append(bar_notes(notes))
        symbols.append(note_symbols(notes))
        tokens.append(np.asarray(ids, np.int32))
        bars.append(notes.num_bars)
        for name, measure in DESCRIPTORS.items():
            descriptors[name].append(measure(notes))
        if len(notes):
            embeddings.append(embedding(notes)[None])
    statistics = {"melody": measure_songs(melodies, max_lag), "all": measure_songs(all_tracks, max_lag)}
    return Form(statistics, symbols, tokens, np.array(bars, np.int64), descriptors, np.concatenate(embeddings))


def descriptor_figures(form: Form, training: Form) -> dict[str, float | None]:
    """Mean of every figure over the pieces that have it, and the Fréchet distance to the training songs."""
    known = {name: [value for value in values if value is not None] for name, values in form.descriptors.items()}
    result: dict[str, float | None] = {n: float(np.mean(values)) if values else None for n, values in known.items()}
    enough = min(len(form.embeddings), len(training.embeddings)) > 1
    result["frechet_distance"] = frechet_distance(form.embeddings, training.embeddings) if enough else None
    return result


def overlap_figures(form: Form, reference: Form) -> dict[str, Any]:
    """Overlapping area and divergence of every figure's distribution against a reference set, and their means.

    See `metrics.distributions.overlapping_area`; None where the densities cannot be estimated.
    """
    each: dict[str, dict[str, float] | None] = {}
    for name in DESCRIPTORS:
        ours, theirs = ([v for v in f.descriptors[name] if v is not None] for f in (form, reference))
        try:
            each[name] = overlapping_area(ours, theirs)
        except ValueError:
            each[name] = None
    known = [entry for entry in each.values() if entry is not None]
    means = {key: float(np.mean([e[key] for e in known])) if known else None for key in OVERLAPS}
    return {**means, "each": each}


def similarity_figures(form: Form, training: Form) -> dict[str, Any]:
    """L_t in percent and SE in percentage points, melody and all tracks, pooled and per song.

    Both curves end at the last distance that has a pair of bars in both sets; `lags` is the T of the SE. A set without
    any pair has the SE None.
    """
    result: dict[str, Any] = {}
    for tracks in TRACKS:
        for name, average in AVERAGES.items():
            ours, theirs = average(form.statistics[tracks]), average(training.statistics[tracks])
            missing = np.flatnonzero(np.isnan(ours) | np.isnan(theirs))
            lags = int(missing[0]) if len(missing) else len(ours)
            result.setdefault(tracks, {})[name] = {
                "lags": lags,
                "curve": [round(100 * float(value), 4) for value in ours[:lags]],
                "similarity_error": similarity_error(ours[:lags], theirs[:lags]) if lags else None,
            }
    return result


def copy_figures(forms: dict[str, Form], training: Form, names: Sequence[str]) -> dict[str, Any]:
    """Longest copied spans of each set of pieces against the training set, in notes (up to transposition) and tokens.

    `share` is the length of the longest span over the length of its piece; `names` are those of the training songs.
    """
    result: dict[str, Any] = {name: {} for name in forms}
    for kind in ("symbols", "tokens"):
        pieces = [piece for form in forms.values() for piece in getattr(form, kind)]
        copies = iter(longest_copies(pieces, getattr(training, kind)))
        for name, form in forms.items():
            found = [(next(copies), len(piece)) for piece in getattr(form, kind)]
            lengths = np.array([copy.length for copy, _ in found])
            shares = np.array([copy.length / max(1, size) for copy, size in found])
            if len(found):
                result[name]["notes" if kind == "symbols" else kind] = {
                    "longest": int(lengths.max()),
                    "median": float(np.median(lengths)),
                    "mean": float(lengths.mean()),
                    "median_share": float(np.median(shares)),
                    "each": lengths.tolist(),
                    "found_in": [names[copy.song] if copy.length else None for copy, _ in found],
                }
    return result


def form_markdown(report: dict[str, Any]) -> str:
    """The tables of similarity error and copied spans."""
    rows = [
        [
            name.replace("_", " "),
            figures["pieces"],
            *(figures["similarity"][tracks][average]["similarity_error"] for tracks in TRACKS for average in AVERAGES),
            figures["similarity"]["all"]["pooled"]["lags"],
        ]
        for name, figures in report["sets"].items()
    ]
    header = ["similarity error to the training songs, percentage points", "pieces"]
    header += [f"{tracks}, {average.replace('_', ' ')}" for tracks in ("melody", "all tracks") for average in AVERAGES]
    parts = [markdown_table([*header, "T, bars"], rows)]
    every = {"training": report["training"], **report["sets"]}
    names = [*DESCRIPTORS, "frechet_distance"]
    rows = [[n.replace("_", " "), *(figures["descriptors"][key] for key in names)] for n, figures in every.items()]
    header = ["mean over pieces", *(name.replace("_", " ") for name in names[:-1]), "Fréchet distance to training"]
    parts.append(markdown_table(header, rows))
    overlaps = {n: f["overlap"] for n, f in report["sets"].items() if f.get("overlap")}
    rows = [
        [
            n.replace("_", " "),
            f["overlapping_area"],
            *((f["each"][key] or {}).get("overlapping_area") for key in names[:-1]),
        ]
        for n, f in overlaps.items()
    ]
    if rows:
        header = ["overlapping area with held-out songs", "mean", *(name.replace("_", " ") for name in names[:-1])]
        parts.append(markdown_table(header, rows))
    rows = [
        [
            name.replace("_", " "),
            *(figures["copies"][kind][key] for kind in ("notes", "tokens") for key in ("median", "longest")),
            figures["copies"]["notes"]["median_share"],
        ]
        for name, figures in report["sets"].items()
        if figures.get("copies")
    ]
    header = ["longest span that stands in a training song", "notes, median", "notes, longest", "tokens, median"]
    parts.append(markdown_table([*header, "tokens, longest", "share of the piece's notes, median"], rows))
    parts.append(
        f"Melody: {report['melody']}. Pairs of two empty bars are left out. Notes are compared up to transposition, "
        "without instrument and velocity; tokens exactly. Held-out songs are cut to the bars of the samples.\n"
    )
    return "\n".join(parts)


def plot_form(report: dict[str, Any], image: str | Path) -> None:
    """Draw L_t of melody and all tracks (pooled) and the distribution of copied spans."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    for axis, (tracks, average) in zip(axes.flat, (("melody", "pooled"), ("all", "pooled"), ("all", "per_song"))):
        curves = {"training": report["training"]["similarity"][tracks][average]}
        curves |= {name: figures["similarity"][tracks][average] for name, figures in report["sets"].items()}
        for name, entry in curves.items():
            error = entry["similarity_error"]
            label = name.replace("_", " ") + ("" if name == "training" or error is None else f" (SE {error:.2f})")
            style = {"color": "0.3", "linewidth": 2} if name == "training" else {"linewidth": 1, "marker": ".", "ms": 4}
            axis.plot(np.arange(1, entry["lags"] + 1), entry["curve"], label=label, **style)
        title = "melody" if tracks == "melody" else "all tracks"
        axis.set(xlabel="distance t in bars", ylabel="L_t, percent", title=f"{title}, {average.replace('_', ' ')}")
    axis = axes[1, 1]
    for name, figures in report["sets"].items():
        if figures.get("copies"):
            lengths = np.sort(figures["copies"]["notes"]["each"])
            axis.step(lengths, np.arange(len(lengths), 0, -1) / len(lengths), where="pre", label=name.replace("_", " "))
    axis.set(xlabel="notes", ylabel="share of pieces at least so long", title="longest span of a training song")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(image, dpi=110)
