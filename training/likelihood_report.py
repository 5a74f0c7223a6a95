"""Likelihood figures of several splits and models in one report: rows, alarms and the Markdown tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from partimento.training.likelihood import PREFIX_LENGTHS, SongScore, by_bar, by_length, by_position, summarise
from partimento.training.reports import markdown_table
from partimento.training.songs import CONDITIONS

ROWS = ("model", "ngram", "ngram_transposed")
MEASURES = ("nats_per_token", "bits_per_bar", "bits_per_note")
TEST_TO_VALIDATION_LIMIT = 1.05


def add_row(report: dict[str, Any], row: str, conditions: str, scores: list[SongScore]) -> None:
    """Figures over all songs, over those by genre, length, position and bar, and of each song."""
    report.setdefault(row, {})[conditions] = summarise(scores)
    groups = {
        genre: summarise([score for score in scores if score.genre == genre], prefix_lengths=())
        for genre in sorted({score.genre for score in scores})
    }
    tables = {"by_genre": groups, "by_length": by_length(scores), "by_position": by_position(scores)}
    tables["by_bar"] = by_bar(scores)
    for title, table in tables.items():
        for group, figures in table.items():
            report.setdefault(title, {}).setdefault(group, {}).setdefault(row, {})[conditions] = figures
    report.setdefault("by_song", {}).setdefault(row, {})[conditions] = {
        "nats": [float(score.nll.sum(dtype=np.float64)) for score in scores],
        "tokens": [len(score.nll) for score in scores],
        "bars": [score.num_bars for score in scores],
        "notes": [score.num_notes for score in scores],
    }


def find_alarms(splits: dict[str, Any], gap_alarm: float) -> list[str]:
    """What a reader must not overlook: a gap between splits, or a model that an n-gram beats."""
    alarms = []
    loss = {
        (split, row): figures[row]["all_conditions"]["nats_per_token"]
        for split, figures in splits.items()
        for row in ROWS
        if row in figures
    }
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if (first, "model") in loss and (second, "model") in loss:
            gap = loss[second, "model"] - loss[first, "model"]
            if abs(gap) > gap_alarm:
                alarms.append(f"{second} loss is {gap:+.3f} nats per token from {first} (limit {gap_alarm})")
    if ("test", "model") in loss and ("validation", "model") in loss:
        ratio = loss["test", "model"] / loss["validation", "model"]
        if ratio > TEST_TO_VALIDATION_LIMIT:
            alarms.append(f"test loss is {ratio:.3f} times the validation loss (limit {TEST_TO_VALIDATION_LIMIT})")
    for split in ("validation", "test"):  # an n-gram model remembers its training songs
        ngrams = [loss[split, row] for row in ROWS[1:] if (split, row) in loss]
        if ngrams and loss.get((split, "model"), -np.inf) >= min(ngrams):
            alarms.append(f"an n-gram model is at least as good on {split}")
    return alarms


def markdown(report: dict[str, Any]) -> str:
    """The report as tables: one per split, then by genre, length and position."""
    rows = [row for row in ROWS if any(row in figures for figures in report["splits"].values())]
    order = report.get("ngram", {}).get("order")
    names = {"model": "model", "ngram": f"{order}-gram", "ngram_transposed": f"{order}-gram of transposed songs"}
    columns = [(row, conditions) for row in rows for conditions in report["conditions"]]
    titles = [f"{names[row]}, {conditions.replace('_', ' ')}" for row, conditions in columns]
    labels = {
        "nats_per_token": "nats per token",
        "nats_per_token_se": "± standard error",
        "bits_per_token": "bits per token",
        "bits_per_bar": "bits per bar",
        "bits_per_note": "bits per note",
        "perplexity": "perplexity",
        **{f"ppl_{n}": f"PPL({n:,})" for n in PREFIX_LENGTHS},
    }
    parts = [f"# Likelihood of {report['model'] or names['ngram']} on {report['corpus']}\n", f"`{report['command']}`\n"]
    for split, figures in report["splits"].items():
        counts = figures[rows[0]][CONDITIONS[0]]
        parts.append(
            f"## {split}: {counts['songs']:,} songs, {counts['bars']:,} bars, {counts['notes']:,} notes, "
            f"{counts['tokens']:,} supervised tokens\n"
        )
        table = [[label, *(figures[row][c][key] for row, c in columns)] for key, label in labels.items()]
        parts.append(markdown_table(["", *titles], table))
        parts += [
            grouped_table("genre, all conditions", figures["by_genre"], rows, names, MEASURES),
            grouped_table("supervised tokens of the song", figures["by_length"], rows, names, MEASURES),
            grouped_table("position in the song", figures["by_position"], rows, names, ("nats_per_token",)),
            grouped_table("bar of the song", figures["by_bar"], rows, names, MEASURES[:2]),
        ]
    parts += [f"**Alarm:** {alarm}\n" for alarm in report["alarms"]]
    return "\n".join(parts)


def grouped_table(
    title: str, groups: dict[str, Any], rows: list[str], names: dict[str, str], measures: Sequence[str]
) -> str:
    """One line for each genre or interval, with the figures behind all conditions."""
    header = [title, "songs", *(f"{names[row]}, {measure.replace('_', ' ')}" for row in rows for measure in measures)]
    lines = []
    for group, figures in groups.items():
        of_rows = [figures[row][CONDITIONS[0]] for row in rows]
        lines.append([group, of_rows[0]["songs"], *(of_row[m] for of_row in of_rows for m in measures)])
    return markdown_table(header, lines)
