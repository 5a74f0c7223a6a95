"""Watching and stopping a running generation, token by token."""

import threading
import time
from collections.abc import Callable

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

__all__ = ["BarProgress", "BarStreamer", "StopOnEvent"]

BarProgress = Callable[[int, int, int], None]
"""Called as `on_bar(output, bar, total)`: output 0 ... n-1 has begun bar `bar` (1 ... total) of those asked for."""


class BarStreamer(BaseStreamer):
    """Reports each new bar of each row of a batch.

    `generate` hands over the prompt first and then one `[batch]` tensor of ids per step.
    """

    def __init__(self, bar_token_id: int, total: int, on_bar: BarProgress, first_bars: int = 0):
        """`first_bars`: bars that the prompt has opened for this generation and that count as new."""
        self.bar_token_id, self.total, self.on_bar, self.first_bars = bar_token_id, total, on_bar, first_bars
        self.counts: list[int] | None = None

    def put(self, value: torch.Tensor) -> None:
        if self.counts is None:
            self.counts = [self.first_bars] * len(value)
            for row in range(len(value)):
                if self.first_bars:
                    self.on_bar(row, self.first_bars, self.total)
            return
        for row, token in enumerate(value.tolist()):
            if token == self.bar_token_id:
                self.counts[row] += 1
                self.on_bar(row, self.counts[row], self.total)

    def end(self) -> None:
        """Nothing is buffered."""


class StopOnEvent(StoppingCriteria):
    """Stops every row within one token after `event` is set, or when `max_seconds` have passed."""

    def __init__(self, event: threading.Event | None = None, max_seconds: float | None = None):
        self.event = event
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds

    @property
    def stopped(self) -> bool:
        """Whether the generation was asked to end early."""
        asked = self.event is not None and self.event.is_set()
        return asked or (self.deadline is not None and time.monotonic() > self.deadline)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)
