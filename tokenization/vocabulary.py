"""The vocabulary: MidiTok's REMI base tokens in MidiTok's order, condition tokens appended behind them.

REMI: Huang and Yang, Pop Music Transformer, 2020 (https://arxiv.org/abs/2002.00212). The base vocabulary is exported
as a plain word-level model, so ``AutoTokenizer`` loads it without remote code and ids equal MidiTok's.
"""

import hashlib
import json
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, lru_cache

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import TokenizersBackend

SPECIAL_TOKENS = ("PAD_None", "BOS_None", "EOS_None", "UNK_None")
DRUMS = -1  # the program number of the drum track
DRUM_RANK = 128  # rank of the drum track in program order: last
POSITIONS_PER_BEAT = 12
FOUR_FOUR = (4, 4)

SHARED_SETTINGS = {
    "pitch_range": (0, 127),
    "drums_pitch_range": (0, 127),
    "beat_res": {(0, 4): POSITIONS_PER_BEAT, (4, 16): 4},
    "num_velocities": 32,
    "special_tokens": ["PAD", "BOS", "EOS", "UNK"],
    "use_rests": False,
    "use_chords": False,
    "use_tempos": True,
    "num_tempos": 32,
    "tempo_range": (24, 200),
    "log_tempos": True,
    "use_programs": True,
    "one_token_stream_for_programs": True,
    "program_changes": True,
    "use_pitchdrum_tokens": True,
    "use_time_signatures": False,
    "remove_duplicated_notes": True,
    "delete_equal_successive_tempo_changes": True,
}
PRESETS = {
    "multitrack": {},
    "six_track": {"programs": [80, 0, 25, 48, 43, DRUMS]},
    "metres": {"use_time_signatures": True, "time_signature_range": {4: [2, 3, 4, 6], 8: [3, 6, 9, 12]}},
}


class TokenType(IntEnum):
    """What a token is; the columns of the grammar's transition table."""

    PAD = 0
    BOS = 1
    EOS = 2
    UNK = 3
    CONDITION = 4
    BAR = 5
    TIME_SIGNATURE = 6
    POSITION = 7
    TEMPO = 8
    PROGRAM = 9
    PITCH = 10
    DRUM = 11
    VELOCITY = 12
    DURATION = 13


TYPE_OF_PREFIX = {
    "PAD": TokenType.PAD,
    "BOS": TokenType.BOS,
    "EOS": TokenType.EOS,
    "UNK": TokenType.UNK,
    "Bar": TokenType.BAR,
    "TimeSig": TokenType.TIME_SIGNATURE,
    "Position": TokenType.POSITION,
    "Tempo": TokenType.TEMPO,
    "Program": TokenType.PROGRAM,
    "Pitch": TokenType.PITCH,
    "PitchDrum": TokenType.DRUM,
    "Velocity": TokenType.VELOCITY,
    "Duration": TokenType.DURATION,
}


def make_miditok(preset: str):
    """MidiTok's REMI tokenizer of a preset (imports miditok, which takes a second)."""
    from miditok import REMI, TokenizerConfig

    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    return REMI(TokenizerConfig(**SHARED_SETTINGS | PRESETS[preset]))


@lru_cache(maxsize=8)
def base_tokens(preset: str) -> tuple[str, ...]:
    """The tokens of a preset in id order, as MidiTok numbers them."""
    vocabulary = make_miditok(preset).vocab
    return tuple(sorted(vocabulary, key=vocabulary.get))


