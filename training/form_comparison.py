"""Sets of generated pieces against the training songs and against held-out songs of the same number of bars."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from partimento.tokenization import MidiProcessor
from partimento.training.form_report import (
    SKYLINE,
    copy_figures,
    descriptor_figures,
    measure_form,
    overlap_figures,
    similarity_figures,
)
from partimento.training.metrics.notes import Notes
from partimento.training.songs import Song, first_bar, read_songs, seeded_subset

HELD_OUT = "held_out"
Pieces = list[tuple[np.ndarray, Notes]]  # token ids from the first bar on, and the notes they mean


def compare_with_training(
    pieces: Mapping[str, Pieces],
    training: Sequence[Song],
    processor: MidiProcessor,
    corpus: Path,
    *,
    bars: int,
    num_held_out: int,
    melody: Sequence[str] = (SKYLINE,),
    seed: int = 0,
) -> dict[str, Any]:
    """Bar similarity, copied spans, figures and distances of sets of pieces, and of held-out songs beside them.

    Args:
        pieces: named sets; empty ones are left out.
        bars: of the pieces; held-out songs, a seeded draw of those that are long enough, are cut to it.
        num_held_out: how many; the corpus may have no validation split.
        melody: as for `measure_form`.

    Returns:
        `training`, and `sets` by name with `held_out` first, as `form_markdown` and `plot_form` read them.
    """
    held_out: list[Song] = []
    with suppress(FileNotFoundError):
        held_out = read_songs(corpus, "validation")
    long_enough = [song for song in held_out if np.count_nonzero(song.ids == processor.bar_token_id) >= bars]
    held_out = seeded_subset(long_enough, num_held_out, seed)
    reference = measure_form(read_pieces(training, processor, None, "training songs"), melody)
    sets = {HELD_OUT: list(read_pieces(held_out, processor, bars, "held-out songs")), **pieces}
    forms = {name: measure_form(members, melody) for name, members in sets.items() if members}
    copies = copy_figures(forms, reference, [song.md5 for song in training])
    figures: dict[str, dict[str, Any]] = {
        name: {
            "pieces": len(form.tokens),
            "bars": form.bars.tolist(),
            "similarity": similarity_figures(form, reference),
            "descriptors": descriptor_figures(form, reference),
            "copies": copies[name],
        }
        for name, form in forms.items()
    }
    for name, form in forms.items():
        if name != HELD_OUT and HELD_OUT in forms:
            figures[name]["overlap"] = overlap_figures(form, forms[HELD_OUT])
    return {
        "melody": ", ".join(melody),
        "empty_pairs": "exclude",
        "training": {
            "pieces": len(training),
            "similarity": similarity_figures(reference, reference),
            "descriptors": descriptor_figures(reference, reference),
        },
        "sets": figures,
    }


def read_pieces(
    songs: Sequence[Song], processor: MidiProcessor, num_bars: int | None, title: str
) -> Iterator[tuple[np.ndarray, Notes]]:
    """Yield (ids from the first bar, notes) of songs, cut to their first bars."""
    for song in tqdm(songs, desc=f"reading {title}", unit="song"):
        ids = song.ids[first_bar(song.ids, processor.bar_token_id) :]
        starts = np.flatnonzero(ids == processor.bar_token_id)
        if num_bars is not None and num_bars < len(starts):
            ids = ids[: starts[num_bars]]
        yield ids, Notes.from_ids(ids, processor)
