"""The grammar inside ``generate``: a logits processor that leaves only legal tokens, for whole batches at once.

State per row is a handful of registers in one tensor; a token moves all of them by two table look-ups, so a step costs
some forty small tensor operations, whatever the batch or the length of the history. B = rows, V = vocabulary.
"""

import numpy as np
import torch
from transformers import LogitsProcessor

from partimento.tokenization.grammar import (
    BAR,
    CONDITION,
    DRUM,
    DURATION,
    EOS,
    METRE,
    PAD,
    PITCH,
    POSITION,
    PROGRAM,
    START,
    TEMPO,
    UNK,
    Grammar,
)
from partimento.tokenization.grammar_tables import (
    BAR_POSITION,
    HAS_NOTE,
    INITIAL_REGISTERS,
    KEEP,
    NUM_BARS,
    ONSET,
    PHASE,
    RANK,
    RUNNING_METRE,
    RUNNING_PROGRAM,
    RUNNING_TEMPO,
    GenerationConstraints,
    GrammarTables,
)


class BatchState:
    """Registers [B, 9] of all rows and the notes started at the current onset.

    ``stamps`` [B, P + 1, 128] holds the number of the onset at which a (program, pitch) was last used, so a new onset
    needs no clearing; ``counts`` [B, P + 1] holds onset * 256 + number of notes. Index P stands for "no program".
    """

    def __init__(self, tables: GrammarTables, num_rows: int):
        device, programs = tables.device, tables.num_programs + 1
        self.tables = tables
        self.rows = torch.arange(num_rows, device=device)
        self.registers = torch.tensor(INITIAL_REGISTERS, device=device).repeat(num_rows, 1)
        self.registers[:, RUNNING_PROGRAM] = tables.num_programs
        self.stamps = torch.full((num_rows, programs, 128), -1, dtype=torch.int32, device=device)
        self.counts = torch.zeros((num_rows, programs), dtype=torch.long, device=device)

    def select(self, rows: torch.Tensor) -> None:
        """Makes row i a copy of the old row rows[i], as after a reordering of beams."""
        self.registers, self.stamps, self.counts = self.registers[rows], self.stamps[rows], self.counts[rows]

    def advance(self, tokens: torch.Tensor) -> None:
        """Moves every row on by one token [B]; rows after EOS stay as they are."""
        tables, old = self.tables, self.registers
        ended = old[:, PHASE : PHASE + 1] == EOS
        written = tables.set_table[tokens]
        new = torch.where(written == KEEP, old, written) + tables.add_table[tokens]
        self.registers = torch.where(ended, old, new)
        starts_note = tables.is_pitch[tokens] & ~ended[:, 0]
        self.start_notes(starts_note, tables.pitch_value[tokens])

    def start_notes(self, starts_note: torch.Tensor, pitches: torch.Tensor) -> None:
        program, onset = self.registers[:, RUNNING_PROGRAM], self.registers[:, ONSET]
        program = torch.where(starts_note, program, self.tables.num_programs)  # other rows write where nobody reads
        self.stamps[self.rows, program, pitches] = onset.to(torch.int32)
        count = torch.maximum(self.counts[self.rows, program], onset * 256)
        self.counts[self.rows, program] = count + starts_note

    def legal(self, remaining: int | None = None, after_prompt: bool = False) -> torch.Tensor:
        """[B, V] True where a token may follow: the rules of ``Grammar.is_legal`` for all rows, and the constraints.

        Args:
            remaining: tokens left in the budget (the same for all rows), or None.
            after_prompt: the last token was not chosen under the constraints.
        """
        tables, constraints, slices = self.tables, self.tables.constraints, self.tables.slices
        registers = self.registers
        phase, program = registers[:, PHASE], registers[:, RUNNING_PROGRAM]
        onset = registers[:, ONSET]
        row = phase
        if tables.fixed_tempo is not None:
            pending = registers[:, RUNNING_TEMPO] != tables.fixed_tempo
            row = torch.where(pending, tables.pending_phase[phase], phase)
        mask = tables.phase_masks[row]
        mask[:, slices[POSITION]] &= tables.position_values > registers[:, BAR_POSITION, None]
        if tables.positions_per_bar is not None:
            limit = tables.positions_per_bar[registers[:, RUNNING_METRE]]
            mask[:, slices[POSITION]] &= tables.position_values < limit[:, None]
        mask[:, slices[TEMPO]] &= tables.tempo_values != registers[:, RUNNING_TEMPO, None]
        has_pitch_left = self.counts[:, :-1] < onset[:, None] * 256 + tables.num_pitches
        mask[:, slices[PROGRAM]] &= has_pitch_left & (tables.program_values != program[:, None])
        unused = self.stamps[self.rows, program] != onset[:, None]
        mask[:, slices[PITCH]] &= unused & tables.pitched_program[program][:, None]
        mask[:, slices[DRUM]] &= unused & tables.drum_program[program][:, None]
        if after_prompt and tables.restricts_notes:
            self.finish_foreign_note(mask, unused)
        if tables.conditions:
            mask[:, slices[CONDITION]] &= tables.condition_ranks > registers[:, RANK, None]
        in_budget_zone = remaining is not None and remaining <= tables.max_cost + 1
        if constraints.min_bars and not in_budget_zone:
            mask[:, slices[EOS].start] &= registers[:, NUM_BARS] >= constraints.min_bars
        if constraints.max_bars is not None:
            mask[:, slices[BAR].start] &= registers[:, NUM_BARS] < constraints.max_bars
        open_mask = mask.clone() if in_budget_zone else mask
        if constraints.no_empty_final_bar:
            mask[:, slices[EOS].start] &= registers[:, HAS_NOTE] == 1
        return self.within_budget(mask, open_mask, remaining) if in_budget_zone else mask

    def finish_foreign_note(self, mask: torch.Tensor, unused: torch.Tensor) -> None:
        """A prompt may end in a Program that the constraints forbid: that one note is completed all the same."""
        tables, phase, program = self.tables, self.registers[:, PHASE], self.registers[:, RUNNING_PROGRAM]
        stuck = ((phase == PROGRAM) & ~mask.any(1))[:, None] & unused
        mask[:, tables.slices[PITCH]] |= stuck & tables.plain_pitched[program][:, None]
        mask[:, tables.slices[DRUM]] |= stuck & tables.plain_drum[program][:, None]

    def within_budget(self, mask: torch.Tensor, open_mask: torch.Tensor, remaining: int) -> torch.Tensor:
        """Keeps tokens after which EOS can still be reached; where none is left, EOS, else the mask as it was."""
        tables, phase = self.tables, self.registers[:, PHASE]
        affordable = mask & (tables.closing_costs[self.registers[:, HAS_NOTE]] < max(remaining, 1))
        only_end = torch.zeros_like(mask)
        only_end[:, tables.slices[EOS].start] = tables.can_end[phase]
        fallback = torch.where(tables.can_end[phase][:, None], only_end, open_mask)
        return torch.where(affordable.any(1, keepdim=True), affordable, fallback)