def make_tokenizer(base: tuple[str, ...], conditions: tuple[str, ...]) -> TokenizersBackend:
    """Plain word-level tokenizer: base tokens keep their ids, condition tokens follow as extra special tokens."""
    ids = {token: index for index, token in enumerate(base)}
    core = Tokenizer(models.WordLevel(ids, unk_token="UNK_None"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="BOS_None $A EOS_None", special_tokens=[(token, ids[token]) for token in ("BOS_None", "EOS_None")]
    )
    return TokenizersBackend(
        tokenizer_object=core,
        pad_token="PAD_None",
        bos_token="BOS_None",
        eos_token="EOS_None",
        unk_token="UNK_None",
        padding_side="left",
        extra_special_tokens=list(conditions),
    )


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Everything that follows from the list of tokens: ids, types and values as arrays indexed by token id.

    Time is counted in ticks. Without time signatures there are 12 ticks per quarter; with them 24, so that the grid of
    12 positions per beat also exists where the beat is an eighth.
    """

    tokens: tuple[str, ...]
    ids: dict[str, int] = field(init=False)
    types: np.ndarray = field(init=False)  # [vocab] int8, TokenType

    def __post_init__(self):
        object.__setattr__(self, "ids", {token: index for index, token in enumerate(self.tokens)})
        types = [TYPE_OF_PREFIX.get(token.partition("_")[0], TokenType.CONDITION) for token in self.tokens]
        object.__setattr__(self, "types", np.array(types, np.int8))

    @classmethod
    def from_tokenizer(cls, tokenizer) -> "Vocabulary":
        """Reads the tokens of a loaded tokenizer in id order.

        Raises: ValueError: ids have gaps or MidiTok's special tokens are missing.
        """
        ids = tokenizer.get_vocab()
        tokens = tuple(sorted(ids, key=ids.get))
        if [ids[token] for token in tokens] != list(range(len(tokens))) or tokens[:4] != SPECIAL_TOKENS:
            raise ValueError(f"tokenizer has no vocabulary of this package: ids must start with {SPECIAL_TOKENS}")
        return cls(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def of_type(self, token_type: TokenType) -> np.ndarray:
        """Ids of all tokens of a type, ascending."""
        return np.flatnonzero(self.types == token_type)

    @cached_property
    def base_size(self) -> int:
        """Number of tokens that MidiTok knows."""
        return int((self.types != TokenType.CONDITION).sum())

    @cached_property
    def content_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the tokens in id order."""
        return hashlib.sha256(json.dumps(self.tokens, ensure_ascii=True).encode()).hexdigest()[:16]

    pad = property(lambda self: self.ids["PAD_None"])
    bos = property(lambda self: self.ids["BOS_None"])
    eos = property(lambda self: self.ids["EOS_None"])
    unk = property(lambda self: self.ids["UNK_None"])
    bar = property(lambda self: self.ids["Bar_None"])

    @cached_property
    def starts(self) -> dict[TokenType, int]:
        """First id of each type whose tokens are consecutive."""
        return {kind: int(self.of_type(kind)[0]) for kind in TokenType if (self.types == kind).any()}

    @cached_property
    def num_positions(self) -> int:
        return len(self.of_type(TokenType.POSITION))

    @cached_property
    def has_metres(self) -> bool:
        """Whether every Bar is followed by a time signature token."""
        return bool((self.types == TokenType.TIME_SIGNATURE).any())

    @cached_property
    def ticks_per_quarter(self) -> int:
        return POSITIONS_PER_BEAT * (2 if self.has_metres else 1)

    def ticks_per_position(self, denominator):
        """Ticks of one grid step where the beat is a 4 (quarter) or an 8 (eighth); scalars or arrays."""
        return self.ticks_per_quarter * 4 // (POSITIONS_PER_BEAT * denominator)

    @cached_property
    def time_signatures(self) -> tuple[tuple[int, int], ...]:
        """(numerator, denominator) of the time signature tokens in id order; 4/4 alone without them."""
        if not self.has_metres:
            return (FOUR_FOUR,)
        values = (self.tokens[index].partition("_")[2] for index in self.of_type(TokenType.TIME_SIGNATURE))
        return tuple((int(n), int(d)) for n, d in (value.split("/") for value in values))

    @cached_property
    def positions_per_bar(self) -> np.ndarray:
        """Number of positions of a bar for each time signature: 12 per beat."""
        return np.array([POSITIONS_PER_BEAT * numerator for numerator, _ in self.time_signatures])

    @cached_property
    def durations(self) -> np.ndarray:
        """[96] durations in grid steps (twelfths of a beat), ascending like their ids."""
        fields = (self.tokens[index].partition("_")[2].split(".") for index in self.of_type(TokenType.DURATION))
        return np.array([(int(b) * int(r) + int(f)) * POSITIONS_PER_BEAT // int(r) for b, f, r in fields])

    @cached_property
    def nearest_duration(self) -> np.ndarray:
        """[longest + 1] index of the duration nearest to a number of grid steps; ties go to the longer one."""
        return nearest(self.durations, np.arange(self.durations[-1] + 1))

    @cached_property
    def longest_duration_within(self) -> np.ndarray:
        """[longest + 1] index of the longest duration that is not longer than a number of grid steps."""
        return np.maximum(np.searchsorted(self.durations, np.arange(self.durations[-1] + 1), side="right") - 1, 0)

    @cached_property
    def velocities(self) -> np.ndarray:
        """[32] MIDI velocities, ascending like their ids."""
        return np.array([int(self.tokens[i].partition("_")[2]) for i in self.of_type(TokenType.VELOCITY)])

    @cached_property
    def nearest_velocity(self) -> np.ndarray:
        """[128] index of the velocity bin nearest to a MIDI velocity."""
        return nearest(self.velocities, np.arange(128))

    @cached_property
    def tempos(self) -> np.ndarray:
        """[32] tempos in quarters per minute, ascending like their ids."""
        return np.array([float(self.tokens[i].partition("_")[2]) for i in self.of_type(TokenType.TEMPO)])

    def nearest_tempo(self, microseconds) -> np.ndarray:
        """Index of the tempo bin nearest to a duration of the quarter in microseconds (compared in microseconds)."""
        return len(self.tempos) - 1 - nearest(60e6 / self.tempos[::-1], np.asarray(microseconds, np.float64))

    @cached_property
    def programs(self) -> np.ndarray:
        """Programs in id order (-1 = drums)."""
        return np.array([int(self.tokens[i].partition("_")[2]) for i in self.of_type(TokenType.PROGRAM)])

    @cached_property
    def program_ids(self) -> np.ndarray:
        """[129] token id of a program rank (0-127, 128 = drums); -1 where the preset does not know the program."""
        table = np.full(DRUM_RANK + 1, -1)
        table[np.where(self.programs < 0, DRUM_RANK, self.programs)] = self.of_type(TokenType.PROGRAM)
        return table

    @cached_property
    def program_of_id(self) -> np.ndarray:
        """[vocab] program rank (0-127, 128 = drums) of a Program token; -1 elsewhere."""
        table = np.full(len(self), -1)
        table[self.of_type(TokenType.PROGRAM)] = np.where(self.programs < 0, DRUM_RANK, self.programs)
        return table


def nearest(grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the grid point nearest to each value (ascending grid); ties go to the greater point, as in MidiTok."""
    right = np.searchsorted(grid, values, side="left")
    left = np.maximum(right - 1, 0)
    inside = np.minimum(right, len(grid) - 1)
    closer_left = (right == len(grid)) | (np.abs(values - grid[left]) < np.abs(values - grid[inside]))
    return np.where(closer_left, left, inside)
