"""Perplexity and bits per bar, a module of `evaluate` over the pure functions of partimento."""

import evaluate
import numpy as np
from datasets import Features, List, Value

from partimento.training.likelihood import PREFIX_LENGTHS, SongScore, summarise

DESCRIPTION = """
What held-out songs cost a language model, in units that do not depend on its vocabulary: bits per bar and per note,
beside nats per token and perplexity. All are corpus-level: sums over songs divided by sums. `ppl_N` is the
perplexity of the first N tokens of every song, whole songs where they are shorter.
"""

INPUTS = """
Args:
    predictions: of each song the losses of its tokens in nats (natural logarithms), in order
    bars: number of bars of each song
    notes: number of notes of each song
    prefix_lengths: N of ppl_N (default 1024, 5120 and 10240, as in the Museformer paper)
Returns:
    nats_per_token, bits_per_token, perplexity: of all songs together
    nats_per_token_se: standard error of nats_per_token, songs as units
    bits_per_bar, bits_per_note: None without bars or notes
    ppl_N, songs_reaching_N: for each N of prefix_lengths
    songs, tokens, bars, notes: the numbers divided by
"""

CITATION = "Yu et al., Museformer: Transformer with Fine- and Coarse-Grained Attention, NeurIPS 2022"


class BitsPerBar(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=Features({"predictions": List(Value("float64"))}),
            reference_urls=["https://arxiv.org/abs/2210.10349"],
        )

    def _compute(self, predictions, bars, notes, prefix_lengths=PREFIX_LENGTHS):
        if not len(predictions) == len(bars) == len(notes):
            raise ValueError(
                f"losses of {len(predictions)} songs, {len(bars)} bars, {len(notes)} notes: one of each a song"
            )
        nowhere = [np.zeros(len(nats)) for nats in predictions]  # in which bar a token stands is not asked
        scores = [
            SongScore("", np.array(nats, float), b, n, places)
            for nats, b, n, places in zip(predictions, bars, notes, nowhere)
        ]
        return summarise(scores, prefix_lengths)
