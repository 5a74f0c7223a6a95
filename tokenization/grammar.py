"""The grammar of token sequences: which type may follow which, and for some types a rule about the value.

Which type may follow which is data: ``TRANSITIONS``, MidiTok's type graph somewhat sharpened, read by the walker below
and by the logits processor. The rules add what a graph cannot know: running program and tempo, order of positions and
conditions, notes already started at this position. They are code, written twice: ``Grammar.is_legal`` states them for
one sequence and is the grammar of record, ``BatchState.legal`` restates them as tensor operations on a batch. The two
must change together; the tests compare them token by token.
"""

from dataclasses import dataclass, field

import numpy as np

from partimento.tokenization.conditions import SLOTS
from partimento.tokenization.errors import GrammarError
from partimento.tokenization.vocabulary import DRUM_RANK, TokenType, Vocabulary

START = len(TokenType)  # the phase before the first token; all other phases are the type of the last token
NUM_PHASES = START + 1
NO_PROGRAM = -1

PAD, BOS, EOS, UNK, CONDITION = TokenType.PAD, TokenType.BOS, TokenType.EOS, TokenType.UNK, TokenType.CONDITION
BAR, METRE, POSITION, TEMPO = TokenType.BAR, TokenType.TIME_SIGNATURE, TokenType.POSITION, TokenType.TEMPO
PROGRAM, PITCH, DRUM = TokenType.PROGRAM, TokenType.PITCH, TokenType.DRUM
VELOCITY, DURATION = TokenType.VELOCITY, TokenType.DURATION

IN_BAR = (POSITION, BAR, EOS)
NOTE = (PROGRAM, PITCH, DRUM)
TRANSITIONS: dict[int, tuple[TokenType, ...]] = {
    START: (BOS, BAR),  # a window has no BOS
    BOS: (CONDITION, BAR),
    CONDITION: (CONDITION, BAR),
    BAR: IN_BAR,
    METRE: IN_BAR,
    POSITION: (TEMPO, *NOTE),
    TEMPO: (*NOTE, *IN_BAR),
    PROGRAM: (PITCH, DRUM),
    PITCH: (VELOCITY,),
    DRUM: (VELOCITY,),
    VELOCITY: (DURATION,),
    DURATION: (*NOTE, *IN_BAR),
    EOS: (PAD,),
}
TRANSITIONS_WITH_METRES = TRANSITIONS | {BAR: (METRE,)}


@dataclass
class GrammarState:
    """What the rules need to know about the tokens so far."""

    phase: int = START
    rank: int = 0  # of the last condition token
    bars: int = 0
    position: int = -1  # last position of the bar
    metre: int = 0  # index of the time signature
    tempo: int = -1  # id of the running Tempo token
    program: int = NO_PROGRAM  # running program rank
    bar_has_note: bool = False
    used: set[tuple[int, int]] = field(default_factory=set)  # (program, pitch) started at this position


