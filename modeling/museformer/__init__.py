"""Museformer, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from partimento.modeling.museformer.cache_museformer import MuseformerCache
from partimento.modeling.museformer.configuration_museformer import MuseformerConfig
from partimento.modeling.museformer.modeling_museformer import (
    MuseformerForCausalLM,
    MuseformerModel,
    MuseformerPreTrainedModel,
)

AutoConfig.register(MuseformerConfig.model_type, MuseformerConfig, exist_ok=True)
AutoModel.register(MuseformerConfig, MuseformerModel, exist_ok=True)
AutoModelForCausalLM.register(MuseformerConfig, MuseformerForCausalLM, exist_ok=True)

__all__ = [
    "MuseformerCache",
    "MuseformerConfig",
    "MuseformerForCausalLM",
    "MuseformerModel",
    "MuseformerPreTrainedModel",
]
