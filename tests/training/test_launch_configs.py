"""The files for `accelerate launch` name options that exist, and FSDP shards the layers of our models."""

from pathlib import Path

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from partimento.modeling import (
    DenseVAEConfig,
    DenseVAEModel,
    MuseformerConfig,
    MuseformerForCausalLM,
    MusicVAEConfig,
    MusicVAEModel,
    RecurrentConfig,
    RecurrentForCausalLM,
)
from partimento.training import arguments

CONFIGS = sorted((Path(arguments.__file__).parent / "launch_configs").glob("*.yaml"))
FSDP = next(path for path in CONFIGS if path.stem == "fsdp")
IDS = torch.tensor([[1, 4, 40, 41, 4, 42, 43, 44]])
MODELS = {
    "museformer": lambda: MuseformerForCausalLM(MuseformerConfig.from_preset("tiny", hidden_size=32)),
    "recurrent": lambda: RecurrentForCausalLM(RecurrentConfig(hidden_size=16, embedding_size=8, num_hidden_layers=2)),
    "musicvae": lambda: MusicVAEModel(MusicVAEConfig(z_size=4, encoder_hidden_sizes=(8,), decoder_hidden_sizes=(8,))),
    "dense_vae": lambda: DenseVAEModel(DenseVAEConfig(input_shape=(4, 4), hidden_sizes=(8,), latent_size=2)),
}
# What FSDP shards one by one; of a VAE nothing.
UNITS = {"museformer": "MuseformerLayer", "recurrent": "RecurrentLayer", "musicvae": None, "dense_vae": None}


@pytest.fixture
def one_process():
    """A process group of one process on the CPU."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def units(model, monkeypatch):
    """Names of the modules that accelerate shards by themselves, as the launcher would tell it."""
    config = yaml.safe_load(FSDP.read_text())["fsdp_config"]
    for name, value in config.items():
        monkeypatch.setenv(name.upper(), str(value).lower() if isinstance(value, bool) else str(value))
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_auto_wrap_policy(model)
    policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
    return [name for name, module in model.named_modules() if name and policy(module)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_option_exists(path):
    content = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert {name: getattr(config, name) for name in content if name != "distributed_type"} == {
        name: value for name, value in content.items() if name != "distributed_type"
    }
    assert config.distributed_type == content["distributed_type"]
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(content.get("fsdp_config", {})) <= known


@pytest.mark.parametrize("name", MODELS)
def test_fsdp_shards_the_layers(name, monkeypatch):
    model = MODELS[name]()
    layers = [path for path, module in model.named_modules() if type(module).__name__ == UNITS[name]]
    assert units(model, monkeypatch) == layers
    assert len(layers) >= 2 or UNITS[name] is None


@pytest.mark.parametrize("name", ["museformer", "recurrent"])
def test_a_sharded_model_has_the_same_loss_and_gradients(name, monkeypatch, one_process):
    torch.manual_seed(0)
    model, reference = MODELS[name]().eval(), MODELS[name]().eval()
    reference.load_state_dict(model.state_dict())
    for path in units(model, monkeypatch):
        fully_shard(model.get_submodule(path), mesh=one_process)
    fully_shard(model, mesh=one_process)
    assert isinstance(model, FSDPModule)
    losses = [m(input_ids=IDS, labels=IDS).loss for m in (model, reference)]
    for loss in losses:
        loss.backward()
    assert torch.allclose(*losses)
    for (path, sharded), whole in zip(model.named_parameters(), reference.parameters()):
        assert torch.allclose(sharded.grad.full_tensor(), whole.grad, atol=1e-6), path
