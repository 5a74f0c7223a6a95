"""Entropies, alternation, copies and Fourier cross-correlation of note/duration melodies, and their report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.metrics.copying import longest_copies
from partimento.training.note_durations import decode, is_duration, roll
from partimento.training.reports import markdown_table
from partimento.training.sequence_metrics import conditional_entropy, entropy, roll_correlation

# Roman Morales (UAM, 2018): mean entropy of 30 melodies after so many epochs, by hidden units; 1 is random.
PUBLISHED = {
    100: {1: 0.570651939833, 150: 0.465126038596, 300: 0.454361321447},
    256: {1: 0.598270962568, 150: 0.489132773163, 300: 0.470173795805},
}
PUBLISHED_TRAINING = 0.221029023754
ORDERS = (1, 2, 3, 4)
EXCERPT_STEPS = 256  # sixteen bars of 4/4 on the sixteenth grid
PERCENTILE = 95


def measure_set(
    melodies: Sequence[np.ndarray], training: Sequence[np.ndarray], symbols: Sequence[str]
) -> dict[str, Any]:
    """Means over melodies of equal length.

    Args:
        melodies, training: ids `[n]`; copies are looked for in `training`.
        symbols: the corpus' alphabet; its size is the base of the logarithms.
    """
    size = len(symbols)
    durations = np.array([is_duration(token) for token in symbols])
    copies = [copy.length for copy in longest_copies(list(melodies), list(training))]
    entropies = [entropy(ids.tolist(), size) for ids in melodies]
    return {
        "melodies": len(melodies),
        "tokens": len(melodies[0]),
        "entropy": float(np.mean(entropies)),
        "entropy_deviation": float(np.std(entropies, ddof=1)) if len(entropies) > 1 else None,
        "conditional": [
            float(np.mean([conditional_entropy(ids.tolist(), order, size) for ids in melodies])) for order in ORDERS
        ],
        "conditional_corrected": [
            float(np.mean([conditional_entropy(ids.tolist(), order, size, miller_madow=True) for ids in melodies]))
            for order in ORDERS
        ],
        "alternation": float(np.mean([(durations[ids[1:]] != durations[ids[:-1]]).mean() for ids in melodies])),
        "copied_median": float(np.median(copies)),
        "copied_longest": int(max(copies)),
    }


def melody_roll(ids: np.ndarray, symbols: Sequence[str]) -> np.ndarray:
    return roll(decode([symbols[i] for i in ids]))


def best_correlation(excerpt: np.ndarray, pieces: Sequence[np.ndarray]) -> float:
    """The highest score of an excerpt, moved in time and by up to six semitones, over pieces that are longer."""
    scores = [0.0]
    for piece in pieces:
        if len(piece) < len(excerpt):
            continue
        used = np.flatnonzero(piece.any(0) | excerpt.any(0))
        low, high = max(0, used[0] - 6), min(128, used[-1] + 7)  # the others stay silent in every transposition
        scores.append(roll_correlation(piece[:, low:high], excerpt[:, low:high])[0])
    return max(scores)


def correlation_table(
    training: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    generated: dict[str, list[np.ndarray]],
    seed: int = 0,
) -> dict[str, Any]:
    """Over-fitting test by cross-correlation with the training pieces; all arguments are rolls `[steps, 128]`.

    A training excerpt in the corpus that holds it scores 1; the same in the other pieces, and held-out excerpts in all
    of them, say what music of the kind shares anyway. Melodies above the 95th percentile of held-out excerpts are
    counted as `flagged`.
    """
    rng = np.random.default_rng(seed)
    cut = [first_excerpt(piece, rng) for piece in training]
    sets = {
        "training, with itself": [best_correlation(part, training) for part in cut],
        "training, with the others": [
            best_correlation(part, [piece for other, piece in enumerate(training) if other != number])
            for number, part in enumerate(cut)
        ],
        "held-out": [best_correlation(first_excerpt(piece, rng), training) for piece in held_out],
    }
    sets |= {
        name: [best_correlation(piece[:EXCERPT_STEPS], training) for piece in rolls]
        for name, rolls in generated.items()
    }
    known = sets["held-out"]
    limit = float(np.percentile(known, PERCENTILE)) if known else None
    return {
        "limit": limit,
        "sets": {
            name: {
                "pieces": len(scores),
                "mean": float(np.mean(scores)) if scores else None,
                "highest": float(max(scores)) if scores else None,
                "flagged": None if limit is None else int(sum(score > limit for score in scores)),
                "each": scores,
            }
            for name, scores in sets.items()
        },
    }


def first_excerpt(piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sixteen bars from a random place of a piece; all of a shorter one."""
    start = int(rng.integers(max(1, len(piece) - EXCERPT_STEPS + 1)))
    return piece[start : start + EXCERPT_STEPS]


