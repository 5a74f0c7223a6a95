"""Bar similarity, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.bar_similarity import measure_songs
from partimento.training.metrics.inputs import PIECES, piece_features, read_bars

DESCRIPTION = """
How alike the bars of pieces are that stand t bars apart: the curve L_t of the Museformer paper. The similarity of two
bars is that of their sets of notes, intersection over union, a note being (onset in the bar, pitch, duration). Pairs of
two empty bars are left out.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    max_lag: t runs from 1 to this (default 40)
    tracks: "all" (default; notes of different programs differ), "skyline" (the highest note at each onset, drums left
        out), or instrument families such as ["synth-lead"] that are the melody
    empty_pairs: two empty bars are left out ("exclude", default) or have similarity 0 ("zero") or 1 ("one")
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    pooled: L_t over all pairs of bars of all pieces, 0 to 1, None where no pair is t bars apart
    per_song: mean of the pieces' own L_t
    pairs: number of pairs at each t
"""

CITATION = "Yu et al., Museformer: Transformer with Fine- and Coarse-Grained Attention, NeurIPS 2022"


class BarSimilarity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://arxiv.org/abs/2210.10349"],
        )

    def _compute(self, predictions, max_lag=40, tracks="all", empty_pairs="exclude", quarters_per_bar=4):
        statistics = measure_songs(read_bars(predictions, tracks, quarters_per_bar), max_lag, empty_pairs)
        return {
            "pooled": [float(value) if value == value else None for value in statistics.pooled()],
            "per_song": [float(value) if value == value else None for value in statistics.per_song()],
            "pairs": statistics.counts.sum(0).tolist(),
        }