def state_from_history(tables: GrammarTables, input_ids: torch.Tensor) -> BatchState:
    """State after whole sequences [B, T]: last occurrences instead of a walk over every token."""
    grammar, state = tables.grammar, BatchState(tables, len(input_ids))
    programs = torch.full((len(input_ids),), tables.num_programs)
    registers, notes = [], []
    for row, ids in enumerate(input_ids.cpu().numpy()):
        values, started = history_of_row(grammar, ids)
        registers.append(values)
        programs[row] = values[RUNNING_PROGRAM]
        notes += [(row, program, pitch) for program, pitch in started]
    state.registers = torch.tensor(registers, device=tables.device)
    no_program = state.registers[:, RUNNING_PROGRAM] < 0
    state.registers[:, RUNNING_PROGRAM] = torch.where(
        no_program, tables.num_programs, state.registers[:, RUNNING_PROGRAM]
    )
    if notes:
        rows, programs, pitches = torch.tensor(notes, device=tables.device).unbind(1)
        onset = state.registers[rows, ONSET]
        state.stamps[rows, programs, pitches] = onset.to(torch.int32)
        state.counts[rows, programs] = onset * 256
        state.counts.index_put_((rows, programs), torch.ones_like(rows), accumulate=True)
    return state


def history_of_row(grammar: Grammar, ids: np.ndarray) -> tuple[list[int], list[tuple[int, int]]]:
    """Registers of one row (program -1 = none) and the (program index, pitch) pairs started at its last onset."""
    vocabulary, values = grammar.vocabulary, grammar.values
    ends = np.flatnonzero(ids == vocabulary.eos)
    ids = ids[: ends[0] + 1] if len(ends) else ids
    types = vocabulary.types[ids]

    def last(kind, after=-1):
        found = np.flatnonzero(types[after + 1 :] == kind)
        return after + 1 + int(found[-1]) if len(found) else -1

    registers = list(INITIAL_REGISTERS)
    loud = np.flatnonzero((types != PAD) & (types != UNK))
    registers[PHASE] = int(types[loud[-1]]) if len(loud) else START
    columns = {PROGRAM: RUNNING_PROGRAM, TEMPO: RUNNING_TEMPO, METRE: RUNNING_METRE}
    for kind, column in columns.items():
        place = last(kind)
        registers[column] = int(values[ids[place]]) if place >= 0 else (0 if kind == METRE else -1)
    place = last(CONDITION)
    registers[RANK] = int(grammar.condition_ranks[ids[place]]) if place >= 0 else 0
    bar = last(BAR)
    position = last(POSITION, bar)
    registers[BAR_POSITION] = int(values[ids[position]]) if position >= 0 else -1
    registers[HAS_NOTE] = int((types[bar + 1 :] == DURATION).any())
    registers[NUM_BARS] = int((types == BAR).sum())
    registers[ONSET] = registers[NUM_BARS] + int((types == POSITION).sum())
    onset = max(bar, position)
    pitches = onset + 1 + np.flatnonzero(np.isin(types[onset + 1 :], (PITCH, DRUM)))
    program_places = np.flatnonzero(types == PROGRAM)
    started = []
    for place in pitches.tolist():
        before = np.searchsorted(program_places, place) - 1
        program = int(values[ids[program_places[before]]]) if before >= 0 else len(vocabulary.programs)
        started.append((program, int(values[ids[place]])))
    return registers, list(dict.fromkeys(started))