def notes_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    corpus, settings = report["corpus"], report["settings"]
    kept = corpus["round_trip"]
    marks = report["epochs"]
    lines = [
        "# Melodies of notes and durations\n",
        f"`{report['command']}`\n",
        f"{corpus['pieces']} MIDI files of {corpus['folder']} ({corpus['held_out']} held out), {corpus['tokens']:,} "
        f"training tokens, alphabet of {corpus['alphabet']}; SHA-256 {corpus['sha256'][:16]}. Encoding keeps the "
        f"pitches of {kept['pitches_kept']:.0%} and the lengths of {kept['durations_kept']:.0%} of the events; without "
        f"rests the music lasts {kept['length']:.2f} of its time.\n",
        f"LSTM on one-hot tokens, dropout {settings['dropout']}, windows of {settings['window']} tokens every "
        f"{settings['stride']} (published: every 1, so that an epoch here has 1/{settings['stride']} of the updates), "
        f"Adam at {settings['learning_rate']}, batches of {settings['batch']}. {report['melodies']} melodies of "
        f"{report['tokens']} tokens each, feedback by {settings['feedback']}.\n",
        "## Entropy\n",
        "Of the tokens' frequencies, base: the alphabet, mean over melodies. Training and held-out: windows of the "
        "same number of tokens. Less is not better: the distance to held-out music counts.\n",
    ]
    rows = [
        [f"{hidden} units", *(report["sets"][f"{hidden} units, epoch {epoch}"]["entropy"] for epoch in marks)]
        + [PUBLISHED.get(hidden, {}).get(epoch) for epoch in marks]
        for hidden in report["hidden"]
    ]
    header = ["", *(f"epoch {epoch}" for epoch in marks), *(f"published, epoch {epoch}" for epoch in marks)]
    lines.append(markdown_table(header, rows))
    reference = [f"training windows {report['sets']['training']['entropy']:.4f} (published {PUBLISHED_TRAINING:.4f})"]
    if "held-out" in report["sets"]:
        reference.append(f"held-out windows {report['sets']['held-out']['entropy']:.4f}")
    lines.append(f"Beside them: {', '.join(reference)}; a random sequence 1.\n")
    rows = [
        [name, found["entropy"], *found["conditional"], *found["conditional_corrected"]]
        for name, found in report["sets"].items()
    ]
    header = ["conditional entropy", "H_0", *(f"H_{n}" for n in ORDERS), *(f"H_{n}, corrected" for n in ORDERS)]
    lines.append(markdown_table(header, rows))
    rows = [
        [name, found["melodies"], f"{found['alternation']:.1%}", found["copied_median"], found["copied_longest"]]
        for name, found in report["sets"].items()
    ]
    header = ["", "melodies", "note and duration alternate", "longest copied span, median", "longest, tokens"]
    lines.append(markdown_table(header, rows))
    lines.append("A training window stands in the training set as a whole. Corrected: Miller and Madow.\n")
    if report["correlation"]:
        rows = [
            [name, found["pieces"], found["mean"], found["highest"], found["flagged"]]
            for name, found in report["correlation"]["sets"].items()
        ]
        header = ["cross-correlation with the training pieces", "excerpts", "mean", "highest", "flagged"]
        lines += ["## Over-fitting\n", markdown_table(header, rows)]
        lines.append(
            "Excerpts of 16 bars on the sixteenth grid, best of all shifts and ±6 semitones. Flagged: above the 95th "
            "percentile of the held-out excerpts.\n"
        )
    lines += ["## Published findings\n", *(f"- {sentence}" for sentence in report["findings"]), ""]
    return "\n".join(lines)


