"""The loop: updates, validation, selection, checkpoints. It sees of a model only `outputs.loss` and scalar terms."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from tqdm import tqdm

from partimento.training.arguments import RunArguments
from partimento.training.checkpointing import LoopState, rotate_checkpoints, save_checkpoint
from partimento.training.grid_data import GridData
from partimento.training.model_setup import export_model, forward_names
from partimento.training.optimization import MovingAverage, all_finite
from partimento.training.run_log import RunLog
from partimento.training.schedules import learning_rate, make_value_schedule
from partimento.training.state_carry import StateCarry
from partimento.training.token_data import Batch, TokenData
from partimento.training.validation import ForwardCall, sum_over_processes, validate

NUM_RECENT_NORMS = 10


class NonFiniteError(RuntimeError):
    """Loss or gradient norm became NaN or infinite; the message names the crash checkpoint."""


class TrainingLoop:
    """Trains a prepared model. `run()` goes on from `state`, which is either new or comes from a checkpoint."""

    def __init__(
        self,
        arguments: RunArguments,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: Any,
        data: TokenData | GridData,
        processor: Any,
        log: RunLog,
        facts: dict[str, Any],
        monitor: Callable[[], dict[str, Any]] | None = None,
        carry: StateCarry | None = None,
    ):
        self.arguments, self.train = arguments, arguments.train
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.data, self.processor, self.log, self.facts = data, processor, log, facts
        self.monitor = monitor  # further figures of the main process, logged with every validation
        self.carry = carry  # states handed from update to update, for windows of truncated back-propagation
        self.output = Path(self.train.output)
        self.state = LoopState()
        self.plain_model = accelerator.unwrap_model(model)
        names, any_keyword = forward_names(self.plain_model)
        self.call = ForwardCall(self.plain_model, names, any_keyword)
        self.call.check_schedules(arguments.schedules)
        self.call.check_schedules(arguments.validation_values)
        self.schedules = {name: make_value_schedule(name, d) for name, d in arguments.schedules.items()}
        data.accepts_bar_offset = "bar_offset" in names
        self.average = MovingAverage(self.plain_model, self.train.ema_decay) if self.train.ema_decay else None
        self.evaluation_model = model if is_sharded(accelerator) else self.plain_model
        self.progress = tqdm(disable=True)
        self.mark = time.perf_counter()
        self.current: dict[str, float] = {}

    def run(self) -> LoopState:
        """Train until a limit is reached, then validate, save `final/` and the last checkpoint.

        Raises:
            NonFiniteError: after a crash checkpoint has been written.
        """
        state = self.state
        self.model.train()
        self.open_progress()
        self.mark = time.perf_counter()
        if state.last_validation < 0:
            self.validate_and_select()
        while state.finished is None:
            for batches in self.data.epoch(state.epoch, state.position):
                self.step(batches)
                if state.finished is not None:
                    break
            else:
                state.epoch, state.position = state.epoch + 1, 0
        self.progress.close()
        self.export("final")
        if self.average is not None:
            self.average.swap(self.plain_model)
            self.export("average")
            self.average.swap(self.plain_model)
        return state

    def step(self, batches: list[Batch]) -> None:
        """Make one update with everything that follows it."""
        state, train = self.state, self.train
        self.update(batches)
        state.update += 1
        state.position += 1
        state.window["seconds"] = state.window.get("seconds", 0.0) + self.tick()
        if state.update % train.log_every == 0:
            self.write_log()
        last = state.update >= self.planned_updates
        if last:
            state.finished = "max_updates" if state.update >= train.max_updates else state.limit
        if last or (train.eval_every and state.update % train.eval_every == 0):
            self.validate_and_select()
            if train.patience and state.validations_without_gain >= train.patience:
                state.finished = state.finished or "patience"
        if state.finished or (train.save_every and state.update % train.save_every == 0):
            self.checkpoint()
            self.tick()

    def tick(self) -> float:
        """Add the time since the last call to the run's clock and return it."""
        now = time.perf_counter()
        passed, self.mark = now - self.mark, now
        self.state.seconds += passed
        return passed

    @property
    def planned_updates(self) -> int:
        """The last update, as far as it is known now."""
        return min(self.state.planned_updates or self.train.max_updates, self.train.max_updates)

    def update(self, batches: list[Batch]) -> None:
        """Accumulate the gradient of sum(cross-entropy) / N over all micro-batches and processes, and apply it."""
        accelerator, state, train = self.accelerator, self.state, self.train
        number = state.update + 1
        counts = self.count(batches)
        total = max(1, counts["supervised"])
        # Accelerate divides by the accumulation steps and data parallelism by the processes; N already covers both.
        scale = accelerator.gradient_accumulation_steps * accelerator.num_processes
        values = {name: schedule(number) for name, schedule in self.schedules.items()}
        carry = {} if self.carry is None else {"carry": self.carry}
        sums: dict[str, torch.Tensor] = {}
        for batch in batches:
            with accelerator.accumulate(self.model):
                loss, terms = self.call(self.model, batch, accelerator.device, total, values, **carry)
                accelerator.backward(loss * scale)
            for name, value in {"loss": loss.detach().float(), **terms}.items():
                sums[name] = sums[name] + value if name in sums else value
        assert accelerator.sync_gradients
        norm = accelerator.clip_grad_norm_(self.model.parameters(), train.max_grad_norm or math.inf)
        assert norm is not None
        norm = float(norm)
        means = self.reduce(sums)
        state.recent_norms = [*state.recent_norms, norm][-NUM_RECENT_NORMS:]
        rate = learning_rate(number, train, self.planned_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.apply(batches, means["loss"], norm)
        self.collect(counts, means, norm, {"lr": rate, **values})

    def apply(self, batches: list[Batch], loss: float, norm: float) -> None:
        """Make the optimiser step, unless the update is to be dropped or the run to be stopped."""
        state, train, scaler = self.state, self.train, self.accelerator.scaler
        overflow = scaler is not None and math.isfinite(loss) and not math.isfinite(norm)
        state.scaler_skips_in_a_row = state.scaler_skips_in_a_row + 1 if overflow else 0
        if overflow and state.scaler_skips_in_a_row <= train.max_scaler_skips:
            state.skipped_updates += 1
            self.optimizer.step()  # the scaler leaves the weights alone and lowers its scale
        elif not all_finite((loss, norm)):
            self.crash(batches, loss, norm)
        elif train.skip_update_above_norm and norm > train.skip_update_above_norm:
            state.skipped_updates += 1
            if scaler is not None:
                scaler.update()
        else:
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.plain_model)
        self.optimizer.zero_grad()

    def count(self, batches: list[Batch]) -> dict[str, int]:
        """Count over all processes; the main process also tells the others here that time or tokens are nearly over."""
        state = self.state
        limit = self.limit_in_sight()
        numbers = [
            sum(b.num_supervised for b in batches),
            sum(b.num_tokens for b in batches),
            sum(next(iter(b.inputs.values())).numel() for b in batches),
            int(self.accelerator.is_main_process and bool(limit)),
        ]
        if self.accelerator.num_processes > 1:
            numbers = [int(number) for number in sum_over_processes(self.accelerator, torch.tensor(numbers))]
        if numbers[3] and not state.planned_updates:
            state.planned_updates = min(self.train.max_updates, state.update + max(1, self.train.cooldown_updates))
            state.limit = limit or "max_minutes"
            self.log.write("event", state.update + 1, event=limit, planned_updates=state.planned_updates)
        return {"supervised": numbers[0], "tokens": numbers[1], "padded": numbers[2]}

    def limit_in_sight(self) -> str | None:
        """The limit for whose sake the cool-down must begin now, to end within it: `max_tokens` or `max_minutes`."""
        state, train = self.state, self.train
        if state.planned_updates or not state.update:
            return None
        share = 1 + train.cooldown_updates / state.update  # what is used at the end of it over what is used now
        if train.max_tokens and state.tokens_seen * share >= train.max_tokens:
            return "max_tokens"
        # The first updates, with compilation and the first validation, say little about the rate.
        if (
            train.max_minutes
            and state.update > train.warmup_updates
            and state.seconds * share >= train.max_minutes * 60
        ):
            return "max_minutes"
        return None

    def reduce(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        """Add the shares of all processes."""
        names = sorted(sums)
        stacked = torch.stack([sums[name].reshape(()) for name in names])
        return dict(zip(names, sum_over_processes(self.accelerator, stacked)))

    def collect(self, counts: dict[str, int], means: dict[str, float], norm: float, values: dict[str, float]) -> None:
        """Add an update to the sums of the next log line."""
        window, total = self.state.window, counts["supervised"]
        self.state.tokens_seen += counts["tokens"]
        for name, number in {**counts, "updates": 1, "norm": norm}.items():
            window[name] = window.get(name, 0) + number
        for name, mean in means.items():
            window[f"sum_{name}"] = window.get(f"sum_{name}", 0.0) + mean * total
        window["norm_max"] = max(norm, window.get("norm_max", 0.0))
        self.current = values

    def write_log(self) -> None:
        """Write the means since the last line, to the log, the trackers and the progress bar."""
        state, window = self.state, self.state.window
        supervised = max(1, window["supervised"])
        entry = {name.removeprefix("sum_"): window[name] / supervised for name in window if name.startswith("sum_")}
        entry |= {"norm": window["norm"] / window["updates"], "norm_max": window["norm_max"], **self.current}
        entry |= {
            "epoch": state.epoch,
            "tokens_seen": state.tokens_seen,
            "padding": 1 - window["tokens"] / window["padded"],
            "skipped_updates": state.skipped_updates,
            "tokens_per_second": window["tokens"] / max(1e-9, window["seconds"]),
            "seconds": state.seconds,
        }
        self.log.write("train", state.update, **entry)
        self.accelerator.log({f"train/{name}": value for name, value in entry.items()}, step=state.update)
        self.progress.set_postfix_str(
            f"loss {entry['loss']:.4f} norm {entry['norm']:.2f} {entry['tokens_per_second']:.0f} tok/s", refresh=False
        )
        self.progress.update(state.update - self.progress.n)
        self.progress.total = self.planned_updates
        state.window = {}

    def open_progress(self) -> None:
        """Start the bar, with few lines where nobody watches."""
        self.progress = tqdm(
            total=self.planned_updates,
            initial=self.state.update,
            disable=not self.accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            unit="update",
            dynamic_ncols=True,
        )

    def validate_and_select(self) -> None:
        """Validate, and keep the model in `best/` if it is the best so far."""
        state, train = self.state, self.train
        values = {name: schedule(max(1, state.update)) for name, schedule in self.schedules.items()}
        values |= self.arguments.validation_values
        result = self.validate_once(values)
        if self.average is not None:
            self.average.swap(self.plain_model)
            result["average_nll"] = self.validate_once(values)["nll"]
            self.average.swap(self.plain_model)
        improved = state.best is None or result["nll"] < state.best - train.min_delta
        if improved:
            state.best, state.best_update, state.validations_without_gain = result["nll"], state.update, 0
            self.export("best")
        else:
            state.validations_without_gain += 1
        state.last_validation = state.update
        more = self.monitor() if self.monitor is not None and self.accelerator.is_main_process else {}
        seconds = self.tick()
        self.log.write("validation", state.update, **result, **more, best=improved, validation_seconds=seconds)
        result |= {name: value for name, value in more.items() if isinstance(value, int | float)}
        self.accelerator.log({f"validation/{name}": value for name, value in result.items()}, step=state.update)
        if self.accelerator.is_main_process:
            self.progress.write(
                f"update {state.update}: validation nll {result['nll']:.4f} nats/{self.data.unit}, "
                f"{result['nll_per_bar']:.2f} nats/bar{' (best)' if improved else ''}",
                file=sys.stderr,
            )

    def validate_once(self, values: dict[str, float]) -> dict[str, float]:
        """Return the held-out figures of the weights as they are."""
        batches = self.data.validation_batches()
        return validate(self.evaluation_model, self.call, batches, self.accelerator, values)

    def export(self, name: str) -> None:
        """Write the current weights as `<output>/<name>` in Hub layout."""
        state_dict = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            export_model(self.output / name, self.plain_model, self.processor, state_dict)
        self.accelerator.wait_for_everyone()

    def checkpoint(self, name: str | None = None, report: dict[str, Any] | None = None) -> Path:
        """Write a checkpoint from which `run()` goes on as if nothing had happened."""

        def write_extra(folder: Path) -> None:
            if self.average is not None:
                self.average.save(folder)
            if report is not None:
                (folder / "crash.json").write_text(json.dumps(report, indent=1), encoding="utf-8")

        folder = save_checkpoint(self.output, self.accelerator, self.state, write_extra, name, self.facts)
        if self.accelerator.is_main_process:
            rotate_checkpoints(self.output, self.train.keep_checkpoints, self.state.best_update)
        return folder

    def crash(self, batches: list[Batch], loss: float, norm: float) -> None:
        """Write down what is needed to find the cause, then raise NonFiniteError."""
        state = self.state
        report = {
            "update": state.update + 1,
            "epoch": state.epoch,
            "position": state.position,
            "loss": str(loss),
            "norms": [str(value) for value in state.recent_norms],
            "songs": gather_object([[b.songs for b in batches]]),
            "state": dataclasses.asdict(state),
        }
        folder = self.checkpoint(f"crash-{state.update + 1}", report)
        self.log.write("event", state.update + 1, event="non-finite", loss=loss, norm=norm, folder=folder.name)
        raise NonFiniteError(
            f"update {state.update + 1}: loss {loss}, gradient norm {norm}; last norms and song names are in "
            f"{folder}/crash.json, the weights before the update beside it"
        )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds the whole model."""
    return accelerator.distributed_type == DistributedType.FSDP
