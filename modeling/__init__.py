"""Models of partimento. Importing this package registers them with the Auto classes of transformers."""

from transformers import AutoProcessor

from partimento.modeling.museformer import (
    MuseformerCache,
    MuseformerConfig,
    MuseformerForCausalLM,
    MuseformerModel,
)

try:  # the one place where models and tokenization meet: AutoProcessor finds the processor of a Museformer folder
    from partimento.tokenization import MidiProcessor
except ImportError:  # without the MIDI libraries the models work on token ids
    pass
else:
    AutoProcessor.register(MuseformerConfig, MidiProcessor, exist_ok=True)

__all__ = ["MuseformerCache", "MuseformerConfig", "MuseformerForCausalLM", "MuseformerModel"]
