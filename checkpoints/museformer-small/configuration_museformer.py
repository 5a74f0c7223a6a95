"""Hyper-parameters of Museformer (Yu et al., NeurIPS 2022, arXiv 2210.10349) and their validity.

Only the architecture is stored. Sampling parameters belong to the generation configuration, optimiser settings to
the training arguments. Model and tokenizer meet in the id fields: Bar, Position_0, PAD, BOS and EOS.
"""

import dataclasses
import difflib

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

FINE_OFFSETS = (1, 2, 4, 8, 12, 16, 24, 32)

PRESETS = {
    "tiny": {
        "num_hidden_layers": 2,
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "bar_embedding_size": 64,
        "beat_embedding_size": 32,
    },
    "small": {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "bar_embedding_size": 128,
        "beat_embedding_size": 64,
    },
    "paper": {
        "num_hidden_layers": 4,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "bar_embedding_size": 256,
        "beat_embedding_size": 128,
    },
}


@strict
class MuseformerConfig(PreTrainedConfig):
    """Configuration of a Museformer.

    Args:
        vocab_size: number of token ids.
        hidden_size: width d of both streams.
        intermediate_size: width f of the feed-forward layers.
        num_hidden_layers: number of two-stage attention layers.
        num_attention_heads: number of heads; must divide `hidden_size`.
        bar_embedding_size: width of the bar sinusoid; even, at least 4.
        beat_embedding_size: width of the beat sinusoid; even, at least 4.
        fine_offsets: bar distances that are attended token by token; `None` means every past bar (full attention).
        coarse_attention: whether all other past bars are seen through their summary; `False` hides them.
        bar_token_id: id of the token that opens a bar.
        position_token_start: id of `Position_0`; the positions follow consecutively.
        num_positions: number of Position tokens (steps per bar the tokenizer can name).
        pad_token_id: padding; a token with this id is padding whatever the attention mask says.
        bos_token_id: first token of a row.
        eos_token_id: end of the piece; belongs to the last bar, is in no summary.
        dropout: after the embedding projection and on both residual branches.
        attention_dropout: on the attention weights of both attention steps.
        layer_norm_eps: epsilon of every LayerNorm.
        use_cache: whether `generate` decodes incrementally.
        tie_word_embeddings: always `False`: input table N(0, 1), output matrix N(0, 1/d).
    """

    model_type = "museformer"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 640
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    bar_embedding_size: int = 256
    beat_embedding_size: int = 128
    fine_offsets: list[int] | tuple[int, ...] | None = FINE_OFFSETS
    coarse_attention: bool = True
    bar_token_id: int = 4
    position_token_start: int = 5
    num_positions: int = 48
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        names = [field.name for field in dataclasses.fields(self)]
        for name in kwargs:
            if close := difflib.get_close_matches(name, names, n=1, cutoff=0.85):
                raise ValueError(f"MuseformerConfig has no field `{name}`; did you mean `{close[0]}`?")
        if isinstance(self.fine_offsets, list):  # JSON has no tuples
            self.fine_offsets = tuple(self.fine_offsets)
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "MuseformerConfig":
        """Return the preset `tiny`, `small` or `paper`, with fields replaced by `overrides`.

        Raises:
            ValueError: unknown preset, or an override that is not a field.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(overrides) - names):
            raise ValueError(f"overrides {unknown} are not among the fields: {', '.join(sorted(names))}")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def uses_summaries(self) -> bool:
        """Whether any bar can be seen through its summary."""
        return self.coarse_attention and self.fine_offsets is not None

    @property
    def attention_span(self) -> int | None:
        """Bar distance beyond which no content token is attended; `None` without limit."""
        if self.fine_offsets is None:
            return None
        return max(self.fine_offsets, default=0)

    def validate_sizes(self):
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be divisible by num_attention_heads={self.num_attention_heads}"
            )
        for name in ("bar_embedding_size", "beat_embedding_size"):
            if getattr(self, name) < 4 or getattr(self, name) % 2:
                raise ValueError(f"{name}={getattr(self, name)} must be even and at least 4: sines and cosines")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if self.layer_norm_eps <= 0:
            raise ValueError(f"layer_norm_eps={self.layer_norm_eps} must be positive")
        if self.tie_word_embeddings:
            raise ValueError("tie_word_embeddings=True is not supported: the two tables have different scales")

    def validate_offsets(self):
        if self.fine_offsets is None:
            return
        offsets = list(self.fine_offsets)
        if offsets != sorted(set(offsets)) or (offsets and offsets[0] < 1):
            raise ValueError(f"fine_offsets={offsets} must be positive, increasing and without repetition")

    def validate_token_ids(self):
        single = {
            name: getattr(self, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id", "bar_token_id")
        }
        positions = range(self.position_token_start, self.position_token_start + self.num_positions)
        for name, value in single.items():
            if not 0 <= value < self.vocab_size:
                raise ValueError(f"{name}={value} must be in [0, vocab_size={self.vocab_size})")
            if value in positions:
                raise ValueError(f"{name}={value} lies in the Position range [{positions.start}, {positions.stop})")
        if len(set(single.values())) < len(single):
            raise ValueError(f"special token ids must differ: {single}")
        if positions.start < 0 or positions.stop > self.vocab_size:
            raise ValueError(
                f"the Position range [{positions.start}, {positions.stop}) exceeds [0, vocab_size={self.vocab_size})"
            )


__all__ = ["MuseformerConfig"]
