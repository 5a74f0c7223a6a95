"""MusicVAE, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from partimento.modeling.musicvae.cache_musicvae import MusicVAECache
from partimento.modeling.musicvae.configuration_musicvae import MusicVAEConfig
from partimento.modeling.musicvae.modeling_musicvae import MusicVAEModel, MusicVAEPreTrainedModel
from partimento.modeling.musicvae.outputs_musicvae import MusicVAEOutput

AutoConfig.register(MusicVAEConfig.model_type, MusicVAEConfig, exist_ok=True)
AutoModel.register(MusicVAEConfig, MusicVAEModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(MusicVAEConfig, MusicVAEModel, exist_ok=True)

__all__ = ["MusicVAECache", "MusicVAEConfig", "MusicVAEModel", "MusicVAEOutput", "MusicVAEPreTrainedModel"]
