"""Hyper-parameters of the recurrent baselines and their validity.

Only the architecture is stored. Sampling parameters belong to the generation configuration, optimiser settings to
the training arguments. Model and tokenizer meet in the id fields: Bar, PAD, BOS and EOS.
"""

import dataclasses
import difflib

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

CELL_TYPES = ("rnn_tanh", "rnn_relu", "gru", "gru_thesis", "lstm", "lstm_peephole")
HEAD_TYPES = ("categorical", "bernoulli", "gaussian")
INPUT_MODES = ("embedding", "one_hot")
PEEPHOLE_GATES = ("input", "forget", "output")


@strict
class RecurrentConfig(PreTrainedConfig):
    """Configuration of a recurrent sequence model.

    Args:
        vocab_size: number of token ids.
        cell_type: `rnn_tanh`, `rnn_relu`, `gru` (reset gate behind the matrix product, as in torch), `gru_thesis`
            (reset gate before it), `lstm`, `lstm_peephole`; the equations stand in `cells_recurrent`.
        hidden_size: units per layer and direction.
        num_hidden_layers: layers stacked.
        embedding_size: width of the token embedding; with the heads `bernoulli` and `gaussian`, whose steps are
            vectors, the width of the vectors read and predicted.
        input_mode: `embedding`, or `one_hot`: the first layer reads the token's column of its input matrix.
        head_type: `categorical` (softmax over tokens), `bernoulli` (independent on/off components, a piano roll), or
            `gaussian` (unit variance, that is squared error).
        bidirectional: a second network reads from the end; encoders (`RecurrentModel`) only.
        residual: layers above the first add their input to their output.
        dropout: on the outputs of every layer.
        forget_gate_bias: initial bias of the LSTM's forget gate.
        peephole_gates: which gates of `lstm_peephole` see the memory: of `input`, `forget`, `output`.
        initializer_range: standard deviation of token embeddings and output matrix (normal, cut at two deviations).
        bar_token_id: id of the token that opens a bar, `None` where there are no bars; for evaluation.
        pad_token_id: padding; its embedding is zero. What counts as padding is said by the attention mask.
        bos_token_id: first token of a row.
        eos_token_id: end of the piece.
        use_cache: whether `generate` decodes incrementally.
        tie_word_embeddings: output matrix = token embedding; needs `embedding` and equal sizes.
    """

    model_type = "music_recurrent"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 640
    cell_type: str = "lstm"
    hidden_size: int = 512
    num_hidden_layers: int = 2
    embedding_size: int = 256
    input_mode: str = "embedding"
    head_type: str = "categorical"
    bidirectional: bool = False
    residual: bool = False
    dropout: float | int = 0.0
    forget_gate_bias: float | int = 1.0
    peephole_gates: list[str] | tuple[str, ...] = PEEPHOLE_GATES
    initializer_range: float | int = 0.1
    bar_token_id: int | None = 4
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    use_cache: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        names = [field.name for field in dataclasses.fields(self)]
        for name in kwargs:
            if close := difflib.get_close_matches(name, names, n=1, cutoff=0.85):
                raise ValueError(f"RecurrentConfig has no field `{name}`; did you mean `{close[0]}`?")
        if isinstance(self.peephole_gates, list):  # JSON has no tuples
            self.peephole_gates = tuple(self.peephole_gates)
        super().__post_init__(**kwargs)

    @property
    def reads_vectors(self) -> bool:
        """Whether a step is a vector of `embedding_size` numbers and not a token."""
        return self.head_type != "categorical"

    @property
    def input_size(self) -> int:
        """Width of what the first layer reads."""
        return self.vocab_size if self.input_mode == "one_hot" else self.embedding_size

    @property
    def output_size(self) -> int:
        """Width of what the model predicts per step."""
        return self.embedding_size if self.reads_vectors else self.vocab_size

    def validate_sizes(self):
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range={self.initializer_range} must be positive")

    def validate_choices(self):
        for name, choices in (("cell_type", CELL_TYPES), ("input_mode", INPUT_MODES), ("head_type", HEAD_TYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        gates = list(self.peephole_gates)
        if len(set(gates)) < len(gates) or set(gates) - set(PEEPHOLE_GATES):
            raise ValueError(f"peephole_gates={gates} must be different ones of {', '.join(PEEPHOLE_GATES)}")
        if self.reads_vectors and self.input_mode == "one_hot":
            raise ValueError(f"input_mode='one_hot' needs tokens, but head_type={self.head_type!r} reads vectors")

    def validate_tying(self):
        if not self.tie_word_embeddings:
            return
        if self.reads_vectors or self.input_mode != "embedding" or self.embedding_size != self.hidden_size:
            raise ValueError(
                "tie_word_embeddings=True needs head_type='categorical', input_mode='embedding' and "
                f"embedding_size={self.embedding_size} equal to hidden_size={self.hidden_size}"
            )

    def validate_token_ids(self):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "bar_token_id"):
            value = getattr(self, name)
            if not self.reads_vectors and value is not None and not 0 <= value < self.vocab_size:
                raise ValueError(f"{name}={value} must be in [0, vocab_size={self.vocab_size}), or None")


__all__ = ["RecurrentConfig"]
