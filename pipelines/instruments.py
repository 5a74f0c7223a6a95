"""Asked instruments enter in time, also where the model would have left one out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from partimento.tokenization import FAMILY_PROGRAMS, MidiProcessor

__all__ = ["EnterInstruments"]


class EnterInstruments(LogitsProcessor):
    """From bar `deadline` on, families that have not sounded yet are given the next onset at which they are legal.

    No bar ends before they have entered. Runs after the grammar: a token counts as legal where its score is finite.
    Rows are followed token by token, so it serves sampling and greedy search, not beams.
    """

    def __init__(self, processor: MidiProcessor, families: Sequence[str], deadline: int):
        """`deadline`: number of the bar, from 1, counted over the whole row."""
        ids = processor.vocabulary.ids
        self.bar_token_id, self.deadline = processor.bar_token_id, deadline
        self.endings = [processor.bar_token_id, processor.eos_token_id]
        first = processor.position_token_start
        self.positions = slice(first, first + processor.num_positions)
        self.family_tokens = [
            [ids[f"Program_{p}"] for p in FAMILY_PROGRAMS[family] if f"Program_{p}" in ids] for family in families
        ]
        self.length = -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1]
        if length != self.length + 1:
            member = torch.zeros(len(self.family_tokens), scores.shape[-1], dtype=torch.bool, device=scores.device)
            for family, tokens in enumerate(self.family_tokens):
                member[family, tokens] = True
            self.member = member  # [families, vocabulary]
            self.heard = member[:, input_ids].any(-1).T  # [rows, families]
            self.bars = (input_ids == self.bar_token_id).sum(-1)
        else:
            self.heard |= self.member[:, input_ids[:, -1]].T
            self.bars += input_ids[:, -1] == self.bar_token_id
        self.length = length
        due = ~self.heard & (self.bars >= self.deadline)[:, None]
        wanted = (due.to(scores.dtype) @ self.member.to(scores.dtype)).bool() & scores.isfinite()
        closed = wanted.any(-1, keepdim=True) & ~wanted
        later = due.any(-1) & scores[:, self.positions].isfinite().any(-1)
        closed[:, self.endings] |= later[:, None]
        return scores.masked_fill(closed, float("-inf"))
