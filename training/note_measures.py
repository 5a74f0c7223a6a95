"""Entropies, alternation, copies and Fourier cross-correlation of note/duration melodies, and their report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.metrics.copying import longest_copies
from partimento.training.note_durations import decode, is_duration, roll
from partimento.training.reports import markdown_table
from partimento.training.sequence_metrics import conditional_entropy, entropy

# Roman Morales (UAM, 2018): mean entropy of 30 melodies after so many epochs, by hidden units; 1 is random.
PUBLISHED = {
    100: {1: 0.570651939833, 150: 0.465126038596, 300: 0.454361321447},
    256: {1: 0.598270962568, 150: 0.489132773163, 300: 0.470173795805},
}
PUBLISHED_TRAINING = 0.221029023754
ORDERS = (1, 2, 3, 4)
ALMOST = 0.99  # share of changes between note and duration that is called almost perfect


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
        [title, *(report["sets"][f"{title}, epoch {epoch}"]["entropy"] for epoch in marks)]
        + [published(run).get(epoch) for epoch in marks]
        for title, run in report["runs"].items()
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
    rows = [
        [title, *(run[key] for key in ("parameters", "held_out_nats", "minutes"))]
        for title, run in report["runs"].items()
    ]
    header = [f"after epoch {marks[-1]}", "parameters", "held out, nats a note with its duration", "minutes"]
    lines.append(markdown_table(header, rows))
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


def published(run: dict[str, Any]) -> dict[int, float]:
    """Published entropies by epoch: of notes and durations in series."""
    return PUBLISHED.get(run["hidden"], {}) if run["form"] == "series" else {}


def findings(report: dict[str, Any]) -> list[str]:
    """Which of the published findings the figures show."""
    first, last = report["epochs"][0], report["epochs"][-1]
    sets, runs = report["sets"], report["runs"]
    sentences = []
    for title in runs:
        series = [sets[f"{title}, epoch {epoch}"]["entropy"] for epoch in report["epochs"]]
        falls = "yes" if series == sorted(series, reverse=True) else "no"
        sentences.append(f"Entropy falls with the epochs, {title}: {falls} ({' > '.join(f'{v:.3f}' for v in series)}).")
    of_series = {run["hidden"]: title for title, run in runs.items() if run["form"] == "series"}
    if len(of_series) > 1:
        small, large = (sets[f"{of_series[n]}, epoch {last}"]["entropy"] for n in (min(of_series), max(of_series)))
        sentences.append(
            f"{max(of_series)} units end slightly higher than {min(of_series)}: {'yes' if large > small else 'no'} "
            f"({large:.3f} and {small:.3f})."
        )
    for title in runs:
        start, end = (sets[f"{title}, epoch {epoch}"]["alternation"] for epoch in (first, last))
        sentences.append(
            f"Notes and durations alternate almost perfectly, {title}: {'yes' if end > ALMOST else 'no'} ({end:.1%} at "
            f"epoch {last}, {start:.1%} at {first})."
        )
    for title, run in runs.items():
        other = of_series.get(run["hidden"])
        if run["form"] == "series" or other is None or run["held_out_nats"] is None:
            continue
        ours, theirs = run["held_out_nats"], runs[other]["held_out_nats"]
        sentences.append(
            f"{title}: joining note and duration works worse than one after the other: "
            f"{'yes' if ours > theirs else 'no'} ({ours:.3f} and {theirs:.3f} nats a held-out note with its duration)."
        )
    if report["correlation"]:
        correlations = report["correlation"]["sets"]
        own = correlations["training, with the others"]["mean"]
        for title in runs:
            found = correlations[f"{title}, epoch {last}"]["mean"]
            sentences.append(
                f"Generated melodies correlate less with the training pieces than these with each other, {title}: "
                f"{'yes' if found < own else 'no'} ({found:.3f} and {own:.3f})."
            )
    return sentences


def plot_notes(report: dict[str, Any], image: Path) -> None:
    """Training loss by epoch, entropy by epoch beside training and held-out music, and correlations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for title, run in report["runs"].items():
        losses = np.array(run["losses"]) * (2 if run["form"] == "series" else 1)  # its steps are half notes
        left.plot(range(1, len(losses) + 1), losses, label=title)
    left.set(xlabel="epoch", ylabel="nats a note with its duration", title="training loss")
    for title, run in report["runs"].items():
        values = [report["sets"][f"{title}, epoch {epoch}"]["entropy"] for epoch in report["epochs"]]
        (line,) = middle.plot(report["epochs"], values, marker="o", label=title)
        known = [published(run).get(epoch) for epoch in report["epochs"]]
        if None not in known:
            middle.plot(report["epochs"], known, ":", marker="x", color=line.get_color(), label=f"{title}, published")
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
