"""Tiny models with random weights in the layout of a checkpoint."""

import json

import pytest
import torch
from safetensors.torch import save_file

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.melody_attributes import ATTRIBUTES


def save_model(folder, tracks=("melody",), **overrides):
    """A model folder whose decoder depends on z, with attribute vectors and latent facts of its own."""
    torch.manual_seed(0)
    processor = MusicVAEProcessor(tracks)
    sizes = {"z_size": 8, "encoder_hidden_sizes": (16,), "decoder_hidden_sizes": (16, 16), **overrides}
    model = MusicVAEModel(MusicVAEConfig(**processor.model_config_kwargs(), **sizes))
    for name, parameter in model.named_parameters():
        if "initial" in name or "to_mu" in name or "head" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file({name: torch.eye(8)[i] for i, name in enumerate(ATTRIBUTES)}, folder / "attributes.safetensors")
    directions = torch.linalg.qr(torch.randn(8, 8))[0][:3]
    info = {
        "kl_bits_per_dim": [0.5] * 8,
        "order_by_kl": list(range(8)),
        "mu_mean": [0.25] * 8,
        "mu_quantiles": {"levels": [0.05, 0.95], "values": [[-1.0] * 8, [1.0] * 8]},
        "pca": {
            "directions": directions.tolist(),
            "standard_deviations": [3.0, 2.0, 1.0],
            "explained": [0.5, 0.3, 0.2],
        },
    }
    (folder / "latent_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def save_musicvae():
    """The function save_model(folder, tracks, **config)."""
    return save_model


@pytest.fixture(scope="session")
def musicvae_folder(tmp_path_factory):
    """A melody model of two bars and eight latent dimensions."""
    return save_model(tmp_path_factory.mktemp("musicvae"))
