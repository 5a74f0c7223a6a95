"""Entropy and conditional entropy of sequences, a module of `evaluate` over the pure functions of partimento."""

import evaluate
from datasets import Features, List, Value

from partimento.training.sequence_metrics import windowed_entropies

DESCRIPTION = """
How evenly and how predictably sequences use their symbols: entropy, and conditional entropy behind 1 to 4 symbols, as
shares of the highest possible, 0 to 1. All are means over windows of equal length, because short samples seem more
ordered than they are. A low entropy is no merit of its own: compare with held-out music.
"""

INPUTS = """
Args:
    predictions: sequences of symbols as integers, such as token ids
    alphabet_size: symbols of the whole corpus (default: those that occur in predictions)
    orders: numbers of symbols before the next one (default 1 to 4)
    window: symbols of a window; every sequence is cut into as many as it holds (default: the shortest sequence)
Returns:
    entropy: mean over the windows
    conditional: by order, from the relative frequencies in the window
    conditional_corrected: the same with the correction of Miller and Madow for few observations
    windows, window, alphabet: their number, their length, the number of symbols
"""

CITATION = (
    "Roman Morales, Redes recurrentes para el analisis de series temporales, Universidad Autonoma de Madrid, 2018"
)


class SequenceEntropy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=Features({"predictions": List(Value("int64"))}),
            reference_urls=["https://repositorio.uam.es"],
        )

    def _compute(self, predictions, alphabet_size=None, orders=(1, 2, 3, 4), window=None):
        return windowed_entropies(predictions, alphabet_size, orders, window)
