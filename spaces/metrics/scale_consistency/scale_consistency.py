"""Scale consistency, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.descriptors import scale_consistency
from partimento.training.metrics.inputs import PIECES, describe, piece_features, read_pieces

DESCRIPTION = """
Share of the notes of a piece that lie in its best fitting diatonic scale, 0 to 1 (7/12 for chromatic music). A natural
minor scale is that of its relative major. Drums are left out.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    scale_consistency: mean over the pieces that have the figure, None without any
    each: the figure of each piece, None where it has nothing to measure
    skipped: number of pieces without the figure
"""

CITATION = "Mogren, C-RNN-GAN: Continuous recurrent neural networks with adversarial training, 2016"


class ScaleConsistency(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/1611.09904"],
        )

    def _compute(self, predictions, quarters_per_bar=4):
        pieces = read_pieces(predictions, quarters_per_bar)
        return describe("scale_consistency", scale_consistency, pieces)