class Grammar:
    """The grammar of one vocabulary: walker, validator, random sequences."""

    def __init__(self, vocabulary):
        """vocabulary: a Vocabulary, or anything that has one (a MidiProcessor)."""
        self.vocabulary: Vocabulary = getattr(vocabulary, "vocabulary", vocabulary)
        self.transitions = TRANSITIONS_WITH_METRES if self.vocabulary.has_metres else TRANSITIONS
        self.types: list[int] = self.vocabulary.types.tolist()
        self.condition_ranks = condition_ranks(self.vocabulary)
        starts = self.vocabulary.starts
        self.values = (
            np.arange(len(self.vocabulary))
            - np.array([starts[kind] for kind in TokenType if kind in starts])[
                np.searchsorted([kind for kind in TokenType if kind in starts], self.vocabulary.types)
            ]
        )  # index of a token within its type
        self._ids = {kind: self.vocabulary.of_type(kind) for kind in TokenType}
        self._values = self.values.tolist()
        self._programs = self.vocabulary.program_of_id.tolist()
        self._ranks = self.condition_ranks.tolist()
        self._positions = self.vocabulary.positions_per_bar.tolist()

    def is_legal(self, state: GrammarState, token: int) -> bool:
        """Whether a token may follow: its type by the table, its value by the rule of the type.

        Condition: a later slot than the last condition, or a later Inst token. Position: later than the last one of
        the bar and inside the bar. Tempo: not the running one. Program: not the running one, and it has a pitch left
        at this position. Pitch, PitchDrum: the running program is pitched or the drums, respectively, and has not
        started this pitch at this position.
        """
        kind = self.types[token]
        if kind not in self.transitions[state.phase]:
            return False
        if kind == PITCH:
            return 0 <= state.program < DRUM_RANK and (state.program, self._values[token]) not in state.used
        if kind == DRUM:
            return state.program == DRUM_RANK and (DRUM_RANK, self._values[token]) not in state.used
        if kind == POSITION:
            return state.position < self._values[token] < self._positions[state.metre]
        if kind == PROGRAM:
            program = self._programs[token]
            return program != state.program and sum(used == program for used, _ in state.used) < 128
        if kind == TEMPO:
            return token != state.tempo
        if kind == CONDITION:
            return self._ranks[token] > state.rank
        return True

    def advance(self, state: GrammarState, token: int) -> None:
        """Moves the state on, in place. Total: PAD, UNK and whatever follows EOS change nothing."""
        kind = self.types[token]
        if state.phase == EOS or kind in (PAD, UNK):
            return
        state.phase = kind
        if kind in (PITCH, DRUM):
            state.used.add((state.program, self._values[token]))
        elif kind == DURATION:
            state.bar_has_note = True
        elif kind == POSITION:
            state.position = self._values[token]
            state.used.clear()
        elif kind == PROGRAM:
            state.program = self._programs[token]
        elif kind == BAR:
            state.bars, state.position, state.bar_has_note = state.bars + 1, -1, False
            state.used.clear()
        elif kind == TEMPO:
            state.tempo = token
        elif kind == METRE:
            state.metre = self._values[token]
        elif kind == CONDITION:
            state.rank = self._ranks[token]

    def legal_ids(self, state: GrammarState) -> list[int]:
        """All tokens that may follow (the slow reference of the logits processor)."""
        return [
            token
            for kind in self.transitions[state.phase]
            for token in self._ids[kind].tolist()
            if self.is_legal(state, token)
        ]

    def validate(self, ids, complete: bool = False) -> None:
        """Checks a sequence; leading PAD is passed over.

        Args:
            complete: also demand that it ends with EOS.
        Raises: GrammarError: with position, token and what was legal.
        """
        state, tokens = GrammarState(), [int(token) for token in ids]
        for position, token in enumerate(tokens):
            if not 0 <= token < len(self.types):
                raise GrammarError(position, str(token), f"ids 0 to {len(self.types) - 1}")
            if state.phase == START and token == self.vocabulary.pad:
                continue
            if not self.is_legal(state, token):
                raise GrammarError(position, self.vocabulary.tokens[token], self.describe(state))
            self.advance(state, token)
        if complete and state.phase != EOS:
            raise GrammarError(len(tokens), "the end", self.describe(state))

    def describe(self, state: GrammarState) -> str:
        """The legal tokens in words, for messages."""
        groups: dict[str, list[str]] = {}
        for token in self.legal_ids(state):
            name = self.vocabulary.tokens[token]
            groups.setdefault(name.partition("_")[0], []).append(name)
        return "; ".join(
            ", ".join(names) if len(names) <= 2 else f"{names[0]} .. {names[-1]} ({len(names)} tokens)"
            for names in groups.values()
        )

    def random_sequence(self, rng: np.random.Generator, num_bars: int, notes_per_bar: float = 6.0) -> list[int]:
        """A random complete sequence with all features of the grammar, uniform within each type of token."""
        state, ids = GrammarState(), []
        note_end = notes_per_bar / (notes_per_bar + 1)
        while state.phase != EOS:
            kinds = [kind for kind in self.transitions[state.phase] if kind != UNK]
            if EOS in kinds:
                kinds = [kind for kind in kinds if kind != (EOS if state.bars < num_bars else BAR)]
                if rng.random() < note_end and state.phase != BAR:
                    kinds = [kind for kind in kinds if kind not in (BAR, EOS)]
            candidates = self.random_choice(state, kinds, rng)
            if candidates is None:  # nothing but the next bar or the end is left
                candidates = self.vocabulary.eos if state.bars >= num_bars else self.vocabulary.bar
            ids.append(candidates)
            self.advance(state, candidates)
        return ids

    def random_choice(self, state: GrammarState, kinds: list[TokenType], rng: np.random.Generator) -> int | None:
        """A legal token of a random type; None if none of the types has one."""
        for kind in rng.permutation(np.array(kinds, int)).tolist():
            pool = self._ids[kind]
            for _ in range(20):
                if len(pool) and self.is_legal(state, token := int(pool[int(rng.random() * len(pool))])):
                    return token
            legal = [token for token in pool.tolist() if self.is_legal(state, token)]
            if legal:
                return legal[int(rng.random() * len(legal))]
        return None


def condition_ranks(vocabulary: Vocabulary) -> np.ndarray:
    """[vocab] rank of each condition token (0 elsewhere): a token may follow only lower ranks.

    All tokens of a slot share a rank, so a slot holds one of them; Inst tokens have ascending ranks.
    """
    ranks = np.zeros(len(vocabulary), np.int64)
    for index in vocabulary.of_type(CONDITION).tolist():
        slot = vocabulary.tokens[index].partition("_")[0]
        within = index if slot == "Inst" else 0
        ranks[index] = (SLOTS.index(slot) + 1) * len(vocabulary) + within
    return ranks
