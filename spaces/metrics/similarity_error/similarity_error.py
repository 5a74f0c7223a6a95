"""Similarity error, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.bar_similarity import measure_songs, similarity_error
from partimento.training.metrics.inputs import PIECES, piece_features, read_bars

DESCRIPTION = """
Does generated music repeat its bars at the same distances as the training songs? The similarity error SE of the
Museformer paper: the mean over t = 1 ... T of |L_t of the predictions - L_t of the training pieces|, in percentage
points, where L_t is the bar similarity at distance t. 0 for a set against itself.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    training: the pieces to compare with, in the form of predictions; any number of them
    max_lag: T (default 40, as in the paper); no larger than the longest piece's bars less one
    tracks: "all" (default), "skyline" or instrument families, as in bar_similarity
    empty_pairs: "exclude" (default), "zero" or "one", as in bar_similarity
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    similarity_error: SE of the curves over all pairs of bars, percentage points
    similarity_error_per_song: SE of the curves that are means of the pieces' own
    max_lag: T
"""

CITATION = "Yu et al., Museformer: Transformer with Fine- and Coarse-Grained Attention, NeurIPS 2022"


class SimilarityError(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/2210.10349"],
        )

    def _compute(self, predictions, training, max_lag=40, tracks="all", empty_pairs="exclude", quarters_per_bar=4):
        ours, theirs = (
            measure_songs(read_bars(pieces, tracks, quarters_per_bar), max_lag, empty_pairs)
            for pieces in (predictions, training)
        )
        return {
            "similarity_error": similarity_error(ours.pooled(), theirs.pooled()),
            "similarity_error_per_song": similarity_error(ours.per_song(), theirs.per_song()),
            "max_lag": max_lag,
        }
