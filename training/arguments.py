"""Typed configuration of a training run: one YAML file, five groups, and two maps of values for forward.

    model: {...}      ModelArguments: which architecture, which preset, start from scratch or from a folder
    data: {...}       DataArguments: corpus, crops, batches, augmentation
    grids: {...}      GridArguments: windows on a grid in place of `data`, for MusicVAE
    bptt: {...}       BpttArguments: whole songs in windows in place of crops, for recurrent models
    train: {...}      TrainArguments: optimiser, schedule, precision, validation, checkpoints
    schedules: {...}  name of a forward argument -> a schedule (see partimento.training.schedules)
    validation_values: {...}  name of a forward argument -> its value in validation, where it shall not follow the
                      schedule: figures of different updates can then be compared

An unknown key or a value of the wrong type raises a ValueError that names the nearest valid key. Architecture belongs
to the model's own configuration: `model.config` holds overrides of it and nothing of the other groups ever enters it.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from partimento.training.bptt_arguments import BpttArguments, validate_bptt_arguments
from partimento.training.grid_arguments import GridArguments, validate_grid_arguments
from partimento.training.schedules import LEARNING_RATE_SCHEDULES, make_value_schedule


@dataclass
class ModelArguments:
    """What is trained."""

    model_type: str = "museformer"
    preset: str | None = None  # passed to the configuration's `from_preset`
    config: dict[str, Any] = field(default_factory=dict)  # overrides of the configuration
    init_from: str | None = None  # a folder or Hub id whose weights are the starting point
    lora_rank: int = 0  # of adapters, trained in place of the weights of `init_from`; 0: the weights themselves
    auto_class: Literal["AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel"] = "AutoModelForCausalLM"
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False
    generation: dict[str, Any] = field(default_factory=dict)  # decoding defaults saved beside the weights


@dataclass
class DataArguments:
    """What it is trained on; lengths are in tokens, a crop's length counts prefix and EOS."""

    corpus: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    crop: Literal["random", "head", "none"] = "random"
    crop_length: int = 4096
    head_probability: float = 0.0  # share of random crops that start at bar 1
    short_crop_length: int = 512  # of the rows that are drawn short, on which conditions weigh more
    short_crop_probability: float = 0.0
    streaming: bool = False  # training songs stay on disk, see partimento.training.streamed_data
    stream_songs: int = 2048  # so many are in memory at a time, and shuffled among themselves
    train_songs: int = 0  # so many, spread evenly over the split; 0: all
    crops_per_song: int = 1  # 0: in proportion to the length, one per `crop_length` tokens
    max_tokens_per_batch: int = 8192  # rows x longest row of one micro-batch
    max_rows_per_batch: int = 0  # 0: no limit
    bucket_rows: int = 512  # rows sorted together by length and bars; 1 switches bucketing off
    transpose: list[int] = field(default_factory=lambda: [-5, 6])  # semitones, both ends included; [] is off
    tempo_factor: list[float] = field(default_factory=lambda: [0.9, 1.1])  # [] is off
    condition_slot_dropout: float = 0.2
    condition_all_dropout: float = 0.1
    validation_crop: Literal["random", "head", "none"] = "head"  # drawn once, always without augmentation
    validation_length: int = 4096
    validation_songs: int = 0  # 0: the whole split
    validation_tokens_per_batch: int = 0  # 0: as in training
    num_workers: int = 0


@dataclass
class TrainArguments:
    """How it is trained. An update is one optimiser step."""

    output: str = "runs/run"
    seed: int = 0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    batches_per_update: int = 1  # micro-batches of one update over all processes: accumulation = this / processes
    max_updates: int = 1000
    max_minutes: float = 0.0  # 0: no limit; counts the time of earlier sessions of the run
    max_tokens: int = 0  # 0: no limit; training tokens of the whole run, padding not counted
    learning_rate: float = 5e-4  # the peak
    final_learning_rate: float = 0.0  # the floor of cosine and exponential
    lr_schedule: Literal["inverse_sqrt", "cosine", "exponential", "constant"] = "inverse_sqrt"
    warmup_updates: int = 0
    cooldown_updates: int = 0  # linear decay to zero over the last updates, on top of any schedule
    lr_gamma: float = 0.9999
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    epsilon: float = 1e-9
    weight_decay: float = 0.01
    decay_all: bool = False  # False: biases, norms and embeddings are not decayed
    max_grad_norm: float = 1.0  # 0: no clipping
    skip_update_above_norm: float = 0.0  # 0: never
    max_scaler_skips: int = 10
    ema_decay: float = 0.0  # 0: no average
    eval_every: int = 100  # 0: only at update 0 and at the end
    patience: int = 0  # validations without improvement before stopping; 0: never
    min_delta: float = 0.0
    save_every: int = 100  # 0: only at the end
    keep_checkpoints: int = 2
    log_every: int = 1
    num_threads: int = 0  # 0: the library's default
    find_unused_parameters: bool = False
    report_to: list[str] = field(default_factory=list)  # tensorboard, trackio, wandb


