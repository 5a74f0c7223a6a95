"""Likelihood figures of several splits and models in one report: rows, alarms and the Markdown tables."""

from typing import Any

import numpy as np

from partimento.training.likelihood import PREFIX_LENGTHS, SongScore, summarise
from partimento.training.reports import markdown_table
from partimento.training.songs import CONDITIONS

ROWS = ("model", "ngram", "ngram_transposed")
TEST_TO_VALIDATION_LIMIT = 1.05


def add_row(report: dict[str, Any], row: str, conditions: str, scores: list[SongScore]) -> None:
    """Figures over all songs, and over those of each genre."""
    report.setdefault(row, {})[conditions] = summarise(scores)
    genres = report.setdefault("by_genre", {})
    for genre in sorted({score.genre for score in scores}):
        chosen = [score for score in scores if score.genre == genre]
        genres.setdefault(genre, {}).setdefault(row, {})[conditions] = summarise(chosen, prefix_lengths=())


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
    """The report as tables: one per split, then one by genre."""
    rows = [row for row in ROWS if any(row in figures for figures in report["splits"].values())]
    order = report.get("ngram", {}).get("order")
    names = {"model": "model", "ngram": f"{order}-gram", "ngram_transposed": f"{order}-gram of transposed songs"}
    columns = [(row, conditions) for row in rows for conditions in CONDITIONS]
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
        table = [
            [genre, of_genre[rows[0]][CONDITIONS[0]]["songs"], *(of_genre[r][c]["nats_per_token"] for r, c in columns)]
            for genre, of_genre in figures["by_genre"].items()
        ]
        parts.append(markdown_table(["genre, nats per token", "songs", *titles], table))
    parts += [f"**Alarm:** {alarm}\n" for alarm in report["alarms"]]
    return "\n".join(parts)
