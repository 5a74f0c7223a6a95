"""Held-out loss of a model, the same number whatever the batch size or the number of processes."""

import contextlib
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from partimento.training.bptt_data import WindowBatch
from partimento.training.state_carry import StateCarry
from partimento.training.token_data import Batch


class ForwardCall:
    """Calls a model with what its `forward` knows; the losses of several batches add up to a mean over `count`."""

    def __init__(self, model: nn.Module, forward_names: set[str], any_keyword: bool):
        self.names = forward_names
        self.honours_count = getattr(model, "accepts_loss_kwargs", None) is not False and (
            "num_items_in_batch" in forward_names or any_keyword
        )
        self.fixed = {"use_cache": False} if "use_cache" in forward_names else {}

    def check_schedules(self, names: Iterable[str]) -> None:
        """Raise ValueError for a scheduled value that `forward` does not take."""
        for name in names:
            if name not in self.names:
                raise ValueError(f"schedules.{name}: forward of this model takes no such argument; remove the schedule")

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        device: torch.device,
        count: int,
        values: dict[str, float],
        carry: StateCarry | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, scalar terms): this batch's share of the mean over `count` supervised labels.

        Args:
            carry: gives and takes the states of a recurrent model, where `batch` goes on from an earlier one.
        """
        fixed = self.fixed if carry is None else {**self.fixed, **carry.inputs(cast(WindowBatch, batch))}
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
        if self.honours_count:
            outputs = model(**inputs, **values, **fixed, num_items_in_batch=count)
            loss = outputs.loss
        else:
            outputs = model(**inputs, **values, **fixed)
            loss = outputs.loss * (batch.num_supervised / count)
        if carry is not None:
            carry.keep(cast(WindowBatch, batch), outputs.past_key_values)
        share = batch.num_supervised / count
        terms = {
            name: value.detach().float() * share
            for name, value in outputs.items()
            if name != "loss" and isinstance(value, torch.Tensor) and value.numel() == 1
        }
        return loss, terms


@torch.no_grad()
def validate(
    model: nn.Module, call: ForwardCall, batches: Iterable[Batch], accelerator: Accelerator, values: dict[str, float]
) -> dict[str, float]:
    """Return nll (nats per supervised token), perplexity, nll_per_bar, the counts, and the model's scalar terms.

    Dropout is off; random states are left as they were.
    """
    sums: dict[str, Any] = {"loss": 0.0}
    num_tokens = num_bars = 0
    training = model.training
    model.eval()
    with preserved_random_state():
        for batch in batches:
            supervised = batch.num_supervised
            loss, terms = call(model, batch, accelerator.device, 1, values)
            if supervised:
                sums["loss"] = sums["loss"] + loss.double()
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value.double()
            num_tokens += supervised
            num_bars += batch.num_bars
    model.train(training)
    names = sorted(sums)
    local = torch.tensor([float(sums[n]) for n in names] + [num_tokens, num_bars], dtype=torch.float64)
    totals = sum_over_processes(accelerator, local)
    num_tokens, num_bars = totals[-2:]
    means = {name: total / max(1, num_tokens) for name, total in zip(names, totals)}
    nll = means.pop("loss")
    return {
        "nll": nll,
        "perplexity": math.exp(min(nll, 700.0)),
        "nll_per_bar": nll * num_tokens / max(1, num_bars),
        "tokens": int(num_tokens),
        "bars": int(num_bars),
        **means,
    }


def sum_over_processes(accelerator: Accelerator, values: torch.Tensor) -> list[float]:
    """Return the sum of a vector over all processes, the same on each."""
    return cast(torch.Tensor, accelerator.reduce(values.to(accelerator.device), reduction="sum")).tolist()


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave Python's, NumPy's and torch's generators as they were found."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
