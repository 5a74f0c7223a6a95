"""Note density, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.descriptors import notes_per_bar
from partimento.training.metrics.inputs import PIECES, describe, piece_features, read_pieces

DESCRIPTION = """
Notes per bar over all instruments, drums included, up to the bar of the last onset.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    note_density: mean over the pieces that have the figure, None without any
    each: the figure of each piece, None where it has nothing to measure
    skipped: number of pieces without the figure
"""

CITATION = "Dong et al., MusPy: A Toolkit for Symbolic Music Generation, ISMIR 2020"


class NoteDensity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/2008.01951"],
        )

    def _compute(self, predictions, quarters_per_bar=4):
        pieces = read_pieces(predictions, quarters_per_bar)
        return describe("note_density", notes_per_bar, pieces)
