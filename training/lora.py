"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) inside a model: only the adapters are trained, and an export
holds plain merged weights, which load anywhere.

The adapters are those of the library peft. They are injected in place, so the model keeps its class.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

ADAPTER = "default"


def add_lora(model: PreTrainedModel, rank: int, generator_seed: int = 0) -> None:
    """Freeze `model` and give every trainable linear layer, but the output matrix, an adapter of `rank`.

    The scale is 2 (alpha is twice the rank). At first the adapters change nothing.

    Raises:
        ValueError: peft is not installed, or the model has no linear layer of its own.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("model.lora_rank needs the library peft: pip install 'partimento[lora]'") from None
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module.weight.requires_grad
    ]
    if not names:
        raise ValueError(f"model.lora_rank: a {model.config.model_type} has no linear layers to adapt; set it to 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` was applied."""
    return any(name.endswith(f"lora_A.{ADAPTER}") for name, _ in model.named_modules())


def merged_state_dict(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state_dict` of a model with adapters as that of the model without: W + scale * B A in place of W."""
    merged = {name: tensor for name, tensor in state_dict.items() if ".lora_" not in name}
    for name, module in model.named_modules():
        scaling: dict[str, float] | None = getattr(module, "scaling", None) if hasattr(module, "lora_A") else None
        if scaling is None:
            continue
        base = merged.pop(f"{name}.base_layer.weight")
        down, up = (state_dict[f"{name}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
        merged[f"{name}.weight"] = base + scaling[ADAPTER] * (up.to(base.dtype) @ down.to(base.dtype))
        if f"{name}.base_layer.bias" in merged:
            merged[f"{name}.bias"] = merged.pop(f"{name}.base_layer.bias")
    return merged
