"""Overlapping area, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.distributions import compare_descriptors
from partimento.training.metrics.inputs import PIECES, piece_features, read_pieces

DESCRIPTION = """
Are the figures of generated pieces distributed like those of the training pieces? For each figure (pitch-class entropy,
scale and groove consistency, polyphony, empty bars, notes per bar) the distances within the training set and those
between the sets become two densities; their overlapping area is 1 when they are equal, and the Kullback-Leibler
divergence is 0. The procedure of MGEval.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    training: the pieces to compare with, in the form of predictions; any number from three on
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    overlapping_area: mean over the figures that have one, 0 to 1, None without any
    kl_divergence: mean over the figures that have one, nats
    each: of every figure its overlapping_area and kl_divergence, or None where it cannot be had (all pieces equal)
"""

CITATION = "Yang and Lerch, On the evaluation of generative models in music, Neural Computing and Applications 2020"


class OverlappingArea(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://doi.org/10.1007/s00521-018-3849-7"],
        )

    def _compute(self, predictions, training, quarters_per_bar=4):
        ours, theirs = (read_pieces(pieces, quarters_per_bar) for pieces in (predictions, training))
        return compare_descriptors(ours, theirs)