def findings(report: dict[str, Any]) -> list[str]:
    """Which of the published findings the figures show."""
    first, *_, last = report["epochs"]
    value = {
        (hidden, epoch): report["sets"][f"{hidden} units, epoch {epoch}"]["entropy"]
        for hidden in report["hidden"]
        for epoch in report["epochs"]
    }
    sentences = []
    for hidden in report["hidden"]:
        series = [value[hidden, epoch] for epoch in report["epochs"]]
        falls = "yes" if series == sorted(series, reverse=True) else "no"
        sentences.append(
            f"Entropy falls with the epochs, {hidden} units: {falls} ({' > '.join(f'{v:.3f}' for v in series)})."
        )
    if len(report["hidden"]) > 1:
        small, large = min(report["hidden"]), max(report["hidden"])
        words = "yes" if value[large, last] > value[small, last] else "no"
        sentences.append(
            f"{large} units end slightly higher than {small}: {words} "
            f"({value[large, last]:.3f} and {value[small, last]:.3f})."
        )
    end = report["sets"][f"{report['hidden'][0]} units, epoch {last}"]["alternation"]
    start = report["sets"][f"{report['hidden'][0]} units, epoch {first}"]["alternation"]
    sentences.append(
        f"Notes and durations alternate almost perfectly: {end:.1%} at epoch {last}, {start:.1%} at {first}."
    )
    if report["correlation"]:
        sets = report["correlation"]["sets"]
        for hidden in report["hidden"]:
            found, own = sets[f"{hidden} units, epoch {last}"], sets["training, with the others"]
            words = "yes" if found["mean"] < own["mean"] else "no"
            sentences.append(
                f"Generated melodies correlate less with the training pieces than these with each other, {hidden} "
                f"units: {words} ({found['mean']:.3f} and {own['mean']:.3f})."
            )
    return sentences


def plot_notes(report: dict[str, Any], losses: dict[str, list[float]], image: Path) -> None:
    """Training loss by epoch, entropy by epoch beside training and held-out music, and correlations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for name, values in losses.items():
        left.plot(range(1, len(values) + 1), values, label=name)
    left.set(xlabel="epoch", ylabel="nats per token", title="training loss")
    for hidden in report["hidden"]:
        values = [report["sets"][f"{hidden} units, epoch {epoch}"]["entropy"] for epoch in report["epochs"]]
        (line,) = middle.plot(report["epochs"], values, marker="o", label=f"{hidden} units")
        published = [PUBLISHED.get(hidden, {}).get(epoch) for epoch in report["epochs"]]
        if None not in published:
            middle.plot(
                report["epochs"], published, ":", marker="x", color=line.get_color(), label=f"{hidden}, published"
            )
    for name, style in (("training", "-"), ("held-out", "--")):
        if name in report["sets"]:
            middle.axhline(report["sets"][name]["entropy"], color="0.4", linestyle=style, label=name)
    middle.set(xlabel="epoch", ylabel="entropy", title="entropy of the melodies")
    if report["correlation"]:
        names = list(report["correlation"]["sets"])
        right.boxplot([report["correlation"]["sets"][name]["each"] for name in names], orientation="horizontal")
        right.set_yticks(range(1, len(names) + 1), names, fontsize=8)
        right.set(xlabel="correlation with the training pieces")
    for axis in (left, middle):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(image, dpi=110)
