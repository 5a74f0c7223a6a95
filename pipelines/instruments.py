"""Instruments of a request: which programs stand for the asked families, and that each of them is heard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

import torch
from transformers import LogitsProcessor

from partimento.tokenization import FAMILY_PROGRAMS, MidiProcessor
from partimento.tokenization.conditions import unknown
from partimento.tokenization.general_midi import PROGRAM_NAMES

__all__ = ["EnterInstruments", "choose_programs", "parts_to_hear", "programs_of", "usual_program"]

# What the name of a family means by itself: an organ is no harmonica, and strings are bowed.
_PLAIN = {"piano": range(6), "organ": range(16, 21), "strings": range(40, 44), "reed": range(64, 72)}
_RARE = 3  # songs below which a count within a genre says nothing


@lru_cache(maxsize=1)
def _usual() -> dict[str, dict[str, int]]:
    """{genre, "" = all: {program: songs}}"""
    return json.loads(files("partimento.pipelines").joinpath("usual_programs.json").read_text(encoding="utf-8"))[
        "songs"
    ]


def usual_program(programs: Iterable[int], genre: str | None = None) -> int:
    """The program that most training songs of `genre` (of all, where the genre has fewer than three) use.

    The songs are those of the embedded checkpoint. Of programs that no song uses, the first is taken.
    """
    programs = list(programs)
    of_genre = _usual().get((genre or "").casefold(), {})
    for counts in (of_genre, _usual()[""]):
        best = max(programs, key=lambda program: (counts.get(str(program), 0), -program))
        if counts.get(str(best), 0) >= (_RARE if counts is of_genre else 1):
            return best
    return programs[0]


def programs_of(name: str) -> tuple[str, tuple[int, ...]]:
    """(family, programs) of a General MIDI family ("guitar": all its programs) or program ("Nylon Guitar": one).

    Raises:
        ValueError: neither; the message names the nearest ones.
    """
    wanted = " ".join(str(name).casefold().replace("-", " ").replace("_", " ").split())
    for family, programs in FAMILY_PROGRAMS.items():
        if wanted == family.replace("-", " "):
            return family, tuple(programs)
    for program, title in enumerate(PROGRAM_NAMES):
        if wanted == title.casefold().replace("-", " "):
            return next(family for family, programs in FAMILY_PROGRAMS.items() if program in programs), (program,)
    raise ValueError(unknown("instrument", name, (*FAMILY_PROGRAMS, *PROGRAM_NAMES)))


def choose_programs(
    instruments: Sequence[str],
    *,
    without: Sequence[str] = (),
    genre: str | None = None,
    present: Iterable[int] = (),
    one_program: bool = True,
) -> dict[str, tuple[int, ...]]:
    """{family: programs that may sound} of a request, in the order of the families.

    Args:
        instruments: families and General MIDI programs; named programs stand for themselves, several of one family too.
        without: families and programs that may not sound.
        genre: decides which program is usual in a family.
        present: programs that play already; they go before the usual one.
        one_program: a family named as such gets one program. False: all of its programs.

    Raises:
        ValueError: an unknown name, or an instrument that `without` takes away entirely.
    """
    forbidden = {program for name in without for program in programs_of(name)[1]}
    chosen: dict[str, set[int]] = {}
    plain = []
    for name in instruments:
        family, programs = programs_of(name)
        left = [program for program in programs if program not in forbidden]
        if not left:
            raise ValueError(
                f"you asked for {name!r} and for none of it: instruments and without contradict each other"
            )
        chosen.setdefault(family, set())
        if len(programs) == 1:
            chosen[family] |= set(left)
        else:
            plain.append((family, left))
    present = set(present)
    for family, left in plain:
        if not one_program:
            chosen[family] |= set(left)
        elif not chosen[family]:
            playing = [program for program in left if program in present]
            core = [program for program in left if program in _PLAIN.get(family, left)]
            chosen[family] |= set(playing) or {usual_program(core or left, genre)}
    return {family: tuple(sorted(chosen[family])) for family in FAMILY_PROGRAMS if family in chosen}


def parts_to_hear(instruments: Sequence[str], chosen: Mapping[str, Sequence[int]]) -> list[tuple[int, ...]]:
    """The parts of a request that must each sound: a named program is one by itself, so that a violin is no viola; of
    what else was chosen a family is one.

    Args:
        instruments: as asked.
        chosen: the outcome of [`choose_programs`].
    """
    alone = {programs[0] for _, programs in map(programs_of, instruments) if len(programs) == 1}
    parts = []
    for programs in chosen.values():
        parts += [(program,) for program in programs if program in alone]
        if rest := tuple(program for program in programs if program not in alone):
            parts.append(rest)
    return parts


class EnterInstruments(LogitsProcessor):
    """From bar `deadline` on, parts that have not sounded for `patience` bars are given the next onset.

    A part is a set of programs, such as a family's. No bar ends before the parts that are due have entered. Runs after
    the grammar: a token counts as legal where its score is finite. Rows are followed token by token, so it serves
    sampling and greedy search, not beams.
    """

    def __init__(
        self, processor: MidiProcessor, parts: Sequence[Iterable[int]], deadline: int, patience: int | None = None
    ):
        """`deadline`: number of the bar, from 1, counted over the whole row; `patience` None: entering once will do."""
        ids = processor.vocabulary.ids
        self.bar_token_id, self.deadline, self.patience = processor.bar_token_id, deadline, patience
        self.endings = [processor.bar_token_id, processor.eos_token_id]
        first = processor.position_token_start
        self.positions = slice(first, first + processor.num_positions)
        self.part_tokens = [[ids[f"Program_{p}"] for p in part if f"Program_{p}" in ids] for part in parts]
        self.program_tokens = [index for token, index in ids.items() if token.startswith("Program_")]
        self.pitch_tokens = [index for token, index in ids.items() if token.startswith(("Pitch_", "PitchDrum_"))]
        self.length = -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == self.length + 1:
            self._advance(input_ids[:, -1])
        else:
            self._begin(input_ids, scores)
        self.length = input_ids.shape[1]
        silent = self.heard < 0
        if self.patience is not None:
            silent |= self.bars[:, None] - self.heard > self.patience
        due = silent & (self.bars >= self.deadline)[:, None]
        wanted = (due.to(scores.dtype) @ self.member.to(scores.dtype)).bool() & scores.isfinite()
        closed = wanted.any(-1, keepdim=True) & ~wanted
        later = due.any(-1) & scores[:, self.positions].isfinite().any(-1)
        closed[:, self.endings] |= later[:, None]
        return scores.masked_fill(closed, float("-inf"))

    def _begin(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        """State after whole rows: bars [rows]; the parts whose program runs, and the bar in which each part sounded
        last, -1 before it has: running and heard [rows, parts]."""
        member = torch.zeros(len(self.part_tokens), scores.shape[-1], dtype=torch.bool, device=scores.device)
        for part, tokens in enumerate(self.part_tokens):
            member[part, tokens] = True
        self.member = member  # [parts, vocabulary]
        kinds = torch.zeros(2, scores.shape[-1], dtype=torch.bool, device=scores.device)
        kinds[0, self.program_tokens], kinds[1, self.pitch_tokens] = True, True
        self.is_program, self.is_pitch = kinds  # [vocabulary]
        columns = torch.arange(input_ids.shape[1], device=scores.device)
        last_program = torch.where(self.is_program[input_ids], columns, -1).cummax(-1).values  # [rows, tokens]
        programs = input_ids.gather(1, last_program.clamp(min=0))
        running = member[:, programs] & (last_program >= 0)  # [parts, rows, tokens]
        bars = (input_ids == self.bar_token_id).cumsum(-1)
        self.bars, self.running = bars[:, -1].clone(), running[..., -1].T
        self.heard = torch.where(running & self.is_pitch[input_ids], bars, -1).amax(-1).T

    def _advance(self, tokens: torch.Tensor) -> None:
        """One more token [rows]."""
        self.bars += tokens == self.bar_token_id
        self.running = torch.where(self.is_program[tokens][:, None], self.member[:, tokens].T, self.running)
        sounds = self.running & self.is_pitch[tokens][:, None]
        self.heard = torch.where(sounds, self.bars[:, None], self.heard)
