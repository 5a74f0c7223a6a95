"""Groove consistency, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.descriptors import groove_consistency
from partimento.training.metrics.inputs import PIECES, describe, piece_features, read_pieces

DESCRIPTION = """
How alike the rhythms of neighbouring bars are, 0 to 1: the mean share of positions at which the onset patterns of two
neighbouring bars of equal length agree. All instruments count. None for a piece of one bar.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    positions_per_quarter: positions of the patterns in a quarter (default 4, sixteenths)
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    groove_consistency: mean over the pieces that have the figure, None without any
    each: the figure of each piece, None where it has nothing to measure
    skipped: number of pieces without the figure
"""

CITATION = "Wu and Yang, The Jazz Transformer on the Front Line, ISMIR 2020"


class GrooveConsistency(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/2008.01307"],
        )

    def _compute(self, predictions, positions_per_quarter=4, quarters_per_bar=4):
        pieces = read_pieces(predictions, quarters_per_bar)
        return describe("groove_consistency", lambda piece: groove_consistency(piece, positions_per_quarter), pieces)
