"""Cross-correlation with the training set, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.inputs import PIECES, piece_features, read_pieces
from partimento.training.metrics.overfitting import EXCERPT_STEPS, correlation_summary

DESCRIPTION = """
Does a piece sound like a place in the training set? The highest Fourier cross-correlation of its first sixteen bars, as
a piano roll of sixteenths, with any training piece, over all shifts in time and transpositions by up to six semitones;
1 for an excerpt of a training piece. Music of a kind resembles itself: with held-out pieces those are counted that lie
above the 95th percentile of these.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    training: the pieces of the training set, in the form of predictions; any number of them
    held_out: pieces of the same origin that were not trained on (default: none)
    excerpt_steps: sixteenths of a piece that are looked for (default 256, sixteen bars of 4/4)
Returns:
    roll_correlation: mean over the pieces, -1 to 1; a piece without pitches, or longer than any of training, has 0
    highest: the highest of the pieces
    each: of every piece
    limit, flagged: the 95th percentile of held_out and how many pieces lie above it; None without held_out
"""

CITATION = (
    "Roman Morales, Redes recurrentes para el analisis de series temporales, Universidad Autonoma de Madrid, 2018"
)


class RollCorrelation(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://repositorio.uam.es"],
        )

    def _compute(self, predictions, training, held_out=(), excerpt_steps=EXCERPT_STEPS):
        ours, theirs, others = (read_pieces(pieces) for pieces in (predictions, training, held_out))
        return correlation_summary(ours, theirs, others, excerpt_steps)
