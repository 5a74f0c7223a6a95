"""Fréchet distance of music, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.distributions import frechet_music_distance
from partimento.training.metrics.inputs import PIECES, piece_features, read_pieces

DESCRIPTION = """
Fréchet distance of Gaussians fitted to the embeddings of generated and of training pieces; 0 for equal sets. The
embedding is computed from the notes: shares of pitch classes, onset positions, durations, melodic intervals and
instrument families, and six figures (`embedding` in partimento.training.metrics.distributions documents each of the 82
numbers). It is not the embedding of any neural network: compare only with figures of this module.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    training: the pieces to compare with, in the form of predictions; any number from two on
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    frechet_music_distance: the squared distance
    skipped: pieces of both sets that hold no note
"""

CITATION = "Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017"


class FrechetMusicDistance(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/1706.08500"],
        )

    def _compute(self, predictions, training, quarters_per_bar=4):
        ours, theirs = (read_pieces(pieces, quarters_per_bar) for pieces in (predictions, training))
        return frechet_music_distance(ours, theirs)
