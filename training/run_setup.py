"""What surrounds the loop: the output folder, the record of a run, and how it is resumed."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed

from partimento.modeling import DenseVAEConfig, RecurrentForCausalLM
from partimento.tokenization import DenseVAEProcessor, MidiProcessor, MusicVAEProcessor
from partimento.training.arguments import RunArguments, TrainArguments
from partimento.training.bptt_data import WindowData
from partimento.training.checkpointing import (
    CheckpointError,
    LoopState,
    clean_partial,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_facts,
    verify_checkpoint,
    write_atomically,
)
from partimento.training.collapse_monitor import CollapseMonitor
from partimento.training.grid_data import GridData
from partimento.training.model_setup import build_grid_model, build_model, build_roll_model
from partimento.training.optimization import make_optimizer
from partimento.training.roll_data import RollData
from partimento.training.run_log import RunLog
from partimento.training.state_carry import StateCarry
from partimento.training.streamed_data import SongStream, StreamedData
from partimento.training.token_data import TokenData
from partimento.training.training_loop import TrainingLoop, is_sharded

LIBRARIES = (
    "partimento",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
)

# Settings that may differ between the sessions of a run without changing an update that was already planned.
FREE_SETTINGS = {
    "train": {
        "output",
        "max_minutes",
        "max_tokens",
        "eval_every",
        "patience",
        "min_delta",
        "save_every",
        "keep_checkpoints",
        "log_every",
        "num_threads",
        "report_to",
    },
    "data": {"corpus", "num_workers"},
    "grids": {"corpus"},
}


def make_accelerator(arguments: RunArguments, expect_processes: int | None = None) -> Accelerator:
    """Return the accelerator.

    Raises:
        ValueError: another number of processes than expected, or one that does not divide the update.
    """
    train = arguments.train
    if train.report_to:
        Path(train.output).mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision=train.mixed_precision,
        log_with=train.report_to or None,
        project_dir=train.output if train.report_to else None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=train.find_unused_parameters)],
    )
    processes = accelerator.num_processes
    if expect_processes is not None and processes != expect_processes:
        raise ValueError(f"--expect-processes {expect_processes}, but {processes} started: check the launcher")
    if train.batches_per_update % processes:
        raise ValueError(
            f"train.batches_per_update {train.batches_per_update} cannot be shared by {processes} processes: "
            "give a multiple of their number"
        )
    accelerator.gradient_accumulation_steps = train.batches_per_update // processes
    return accelerator


def make_loop(arguments: RunArguments, accelerator: Accelerator) -> TrainingLoop:
    """Load data and processor, build model and optimiser, and join them to a loop."""
    train = arguments.train
    set_seed(train.seed)
    build = build_on_tokens if arguments.grids.corpus is None else build_on_grids
    model, data, processor = build(arguments, accelerator)
    optimizer = make_optimizer(model, train)
    model, optimizer = accelerator.prepare(model, optimizer)
    if train.ema_decay and is_sharded(accelerator):
        raise ValueError(f"train.ema_decay {train.ema_decay}: not available with sharded weights; set it to 0")
    set_seed(train.seed, device_specific=True)  # same weights, different dropout
    facts = {"arguments": arguments.to_dict(), "data_hash": data.data_hash, "vocab_hash": processor.vocab_hash}
    log = RunLog(Path(train.output) / "log.jsonl" if accelerator.is_main_process else None)
    monitor = None
    if isinstance(data, GridData) and getattr(accelerator.unwrap_model(model).config, "variational", True):
        monitor = CollapseMonitor(accelerator.unwrap_model(model), data.validation_batches, accelerator.device)
    carry = None
    if isinstance(data, WindowData) and arguments.bptt.carry:
        carry = StateCarry(accelerator, accelerator.unwrap_model(model).config.num_hidden_layers)
    return TrainingLoop(arguments, accelerator, model, optimizer, data, processor, log, facts, monitor, carry)


def build_on_tokens(arguments: RunArguments, accelerator: Accelerator) -> tuple[Any, TokenData, MidiProcessor]:
    """Return model, data and processor of a run on token sequences."""
    if arguments.data.corpus is None:
        raise ValueError(
            "data.corpus is not given: --set data.corpus=<folder made by prepare_data.py> (a MusicVAE takes "
            "grids.corpus=<folder made by prepare_grids.py>)"
        )
    processor = MidiProcessor.from_pretrained(Path(arguments.data.corpus) / "processor")
    settings = data_settings(arguments, accelerator)
    if arguments.bptt.window:
        data = WindowData(arguments.data, arguments.bptt, processor, **settings)
    else:
        data = (StreamedData if arguments.data.streaming else TokenData)(arguments.data, processor, **settings)
    data.epoch(0)  # a corpus too small for one update is named before the model is built
    model = build_model(arguments.model, processor)
    if arguments.bptt.window and not isinstance(model, RecurrentForCausalLM):
        raise ValueError(
            f"bptt.window is {arguments.bptt.window}: windows need a recurrent model (model.model_type "
            f"music_recurrent, not {arguments.model.model_type}); set it to 0 to train on crops"
        )
    return model, data, processor


def build_on_grids(arguments: RunArguments, accelerator: Accelerator) -> tuple[Any, GridData, Any]:
    """Return model, data and processor of a run on grid windows.

    The configuration of a MusicVAE fixes its ids; a dense VAE is made for the grid that `grids.roll` names.
    """
    settings = data_settings(arguments, accelerator)
    if arguments.grids.roll:
        processor = DenseVAEProcessor(arguments.grids.roll, arguments.grids.num_bars)
        model = build_roll_model(arguments.model, processor)
        data = RollData(arguments.grids, processor, **settings)
    elif arguments.model.model_type == DenseVAEConfig.model_type:
        raise ValueError("grids.roll is not given: say which grid a dense VAE reads (drums, melody or piano_roll)")
    else:
        model = build_grid_model(arguments.model)
        processor = MusicVAEProcessor.for_model(model.config)
        data = GridData(arguments.grids, processor, **settings)
    data.epoch(0)
    if accelerator.is_main_process:
        for split in (data.train, data.validation):
            print(f"{len(split)} windows of {len(split.names)} songs; {dict(split.counts)}", file=sys.stderr)
    return model, data, processor


def data_settings(arguments: RunArguments, accelerator: Accelerator) -> dict[str, int]:
    """Return what all kinds of data need to know of the run."""
    return {
        "seed": arguments.train.seed,
        "batches_per_update": arguments.train.batches_per_update,
        "process": accelerator.process_index,
        "processes": accelerator.num_processes,
    }


def start_or_resume(loop: TrainingLoop, resume: str, allow_resharding: bool = False) -> None:
    """Prepare the output folder, and load a checkpoint if there is one to go on from.

    Args:
        resume: `never` (an output folder with a run in it is refused), `auto` (the newest valid checkpoint, if any), or
            the path of a checkpoint folder.

    Raises:
        CheckpointError: the checkpoint is damaged, belongs to other data, or to another number of processes.
    """
    output, accelerator = loop.output, loop.accelerator
    if resume == "never" and (list_checkpoints(output) or (output / "log.jsonl").exists()):
        raise CheckpointError(f"{output} holds a run already: pass --resume auto, or another train.output")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        clean_partial(output)
    accelerator.wait_for_everyone()
    folder, skipped = find_checkpoint(output) if resume in ("auto", "never") else (Path(resume), [])
    for problem in skipped:
        accelerator.print(f"skipped a newer checkpoint that does not verify: {problem}", file=sys.stderr)
    changes = []
    if folder is not None:
        changes = resume_from(loop, folder, allow_resharding)
    else:
        loop.log.cut_back(-1)
        loop.log.write("event", 0, event="start", parameters=loop.plain_model.num_parameters())
    if accelerator.is_main_process:
        record_run(loop, changes, resumed=folder is not None)
    if loop.train.report_to:
        accelerator.init_trackers("tracking")


def resume_from(loop: TrainingLoop, folder: Path, allow_resharding: bool) -> list[str]:
    """Load one checkpoint folder into the loop and cut the log back to it; return all settings that changed."""
    problem = verify_checkpoint(folder)
    if problem is not None:
        raise CheckpointError(f"{folder}: {problem}")
    facts = read_facts(folder)
    for name in ("data_hash", "vocab_hash"):
        if facts[name] != loop.facts[name]:
            raise CheckpointError(f"{folder} was trained on other data ({name} differs): use the same data.corpus")
    loop.state = load_checkpoint(folder, loop.accelerator, allow_resharding)
    if loop.average is not None and (folder / loop.average.FILE).exists():
        loop.average.load(folder)
    apply_raised_limits(loop.state, facts["arguments"]["train"], loop.train)
    changes = changed_settings(facts["arguments"], loop.facts["arguments"], FREE_SETTINGS)
    loop.log.cut_back(loop.state.update)
    loop.log.write("event", loop.state.update, event="resume", folder=folder.name, changed=changes)
    if changes:
        loop.accelerator.print(f"resumed with other settings: {', '.join(changes)}", file=sys.stderr)
    return changed_settings(facts["arguments"], loop.facts["arguments"], {})


def apply_raised_limits(state: LoopState, before: dict[str, Any], train: TrainArguments) -> None:
    """Let a run go on that has reached a limit, where the limit is now higher than what was used.

    Args:
        before: the group `train` of the session that wrote the checkpoint.
    """
    for limit, used, unit in (("max_minutes", state.seconds, 60), ("max_tokens", state.tokens_seen, 1)):
        old, new = before.get(limit, 0), getattr(train, limit)
        if state.limit == limit and old and (not new or (new > old and used < new * unit)):
            state.planned_updates = 0
            if state.finished == limit:
                state.finished = None
    reached = state.planned_updates and state.update >= state.planned_updates  # by the clock or the tokens
    if state.finished in ("max_updates", "patience") and state.update < train.max_updates and not reached:
        state.finished = None


def changed_settings(before: dict[str, Any], now: dict[str, Any], free: dict[str, set[str]]) -> list[str]:
    """Return `group.key: old -> new` for every setting that is not `free`."""
    changes = []
    for group in ("model", "data", "grids", "bptt", "train"):
        if group not in before:  # a checkpoint from before there was such a group
            continue
        for key, value in now[group].items():
            if key not in free.get(group, ()) and before[group].get(key) != value:
                changes.append(f"{group}.{key}: {before[group].get(key)} -> {value}")
    for name in ("schedules", "validation_values"):
        if before.get(name, {}) != now[name]:
            changes.append(name)
    return changes


def record_run(loop: TrainingLoop, changes: list[str], resumed: bool) -> None:
    """Write `config.yaml` (the recipe the run began with) and `run.json` (versions, commit, hashes, command).

    Resuming keeps both and adds an entry to `sessions` in `run.json`, with the settings that changed.
    """
    path = loop.output / "run.json"
    names = ("commit", "command", "started", "resumed_at")
    session = {
        "commit": git_commit(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resumed_at": loop.state.update,
        "changed": changes,
    }
    if resumed and path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        first = {name: record.get(name) for name in names} | {"changed": []}
        record["sessions"] = [*record.get("sessions", [first]), session]
        write_atomically(path, json.dumps(record, indent=1, default=str))
        return
    text = yaml.safe_dump(loop.arguments.to_dict(), sort_keys=False, allow_unicode=True)
    write_atomically(loop.output / "config.yaml", text)
    record = {
        **{name: session[name] for name in names},
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "processes": loop.accelerator.num_processes,
        "device": str(loop.accelerator.device),
        "parameters": loop.plain_model.num_parameters(),
        "model_config": loop.plain_model.config.to_dict(),
        "data_hash": loop.facts["data_hash"],
        "vocab_hash": loop.facts["vocab_hash"],
        "songs": {"train": len(loop.data.train), "validation": len(loop.data.validation)},
        "tokens": {"train": count_tokens(loop.data.train), "validation": count_tokens(loop.data.validation)},
        "sessions": [session],
    }
    write_atomically(path, json.dumps(record, indent=1, default=str))


def count_tokens(split: Any) -> int:
    """Return the tokens of a split, in memory or on disk."""
    return split.num_tokens if isinstance(split, SongStream) else len(split.ids)


def git_commit() -> str | None:
    """Return the commit of the checkout this file is in, with `-dirty` if tracked files differ; None outside one."""
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip() or None


def library_version(name: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
