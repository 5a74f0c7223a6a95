"""An n-gram model that writes music like any other causal language model: same grammar, constraints and sampling."""

import re
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from partimento.pipelines import MidiGenerator
from partimento.tokenization import MidiProcessor
from partimento.training.ngram import NGramModel
from partimento.training.songs import inputs_of, read_songs, token_subset


class NGramConfig(PreTrainedConfig):
    """The vocabulary that an `NGramForCausalLM` shares with its processor."""

    model_type = "music_ngram"

    vocab_size: int = 640
    bar_token_id: int = 4
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    use_cache: bool = False


class NGramForCausalLM(PreTrainedModel, GenerationMixin):
    """`NGramModel` with the interface of `generate`. It has no weights, cannot be trained and is not saved."""

    config: NGramConfig
    config_class = NGramConfig

    def __init__(self, config: NGramConfig, ngram: NGramModel):
        super().__init__(config)
        self.ngram = ngram
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # says on which device the logits go
        assert self.generation_config is not None
        self.generation_config.update(
            do_sample=True, top_k=0, top_p=0.95, temperature=1.0, use_cache=False, pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
        )  # fmt: skip

    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> CausalLMOutputWithPast:
        """Log-probabilities `[B, 1, V]` of the token behind the last one."""
        order = self.ngram.order
        histories = [row[max(0, len(row) - order + 1) :] for row in input_ids.tolist()]
        logits = np.log([self.ngram.distribution(history) for history in histories])
        return CausalLMOutputWithPast(logits=torch.from_numpy(logits).float()[:, None].to(self.place.device))


def ngram_order(name: str) -> int | None:
    """5 for `5-gram`, None for the name of any other model."""
    match = re.fullmatch(r"([1-9])-gram", name)
    return int(match[1]) if match else None


def fit_ngram(
    corpus: Path, processor: MidiProcessor, order: int, num_tokens: int | None = None, seed: int = 0
) -> NGramModel:
    """Fit on training songs behind all their conditions, as `evaluate_lm.py` does.

    Args:
        num_tokens: size of the seeded draw of songs; None: all of them.
    """
    songs = token_subset(read_songs(corpus, "train"), num_tokens, seed)
    sequences, masks = inputs_of(songs, "all_conditions", None, processor.bar_token_id)
    return NGramModel.fit(sequences, masks, order=order, vocab_size=len(processor.vocabulary.tokens))


def load_generator(
    name: str, device: torch.device | str, corpus: Path | None = None, num_tokens: int | None = None, seed: int = 0
) -> MidiGenerator:
    """The generator of a trained model, or, for a name such as `5-gram`, of an n-gram model of the corpus.

    Raises:
        ValueError: an n-gram model without a corpus; otherwise as `MidiGenerator.from_pretrained`.
    """
    order = ngram_order(name)
    if order is None:
        return MidiGenerator.from_pretrained(name, device=device)
    if corpus is None:
        raise ValueError(f"--model {name}: an n-gram model is fitted on a corpus; give --corpus")
    processor = MidiProcessor.from_pretrained(corpus / "processor")
    ngram = fit_ngram(corpus, processor, order, num_tokens, seed)
    names = ("vocab_size", "bar_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
    facts = processor.model_config_kwargs()
    model = NGramForCausalLM(NGramConfig(**{key: facts[key] for key in names}), ngram).to(device)
    return MidiGenerator(model, processor, name=name)
