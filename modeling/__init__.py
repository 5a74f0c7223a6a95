"""Models of partimento. Importing this package registers them with the Auto classes of transformers."""

from transformers import AutoProcessor

from partimento.modeling.dense_vae import DenseVAEConfig, DenseVAEModel
from partimento.modeling.museformer import (
    MuseformerCache,
    MuseformerConfig,
    MuseformerForCausalLM,
    MuseformerModel,
)
from partimento.modeling.musicvae import MusicVAECache, MusicVAEConfig, MusicVAEModel
from partimento.modeling.recurrent import RecurrentCache, RecurrentConfig, RecurrentForCausalLM, RecurrentModel

try:  # the one place where models and tokenization meet: AutoProcessor finds the processor of a model folder
    from partimento.tokenization import DenseVAEProcessor, MidiProcessor, MusicVAEProcessor
except ImportError:  # without the MIDI libraries the models work on token ids
    pass
else:
    AutoProcessor.register(DenseVAEConfig, DenseVAEProcessor, exist_ok=True)
    AutoProcessor.register(MuseformerConfig, MidiProcessor, exist_ok=True)
    AutoProcessor.register(MusicVAEConfig, MusicVAEProcessor, exist_ok=True)
    AutoProcessor.register(RecurrentConfig, MidiProcessor, exist_ok=True)

__all__ = [
    "DenseVAEConfig",
    "DenseVAEModel",
    "MuseformerCache",
    "MuseformerConfig",
    "MuseformerForCausalLM",
    "MuseformerModel",
    "MusicVAECache",
    "MusicVAEConfig",
    "MusicVAEModel",
    "RecurrentCache",
    "RecurrentConfig",
    "RecurrentForCausalLM",
    "RecurrentModel",
]
