"""The two contestants of the benchmark, with random weights: a Museformer preset and a Llama of the same size."""

import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM
from partimento.tokenization import MidiProcessor

BACKENDS = ("eager", "sdpa", "flex_attention", "bar_gather")
PEER = "Llama, sdpa"


def museformer(preset: str, processor: MidiProcessor, **overrides) -> MuseformerForCausalLM:
    """A Museformer preset for the ids of `processor`."""
    torch.manual_seed(0)
    return MuseformerForCausalLM(MuseformerConfig.from_preset(preset, **processor.model_config_kwargs(), **overrides))


def full_attention_peer(config: MuseformerConfig) -> LlamaForCausalLM:
    """A Llama with the width, depth and heads of `config`; its feed-forward width makes the number of parameters equal.

    Full causal attention over all tokens in PyTorch's fused kernel: what one would use without bar attention.
    """
    with torch.device("meta"):
        wanted = sum(p.numel() for p in MuseformerForCausalLM(config).parameters())
    d, layers = config.hidden_size, config.num_hidden_layers
    width = ((wanted - 2 * config.vocab_size * d) // layers - 4 * d * d) // (3 * d)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=d,
            intermediate_size=width,
            num_hidden_layers=layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=2**17,
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            attn_implementation="sdpa",
        )
    )


def num_parameters(model: PreTrainedModel) -> int:
    """Number of weights."""
    return sum(p.numel() for p in model.parameters())


def clock(device: torch.device | str) -> float:
    """Seconds: CPU time of this process with one thread on a CPU, where other processes then count least; else wall."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
