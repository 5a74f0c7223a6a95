"""Hyper-parameters of the dense variational autoencoder and their validity.

Architecture and objective only; schedules and optimiser settings belong to the training arguments.
"""

import dataclasses
import difflib
import math

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

LIKELIHOODS = ("bernoulli", "categorical", "gaussian")
ACTIVATIONS = ("relu", "tanh", "gelu", "softplus")
WEIGHT_INITS = ("lecun_normal", "xavier_uniform")
BIAS_INITS = ("zeros", "thesis")


@strict
class DenseVAEConfig(PreTrainedConfig):
    """Configuration of a dense VAE.

    Args:
        input_shape: shape of one item: `(28, 28)` for an image, `(16, 9)` for a bar of drums. The model flattens it.
        hidden_sizes: units per layer of the encoder; the decoder has them in reverse order. Empty: linear maps.
        latent_size: dimensions of z.
        activation: `relu`, `tanh`, `gelu` or `softplus`, behind every hidden layer.
        likelihood: p(x | z): `bernoulli` per cell, `categorical` per row (the last axis of `input_shape` is one-hot) or
            `gaussian` with one learned standard deviation for all cells.
        free_bits: KL of an item that costs nothing, in bits; alters the loss, never the reported bound.
        num_samples: draws of z per item in the training objective.
        weight_init: `lecun_normal`, N(0, 1 / fan-in), or `xavier_uniform`.
        bias_init: `zeros`, or `thesis`: N(0, 1 / units of the layer).
        variational: False gives a plain autoencoder: no variance, no KL, z = mu.
        mask_as_input: the encoder also reads which cells are observed.
        min_scale: floor of the standard deviation of `gaussian`.
    """

    model_type = "dense_vae"

    input_shape: list[int] | tuple[int, ...] = (28, 28)
    hidden_sizes: list[int] | tuple[int, ...] = (500, 500)
    latent_size: int = 20
    activation: str = "relu"
    likelihood: str = "bernoulli"
    free_bits: float | int = 0.0
    num_samples: int = 1
    weight_init: str = "lecun_normal"
    bias_init: str = "zeros"
    variational: bool = True
    mask_as_input: bool = False
    min_scale: float = 1e-3
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        names = [field.name for field in dataclasses.fields(self)]
        for name in kwargs:
            if close := difflib.get_close_matches(name, names, n=1, cutoff=0.85):
                raise ValueError(f"DenseVAEConfig has no field `{name}`; did you mean `{close[0]}`?")
        self.input_shape, self.hidden_sizes = tuple(self.input_shape), tuple(self.hidden_sizes)
        super().__post_init__(**kwargs)

    @property
    def input_size(self) -> int:
        """Cells of an item, D."""
        return math.prod(self.input_shape)

    @property
    def encoder_input_size(self) -> int:
        """Width of what the encoder reads: the cells and, with `mask_as_input`, which of them are observed."""
        return self.input_size * (2 if self.mask_as_input else 1)

    def validate_sizes(self):
        for name in ("input_shape", "hidden_sizes"):
            sizes = getattr(self, name)
            if any(size < 1 for size in sizes) or (name == "input_shape" and not sizes):
                raise ValueError(f"{name}={sizes} must hold positive numbers")
        for name in ("latent_size", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.free_bits < 0 or self.min_scale <= 0:
            raise ValueError(f"free_bits={self.free_bits} must not be negative, min_scale={self.min_scale} positive")

    def validate_choices(self):
        for name, choices in (
            ("likelihood", LIKELIHOODS),
            ("activation", ACTIVATIONS),
            ("weight_init", WEIGHT_INITS),
            ("bias_init", BIAS_INITS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}")
        if self.likelihood == "categorical" and len(self.input_shape) < 2:
            raise ValueError(f"likelihood='categorical' needs rows and choices, not input_shape={self.input_shape}")

    def validate_plain(self):
        if not self.variational and (self.free_bits or self.num_samples > 1):
            raise ValueError("variational=False has no KL and one code per item: set free_bits=0 and num_samples=1")


__all__ = ["DenseVAEConfig"]
