"""From arguments to a model, and from a model to a folder in Hub layout. Knows no architecture by name."""

import dataclasses
import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import partimento.modeling  # registers our architectures
from partimento.modeling import DenseVAEModel
from partimento.tokenization import DenseVAEProcessor, MidiProcessor
from partimento.training.arguments import ModelArguments, nearest
from partimento.training.checkpointing import flush_folder, replace_folder
from partimento.training.lora import add_lora, has_lora, merged_state_dict

assert partimento.modeling


def build_config(arguments: ModelArguments, processor: Any) -> PreTrainedConfig:
    """Return the configuration: preset, then what the vocabulary demands, then `model.config` overrides.

    Args:
        processor: knows what the vocabulary demands; `None` where the architecture itself fixes the ids.

    Raises:
        ValueError: unknown model type, preset without support, or an override that the configuration does not declare.
    """
    try:
        config_class = CONFIG_MAPPING[arguments.model_type]
    except KeyError:
        hint = nearest(arguments.model_type, CONFIG_MAPPING.keys())
        raise ValueError(f"model.model_type is {arguments.model_type!r}: {hint}") from None
    declared = {f.name for f in dataclasses.fields(config_class)}
    for key in arguments.config:
        if key not in declared:
            raise ValueError(f"unknown key 'model.config.{key}': {nearest(key, declared)}")
    facts = {} if processor is None else processor.model_config_kwargs()
    values = {key: value for key, value in facts.items() if key in declared}
    values |= arguments.config
    if arguments.preset is None:
        return AutoConfig.for_model(arguments.model_type, **values)
    from_preset = getattr(config_class, "from_preset", None)
    if from_preset is None:
        raise ValueError(
            f"model.preset is {arguments.preset!r}: {arguments.model_type} has no presets; use model.config"
        )
    return from_preset(arguments.preset, **values)


def build_model(arguments: ModelArguments, processor: Any) -> PreTrainedModel:
    """Return the model in fp32: new, or with the weights of `model.init_from`.

    Raises:
        ValueError: as `build_config`, weights made for another vocabulary, or adapters without weights to adapt.
    """
    auto_class = getattr(transformers, arguments.auto_class)
    options = {}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    if arguments.init_from:
        model = auto_class.from_pretrained(arguments.init_from, dtype=torch.float32, **options, **arguments.config)
        adopt_vocabulary(model, arguments.init_from, processor)
    elif arguments.lora_rank:
        raise ValueError(
            f"model.lora_rank is {arguments.lora_rank}: adapters need trained weights; give model.init_from"
        )
    else:
        model = auto_class.from_config(build_config(arguments, processor), dtype=torch.float32, **options)
    if arguments.lora_rank:
        add_lora(model, arguments.lora_rank)
    if arguments.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if model.can_generate():
        set_generation_defaults(model, processor, arguments.generation)
    return model


def build_grid_model(arguments: ModelArguments) -> PreTrainedModel:
    """Return a model in fp32 whose configuration fixes its ids: new, or with the weights of `model.init_from`.

    Raises:
        ValueError: as `build_config`, or generation settings that do not exist.
    """
    auto_class = getattr(transformers, arguments.auto_class)
    if arguments.init_from:
        model = auto_class.from_pretrained(arguments.init_from, dtype=torch.float32, **arguments.config)
    else:
        model = auto_class.from_config(build_config(arguments, None), dtype=torch.float32)
    if not hasattr(model.config, "tracks"):
        raise ValueError(f"grids.corpus is given, but a {model.config.model_type} reads tokens: give data.corpus")
    if unused := model.generation_config.update(**arguments.generation):
        raise ValueError(f"unknown key 'model.generation.{next(iter(unused))}': see transformers.GenerationConfig")
    return model


def build_roll_model(arguments: ModelArguments, processor: DenseVAEProcessor) -> DenseVAEModel:
    """Return a dense VAE in fp32 for the grids of a processor: new, or with the weights of `model.init_from`.

    Raises:
        ValueError: as `build_config`, weights made for other grids, or another architecture.
    """
    if arguments.init_from:
        model = AutoModel.from_pretrained(arguments.init_from, dtype=torch.float32, **arguments.config)
    else:
        model = AutoModel.from_config(build_config(arguments, processor), dtype=torch.float32)
    if not isinstance(model, DenseVAEModel):
        raise ValueError(f"grids.roll is {processor.kind!r}, but a {model.config.model_type} reads no such grids")
    shape = tuple(processor.model_config_kwargs()["input_shape"])
    if tuple(model.config.input_shape) != shape:
        raise ValueError(
            f"the model reads {model.config.input_shape}, but grids.roll {processor.kind!r} with grids.num_bars "
            f"{processor.num_bars} gives {shape}: make them agree"
        )
    return model


def adopt_vocabulary(model: PreTrainedModel, source: str, processor: Any) -> None:
    """Give the model new rows for tokens that the corpus has behind those of the model's own processor.

    Raises:
        ValueError: the tokens of `source` are not the first ones of the corpus.
    """
    try:
        own = MidiProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.init_from {source}: no usable processor beside the weights, so what their token ids mean is "
            f"unknown ({error})"
        ) from None
    if model.config.vocab_size != len(own.vocabulary.tokens):
        raise ValueError(
            f"model.init_from {source}: {model.config.vocab_size} tokens in the model, "
            f"{len(own.vocabulary.tokens)} in the processor beside it"
        )
    if own.vocab_hash == processor.vocab_hash:
        return
    before, now = own.vocabulary.tokens, processor.vocabulary.tokens
    if own.preset != processor.preset or now[: len(before)] != before:
        raise ValueError(
            f"model.init_from {source} has another vocabulary than the corpus ({own.vocab_hash}, "
            f"{processor.vocab_hash}): prepare the corpus with --processor {source}"
        )
    model.resize_token_embeddings(len(now))
    assert model.config.vocab_size == len(now)


def set_generation_defaults(model: PreTrainedModel, processor: Any, settings: dict[str, Any]) -> None:
    """Fill the generation configuration that is saved beside the weights."""
    defaults = model.generation_config
    assert isinstance(defaults, GenerationConfig)
    unused = defaults.update(
        bos_token_id=processor.bos_token_id,
        eos_token_id=processor.eos_token_id,
        pad_token_id=processor.pad_token_id,
        **settings,
    )
    if unused:
        raise ValueError(f"unknown key 'model.generation.{next(iter(unused))}': see transformers.GenerationConfig")


def forward_names(model: torch.nn.Module) -> tuple[set[str], bool]:
    """Return the argument names of `forward`, and whether it takes any keyword."""
    parameters = inspect.signature(model.forward).parameters
    return set(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def export_model(folder: Path, model: PreTrainedModel, processor: Any, state_dict: dict[str, torch.Tensor]) -> None:
    """Write `folder` in Hub layout (weights, configurations, processor if there is one), whole or not at all."""
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=merged_state_dict(model, state_dict) if has_lora(model) else state_dict)
    if processor is not None:
        processor.save_pretrained(temporary)
    flush_folder(temporary)
    replace_folder(temporary, folder)
