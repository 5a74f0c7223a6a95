"""Grammar and constraints as constant tensors, for the logits processor. B = rows, V = vocabulary, P = programs."""

from dataclasses import dataclass

import numpy as np
import torch

from partimento.tokenization.grammar import (
    BAR,
    BOS,
    CONDITION,
    DRUM,
    DURATION,
    EOS,
    METRE,
    NUM_PHASES,
    PAD,
    PITCH,
    POSITION,
    PROGRAM,
    START,
    TEMPO,
    UNK,
    VELOCITY,
    Grammar,
)
from partimento.tokenization.vocabulary import DRUMS

KEEP = -(2**40)  # entry of the set table: the register stays
# Columns of the register matrix [B, 9]
PHASE, BAR_POSITION, RUNNING_PROGRAM, RUNNING_TEMPO, RANK, RUNNING_METRE, HAS_NOTE, NUM_BARS, ONSET = range(9)
NUM_REGISTERS = 9
ZERO_PHASE, TEMPO_PHASE = NUM_PHASES, NUM_PHASES + 1  # extra mask rows while a fixed tempo is still to be written


INITIAL_REGISTERS = [0] * NUM_REGISTERS
INITIAL_REGISTERS[PHASE] = START
INITIAL_REGISTERS[BAR_POSITION] = INITIAL_REGISTERS[RUNNING_TEMPO] = -1


@dataclass(frozen=True)
class GenerationConstraints:
    """What generated music must satisfy besides the grammar. Bars and length count the prompt, too.

    Args:
        allowed_programs: General MIDI programs that may sound, -1 = drums; None = all.
        pitch_range: (lowest, highest) MIDI pitch of pitched notes; drums are free.
        tempo: quarters per minute; the nearest bin is written at the start and never changed.
        min_bars, max_bars: EOS only from, Bar only up to this number of bars.
        no_empty_final_bar: EOS only in a bar with a note.
        token_budget: largest total length in tokens (columns of ``input_ids``): near it the open note is closed and
            EOS follows. It goes before min_bars and no_empty_final_bar if they cannot be met any more.
        forbid_condition_tokens: the prefix is given, nothing is added to it.
    """

    allowed_programs: frozenset[int] | set[int] | None = None
    pitch_range: tuple[int, int] | None = None
    tempo: float | None = None
    min_bars: int = 0
    max_bars: int | None = None
    no_empty_final_bar: bool = True
    token_budget: int | None = None
    forbid_condition_tokens: bool = True

    def __post_init__(self):
        if self.allowed_programs is not None and not set(self.allowed_programs) <= set(range(DRUMS, 128)):
            raise ValueError(f"allowed_programs={sorted(self.allowed_programs)} must lie in -1 (drums) to 127")
        if self.pitch_range is not None and not 0 <= self.pitch_range[0] <= self.pitch_range[1] <= 127:
            raise ValueError(f"pitch_range={self.pitch_range} must be ascending within 0 to 127")
        if self.tempo is not None and not self.tempo > 0:
            raise ValueError(f"tempo={self.tempo} must be positive")
        if self.min_bars < 0 or (self.max_bars is not None and self.max_bars < max(self.min_bars, 1)):
            raise ValueError(f"min_bars={self.min_bars}, max_bars={self.max_bars}: need 0 <= min_bars <= max_bars >= 1")
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"token_budget={self.token_budget} must be positive")


