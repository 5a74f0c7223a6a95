"""Watching and stopping a running generation, token by token."""

import threading
import time
from collections.abc import Callable

import torch
from transformers import LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

__all__ = ["BarMusic", "BarProgress", "BarStreamer", "EndBeforeBar", "StopOnEvent"]

BarProgress = Callable[[int, int, int], None]
"""Called as `on_bar(output, bar, total)`: output 0 ... n-1 has begun bar `bar` (1 ... total) of those asked for."""

BarMusic = Callable[[int, int, list[int]], None]
"""Called as `on_music(output, bars, ids)`: `ids` are the new tokens of an output up to its last finished bar, and
`bars` counts them."""


class BarStreamer(BaseStreamer):
    """Reports each new bar of each row of a batch, and what its finished bars hold.

    `generate` hands over the prompt first and then one `[batch]` tensor of ids per step.
    """

    def __init__(
        self,
        bar_token_id: int,
        total: int,
        on_bar: BarProgress | None,
        opening: list[int] | tuple[int, ...] = (),
        on_music: BarMusic | None = None,
    ):
        """`opening`: tokens of the prompt that count as new, such as the first Bar of a continuation."""
        self.bar_token_id, self.total, self.on_bar, self.on_music = bar_token_id, total, on_bar, on_music
        self.opening = list(opening)
        self.counts: list[int] | None = None
        self.rows: list[list[int]] = []

    def put(self, value: torch.Tensor) -> None:
        if self.counts is None:
            self.counts = [self.opening.count(self.bar_token_id)] * len(value)
            self.rows = [list(self.opening) for _ in value]
            for row, bars in enumerate(self.counts):
                if self.on_bar and bars:
                    self.on_bar(row, bars, self.total)
            return
        for row, token in enumerate(value.tolist()):
            if token == self.bar_token_id:
                if self.on_music and self.counts[row]:
                    self.on_music(row, self.counts[row], list(self.rows[row]))
                self.counts[row] += 1
                if self.on_bar:
                    self.on_bar(row, self.counts[row], self.total)
            self.rows[row].append(token)

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


class EndBeforeBar(LogitsProcessor):
    """Ends a row where the model would begin bar `bar` (from 1, counted over the whole row): that bar line's
    probability becomes EOS's. What comes before it is drawn as in a piece that goes on. Runs after the grammar."""

    def __init__(self, processor, bar: int):
        self.bar_token_id, self.eos_token_id, self.bar = processor.bar_token_id, processor.eos_token_id, bar

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        here = (input_ids == self.bar_token_id).sum(-1) == self.bar - 1
        scores = scores.clone()
        line = scores[:, self.bar_token_id]
        scores[:, self.eos_token_id] = torch.where(here, line, scores[:, self.eos_token_id])
        scores[:, self.bar_token_id] = torch.where(here, float("-inf"), line)
        return scores
