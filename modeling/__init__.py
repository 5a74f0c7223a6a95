"""Models of partimento. Importing this package registers them with the Auto classes of transformers."""

from partimento.modeling.museformer import (
    MuseformerCache,
    MuseformerConfig,
    MuseformerForCausalLM,
    MuseformerModel,
)

__all__ = ["MuseformerCache", "MuseformerConfig", "MuseformerForCausalLM", "MuseformerModel"]