class GrammarTables:
    """Grammar and constraints as constant tensors on one device."""

    def __init__(self, grammar: Grammar, constraints: GenerationConstraints, device: torch.device):
        vocabulary = grammar.vocabulary
        self.grammar, self.constraints, self.device = grammar, constraints, device
        self.slices = {
            kind: slice(start, start + len(vocabulary.of_type(kind))) for kind, start in vocabulary.starts.items()
        }
        self.num_programs = len(vocabulary.programs)
        self.set_table, self.add_table = (self.tensor(table) for table in register_tables(grammar))
        self.is_pitch = self.tensor(np.isin(vocabulary.types, (PITCH, DRUM)))
        self.pitch_value = self.tensor(grammar.values & 127)  # anything for other tokens
        self.position_values = torch.arange(vocabulary.num_positions, device=device)
        self.tempo_values = torch.arange(len(vocabulary.tempos), device=device)
        self.program_values = torch.arange(self.num_programs, device=device)
        self.condition_ranks = self.tensor(grammar.condition_ranks[self.slices[CONDITION]]) if self.conditions else None
        self.positions_per_bar = self.tensor(vocabulary.positions_per_bar) if vocabulary.has_metres else None
        self.build_constraints(vocabulary)

    @property
    def conditions(self) -> bool:
        """Whether condition tokens exist and may be generated."""
        return CONDITION in self.slices and not self.constraints.forbid_condition_tokens

    def tensor(self, array) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=self.device)

    def build_constraints(self, vocabulary) -> None:
        """Phase masks with the static constraints in them, program tables, costs of reaching EOS."""
        constraints, allowed = self.constraints, np.ones(len(vocabulary), bool)
        programs = vocabulary.programs
        may_sound = np.ones(self.num_programs, bool)
        if constraints.allowed_programs is not None:
            may_sound = np.isin(programs, list(constraints.allowed_programs))
            if not may_sound.any():
                raise ValueError(f"allowed_programs={sorted(constraints.allowed_programs)}: none is in the vocabulary")
        allowed[self.slices[PROGRAM]] = may_sound
        num_pitches = 128
        if constraints.pitch_range is not None:
            low, high = constraints.pitch_range
            allowed[self.slices[PITCH]] = (np.arange(128) >= low) & (np.arange(128) <= high)
            num_pitches = high - low + 1
        if constraints.forbid_condition_tokens and CONDITION in self.slices:
            allowed[self.slices[CONDITION]] = False
        self.fixed_tempo = None
        if constraints.tempo is not None:
            self.fixed_tempo = int(vocabulary.nearest_tempo(60e6 / constraints.tempo))
            allowed[self.slices[TEMPO]] = np.arange(len(vocabulary.tempos)) == self.fixed_tempo

        masks = np.zeros((NUM_PHASES + 2, len(vocabulary)), bool)
        for phase, kinds in self.grammar.transitions.items():
            masks[phase] = np.isin(vocabulary.types, kinds) & allowed
        masks[ZERO_PHASE, self.slices[POSITION].start] = True
        masks[TEMPO_PHASE] = np.isin(vocabulary.types, (TEMPO,)) & allowed
        self.phase_masks = self.tensor(masks)
        self.restricts_notes = not (may_sound.all() and num_pitches == 128)
        self.plain_pitched, self.plain_drum = (
            self.tensor(np.append(programs >= 0, False)),
            self.tensor(np.append(programs < 0, False)),
        )
        pending = np.arange(NUM_PHASES)  # phase -> mask row while the fixed tempo is still to be written
        pending[METRE if vocabulary.has_metres else BAR], pending[POSITION] = ZERO_PHASE, TEMPO_PHASE
        self.pending_phase = self.tensor(pending)
        # The last row of both tables stands for "no program running".
        self.pitched_program = self.tensor(np.append(may_sound & (programs >= 0), False))
        self.drum_program = self.tensor(np.append(may_sound & (programs < 0), False))
        self.num_pitches = self.tensor(np.where(programs < 0, 128, num_pitches))
        self.closing_costs = closing_costs(vocabulary, constraints)
        self.max_cost = int(self.closing_costs.max())
        self.closing_costs = self.tensor(self.closing_costs)
        can_end = np.array([EOS in self.grammar.transitions.get(phase, ()) for phase in range(NUM_PHASES)])
        self.can_end = self.tensor(can_end)


def register_tables(grammar: Grammar) -> tuple[np.ndarray, np.ndarray]:
    """(set, add) [V, registers]: what a token writes into each register (KEEP = nothing), and what it adds."""
    vocabulary, types, values = grammar.vocabulary, grammar.vocabulary.types, grammar.values
    written = np.full((len(vocabulary), NUM_REGISTERS), KEEP, np.int64)
    added = np.zeros((len(vocabulary), NUM_REGISTERS), np.int64)
    silent = np.isin(types, (PAD, UNK))
    written[~silent, PHASE] = types[~silent]
    columns = {POSITION: BAR_POSITION, PROGRAM: RUNNING_PROGRAM, TEMPO: RUNNING_TEMPO, METRE: RUNNING_METRE}
    for kind, column in columns.items():
        written[types == kind, column] = values[types == kind]
    written[types == CONDITION, RANK] = grammar.condition_ranks[types == CONDITION]
    written[types == BAR, BAR_POSITION] = -1
    written[types == BAR, HAS_NOTE] = 0
    written[types == DURATION, HAS_NOTE] = 1
    added[types == BAR, NUM_BARS] = 1
    added[np.isin(types, (BAR, POSITION)), ONSET] = 1
    return written, added


def closing_costs(vocabulary, constraints: GenerationConstraints) -> np.ndarray:
    """[2, V] upper bound of the tokens needed to reach EOS after a token, in a bar without and with a note."""
    note = 5  # Program Pitch Velocity Duration EOS
    position = note + (constraints.tempo is not None)
    in_bar = position + 1 if constraints.no_empty_final_bar or constraints.tempo is not None else 1
    bar = in_bar + int(vocabulary.has_metres)
    empty = {EOS: 0, PAD: 0, DURATION: 1, VELOCITY: 2, PITCH: 3, DRUM: 3, PROGRAM: 4, POSITION: position}
    empty |= {TEMPO: note if constraints.no_empty_final_bar else 1, METRE: in_bar, BAR: bar}
    empty |= {CONDITION: bar + 1, BOS: bar + 1, UNK: 0}
    filled = empty | {TEMPO: 1}
    return np.array([[costs[kind] for kind in vocabulary.types.tolist()] for costs in (empty, filled)])
