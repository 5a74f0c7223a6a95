"""Use of a latent code, a module of `evaluate` over the pure functions of partimento."""

import evaluate
from datasets import Features, List, Value

from partimento.training.metrics.latents import latent_usage

DESCRIPTION = """
How much a variational autoencoder says in its code: KL from the prior N(0, 1) in bits, mean over items, in total and
per dimension, and the number of active dimensions by both usual criteria. A KL near 0 means that the decoder goes its
own way. Idle dimensions are normal.
"""

INPUTS = """
Args:
    predictions: of every item the means of its posterior, a list of numbers
    sigma: of every item the standard deviations, in the form of predictions
Returns:
    kl_bits: mean over items, summed over dimensions
    kl_bits_per_dim: the same for each dimension
    active_by_sigma: dimensions whose mean sigma is below 0.98
    active_by_variance: dimensions whose mean varies by more than 0.01 over items
"""

CITATION = "Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016"


class LatentUsage(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=Features({"predictions": List(Value("float64"))}),
            reference_urls=["https://arxiv.org/abs/1509.00519"],
        )

    def _compute(self, predictions, sigma):
        return latent_usage(predictions, sigma)
