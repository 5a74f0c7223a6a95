"""Dense variational autoencoder, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel

from partimento.modeling.dense_vae.configuration_dense_vae import DenseVAEConfig
from partimento.modeling.dense_vae.modeling_dense_vae import (
    DenseVAEDecoder,
    DenseVAEEncoder,
    DenseVAEModel,
    DenseVAEOutput,
    DenseVAEPreTrainedModel,
)

AutoConfig.register(DenseVAEConfig.model_type, DenseVAEConfig, exist_ok=True)
AutoModel.register(DenseVAEConfig, DenseVAEModel, exist_ok=True)

__all__ = [
    "DenseVAEConfig",
    "DenseVAEDecoder",
    "DenseVAEEncoder",
    "DenseVAEModel",
    "DenseVAEOutput",
    "DenseVAEPreTrainedModel",
]
