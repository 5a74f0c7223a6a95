"""Recurrent baselines, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from partimento.modeling.recurrent.cache_recurrent import RecurrentCache
from partimento.modeling.recurrent.configuration_recurrent import RecurrentConfig
from partimento.modeling.recurrent.modeling_recurrent import (
    RecurrentForCausalLM,
    RecurrentModel,
    RecurrentPreTrainedModel,
)

AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig, exist_ok=True)
AutoModel.register(RecurrentConfig, RecurrentModel, exist_ok=True)
AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM, exist_ok=True)

__all__ = [
    "RecurrentCache",
    "RecurrentConfig",
    "RecurrentForCausalLM",
    "RecurrentModel",
    "RecurrentPreTrainedModel",
]
