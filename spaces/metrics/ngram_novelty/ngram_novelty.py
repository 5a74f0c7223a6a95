"""N-gram novelty and copied spans, a module of `evaluate` over the pure functions of partimento."""

import evaluate

from partimento.training.metrics.copying import copy_summary, note_symbols
from partimento.training.metrics.inputs import PIECES, piece_features, read_pieces

DESCRIPTION = """
How much of the generated music stands in the training set already? The longest run of consecutive notes of each piece
that also stands in a training piece, and the share of its n-grams of notes that no training piece has. Notes are
compared by the time since the note before, duration and the interval from the note before (drums by their pitch):
transposition, instrument, velocity and tempo do not matter.
"""

INPUTS = f"""
Args:
    predictions: pieces. {PIECES}
    training: the pieces of the training set, in the form of predictions; any number of them
    n: notes of an n-gram (default 8)
    quarters_per_bar: length of a bar of pieces given as lists (default 4)
Returns:
    novelty: mean over the pieces of the share of new n-grams, 0 to 1; None when no piece has n notes
    longest_copied_notes: length of the longest copied span of all pieces
    median_copied_share: median over the pieces of longest copied span over notes of the piece
    each: of every piece its novelty, copied_notes and in_training, the number of the piece copied from or None
"""

CITATION = "Papadopoulos, Roy and Pachet, Avoiding Plagiarism in Markov Sequence Generation, AAAI 2014"


class NgramNovelty(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=piece_features(),
            reference_urls=["https://ojs.aaai.org/index.php/AAAI/article/view/9126"],
        )

    def _compute(self, predictions, training, n=8, quarters_per_bar=4):
        ours, theirs = (read_pieces(pieces, quarters_per_bar) for pieces in (predictions, training))
        return copy_summary([note_symbols(piece) for piece in ours], [note_symbols(piece) for piece in theirs], n)
