"""Pitch-class entropy, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.descriptors import pitch_class_entropy
from partimento.training.metrics.inputs import PIECES, describe, piece_features, read_pieces

DESCRIPTION = """
Entropy of the pitch classes of a piece in bits, from 0 (one class only) to 3.585 (all twelve equally often). Low values
mean a clear tonality. Drums are left out.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    pitch_class_entropy: mean over the pieces that have the figure, None without any
    each: the figure of each piece, None where it has nothing to measure
    skipped: number of pieces without the figure
"""

CITATION = "Wu and Yang, The Jazz Transformer on the Front Line, ISMIR 2020"


class PitchClassEntropy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/2008.01307"],
        )

    def _compute(self, predictions, quarters_per_bar=4):
        pieces = read_pieces(predictions, quarters_per_bar)
        return describe("pitch_class_entropy", pitch_class_entropy, pieces)