@dataclass
class RunArguments:
    """A whole recipe."""

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    grids: GridArguments = field(default_factory=GridArguments)
    bptt: BpttArguments = field(default_factory=BpttArguments)
    train: TrainArguments = field(default_factory=TrainArguments)
    schedules: dict[str, Any] = field(default_factory=dict)
    validation_values: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values."""
        return dataclasses.asdict(self)


def load_arguments(path: str | Path, overrides: typing.Sequence[str] = ()) -> RunArguments:
    """Read a recipe and apply `group.key=value` overrides (values are YAML).

    Raises:
        ValueError: no YAML, unknown key, wrong type, malformed override, or values that contradict each other.
    """
    content = _read_yaml(Path(path).read_text(encoding="utf-8"), str(path)) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping with the groups model, data, train, schedules")
    for override in overrides:
        _set_override(content, override)
    return parse_arguments(content)


def parse_arguments(content: dict[str, Any]) -> RunArguments:
    """Turn a nested mapping into checked arguments. Raises ValueError as `load_arguments` does."""
    arguments = _build(RunArguments, content, "")
    validate_arguments(arguments)
    return arguments


def validate_arguments(arguments: RunArguments) -> None:
    """Check values across fields. Raises ValueError naming the argument, the value and the remedy."""
    data, train = arguments.data, arguments.train
    positive = {
        "data.crop_length": data.crop_length,
        "data.short_crop_length": data.short_crop_length,
        "data.validation_length": data.validation_length,
        "data.max_tokens_per_batch": data.max_tokens_per_batch,
        "data.bucket_rows": data.bucket_rows,
        "data.stream_songs": data.stream_songs,
        "train.batches_per_update": train.batches_per_update,
        "train.max_updates": train.max_updates,
        "train.learning_rate": train.learning_rate,
        "train.keep_checkpoints": train.keep_checkpoints,
        "train.log_every": train.log_every,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}: it must be positive")
    probabilities = {
        "data.head_probability": data.head_probability,
        "data.short_crop_probability": data.short_crop_probability,
        "data.condition_slot_dropout": data.condition_slot_dropout,
        "data.condition_all_dropout": data.condition_all_dropout,
    }
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: give a probability between 0 and 1")
    if not 0 <= train.ema_decay < 1:
        raise ValueError(f"train.ema_decay is {train.ema_decay}: give a value in [0, 1)")
    for name, pair in (("data.transpose", data.transpose), ("data.tempo_factor", data.tempo_factor)):
        if pair and (len(pair) != 2 or pair[0] > pair[1]):
            raise ValueError(f"{name} is {pair}: give [lowest, highest], or [] to switch it off")
    if len(train.betas) != 2:
        raise ValueError(f"train.betas is {train.betas}: give two values")
    if data.crop != "none" and data.crop_length > data.max_tokens_per_batch:
        raise ValueError(
            f"data.crop_length {data.crop_length} exceeds data.max_tokens_per_batch {data.max_tokens_per_batch}: "
            "a full crop would fit into no batch; raise the batch or shorten the crop"
        )
    if data.streaming and arguments.bptt.window:
        raise ValueError("data.streaming: windows (bptt.window) need the songs in memory; set it to false")
    if train.warmup_updates + train.cooldown_updates > train.max_updates:
        raise ValueError(
            f"train.warmup_updates {train.warmup_updates} + train.cooldown_updates {train.cooldown_updates} exceed "
            f"train.max_updates {train.max_updates}: shorten them"
        )
    assert train.lr_schedule in LEARNING_RATE_SCHEDULES
    validate_grid_arguments(arguments.grids)
    validate_bptt_arguments(arguments.bptt, train.batches_per_update)
    for name, description in arguments.schedules.items():
        make_value_schedule(name, description)
    for name, value in arguments.validation_values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"validation_values.{name} is {value!r}: expected a number")


def nearest(name: str, choices: typing.Iterable[str]) -> str:
    """Return a hint that names the nearest valid choice, or all of them."""
    choices = sorted(choices)
    match = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"valid: {', '.join(choices)}"


def _set_override(content: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise ValueError(f"--set {override}: expected group.key=value")
    node = content
    for key in keys[:-1]:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ValueError(f"--set {override}: '{key}' is a value, not a group")
    node[keys[-1]] = _read_yaml(text, f"--set {override}")


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _build(cls: type, content: Any, prefix: str) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{prefix or 'configuration'}: expected a mapping, got {content!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in hints:
            raise ValueError(f"unknown key '{name}': {nearest(str(key), hints)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = _build(typing.cast(type, hint), {} if value is None else value, name)
        else:
            values[key] = _convert(value, hint, name)
    return cls(**values)


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Check one value against its annotation; `1e-4`, which YAML 1.1 reads as text, becomes a number."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _convert(value, options[0], name)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value is False and "no" in choices:  # YAML 1.1 reads a bare `no` as False
            value = "no"
        if value not in choices:
            raise ValueError(f"{name} is {value!r}: {nearest(str(value), map(str, choices))}")
        return value
    if origin is list:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}: expected a list")
        return [_convert(item, typing.get_args(hint)[0], f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r}: expected a mapping")
        return value
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{name} is {value!r}: expected {hint.__name__}")