class GrammarLogitsProcessor(LogitsProcessor):
    """Sets the scores of illegal tokens to -inf; use it before temperature, top-k and top-p.

    Keeps state between steps. A call whose ids are the previous ids plus one column advances it; reordered beams pick
    their parents' rows; anything else (a prompt, another batch) rebuilds it. Left padding is passed over; after EOS
    only PAD is legal. Works on any device and dtype; there is always at least one legal token.
    """

    def __init__(self, grammar: Grammar, constraints: GenerationConstraints | None = None):
        self.grammar = getattr(grammar, "grammar", grammar)  # a processor will do
        self.constraints = constraints or GenerationConstraints()
        self.tables: GrammarTables | None = None
        self.state: BatchState | None = None
        self.seen: torch.Tensor | None = None
        self.after_prompt = True

    @torch.no_grad()
    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids [B, T], scores [B, V or more] -> scores with -inf at illegal tokens."""
        mask = self.legal(input_ids)
        if mask.shape[1] != scores.shape[1]:
            if mask.shape[1] > scores.shape[1]:
                raise ValueError(f"scores have {scores.shape[1]} columns, the vocabulary {mask.shape[1]} tokens")
            mask = torch.nn.functional.pad(mask, (0, scores.shape[1] - mask.shape[1]))
        return self.move_endings(scores).masked_fill_(mask.logical_not_(), float("-inf"))

    def move_endings(self, scores: torch.FloatTensor) -> torch.FloatTensor:
        """A copy of scores in which a forbidden Bar counts as a wish to end, and a forbidden EOS as one for a new bar.

        Masked alone, the bar line that the model expects would leave it inside the last bar, adding notes to it.
        """
        scores, bars = scores.clone(), self.state.registers[:, NUM_BARS]
        bar, eos = (self.tables.slices[kind].start for kind in (BAR, EOS))
        either = torch.logaddexp(scores[:, bar], scores[:, eos])
        if self.constraints.max_bars is not None:
            scores[:, eos] = torch.where(bars >= self.constraints.max_bars, either, scores[:, eos])
        if self.constraints.min_bars:
            scores[:, bar] = torch.where(bars < self.constraints.min_bars, either, scores[:, bar])
        return scores

    def legal(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """[B, V] True where a token may follow the rows of input_ids [B, T]."""
        self.follow(input_ids)
        budget = self.constraints.token_budget
        return self.state.legal(None if budget is None else budget - input_ids.shape[1], self.after_prompt)

    def follow(self, input_ids: torch.LongTensor) -> None:
        """Brings the state to the end of input_ids."""
        if self.tables is None or self.tables.device != input_ids.device:
            self.tables, self.seen = GrammarTables(self.grammar, self.constraints, input_ids.device), None
        seen, self.seen, self.after_prompt = self.seen, input_ids, False
        if seen is not None and input_ids.shape == (seen.shape[0], seen.shape[1] + 1):
            past = input_ids[:, :-1]
            if torch.equal(seen, past):
                return self.state.advance(input_ids[:, -1])
            same = (past[:, None] == seen).all(2)  # [new rows, old rows]
            if same.any(1).all():
                self.state.select(same.int().argmax(1))
                return self.state.advance(input_ids[:, -1])
        self.state, self.after_prompt = state_from_history(self.tables, input_ids), True
        return None
