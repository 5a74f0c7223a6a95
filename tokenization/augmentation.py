"""Training augmentation on token ids: dropped conditions, transposition, tempo. Positions and durations stay."""

from dataclasses import dataclass

import numpy as np

from partimento.tokenization.codec import decode_ids
from partimento.tokenization.conditions import KEYS, SLOTS, Conditions, mean_tempo
from partimento.tokenization.vocabulary import TokenType


@dataclass(frozen=True)
class TokenAugmentation:
    """Vectorised augmentations for one vocabulary; all return int64 arrays [tokens]."""

    conditions: Conditions

    @property
    def vocabulary(self):
        return self.conditions.vocabulary

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Slot number of each condition token, -1 for other tokens."""
        tokens = self.vocabulary.tokens
        is_condition = self.vocabulary.types[ids] == TokenType.CONDITION
        return np.array(
            [SLOTS.index(tokens[i].partition("_")[0]) if c else -1 for i, c in zip(ids.tolist(), is_condition)], int
        )

    def drop_conditions(self, prefix_ids, rng, slot_probability=0.2, all_probability=0.1) -> np.ndarray:
        """Drops each slot (all Inst tokens together) with one probability and all of them with another."""
        ids = np.asarray(prefix_ids, np.int64)
        draws = rng.random(len(SLOTS) + 1)  # one draw per slot, present or not: the same seed gives the same choice
        dropped = np.append(draws[:-1] < slot_probability, False)  # the last entry is for slot -1
        if draws[-1] < all_probability:
            dropped[:-1] = True
        return ids[~dropped[self.slots(ids)]]

    def transposition_range(self, ids) -> tuple[int, int]:
        """Smallest and largest number of semitones that keep all pitched notes within MIDI's 0-127."""
        pitches = self.pitches(np.asarray(ids, np.int64))
        return (-int(pitches.min()), 127 - int(pitches.max())) if len(pitches) else (-127, 127)

    def pitches(self, ids: np.ndarray) -> np.ndarray:
        return ids[self.vocabulary.types[ids] == TokenType.PITCH] - self.vocabulary.starts[TokenType.PITCH]

    def transpose(self, ids, semitones: int) -> np.ndarray:
        """Shifts pitched notes and Key; drums stay.

        Raises: ValueError: a pitch would leave 0-127.
        """
        ids = np.array(ids, np.int64)
        low, high = self.transposition_range(ids)
        if not low <= semitones <= high:
            raise ValueError(f"semitones={semitones} leaves the pitch range; this piece allows {low} to {high}")
        types, first_key = self.vocabulary.types[ids], self.vocabulary.ids[f"Key_{KEYS[0]}"]
        ids[types == TokenType.PITCH] += semitones
        is_key = (ids >= first_key) & (ids < first_key + len(KEYS))
        key = ids[is_key] - first_key
        ids[is_key] = first_key + key // 12 * 12 + (key + semitones) % 12
        return ids

    def scale_tempo(self, ids, factor: float) -> np.ndarray:
        """Multiplies every tempo and re-bins it; repeated tempi and emptied positions go, TempoBin is recomputed.

        Raises: ValueError: factor is not positive.
        """
        if not factor > 0:
            raise ValueError(f"factor={factor} must be positive")
        ids, vocabulary = np.array(ids, np.int64), self.vocabulary
        types, start = vocabulary.types[ids], vocabulary.starts[TokenType.TEMPO]
        where = np.flatnonzero(types == TokenType.TEMPO)
        if not len(where):
            return ids
        ids[where] = start + vocabulary.nearest_tempo(60e6 / (vocabulary.tempos[ids[where] - start] * factor))
        keep = np.ones(len(ids), bool)
        keep[where[1:]] = ids[where[1:]] != ids[where[:-1]]
        gone = np.flatnonzero(~keep)
        following = np.append(types, TokenType.EOS)[gone + 1]
        opens_onset = np.isin(following, (TokenType.PROGRAM, TokenType.PITCH, TokenType.DRUM))
        keep[gone[~opens_onset] - 1] = False  # the Position that opened nothing but this tempo
        ids = ids[keep]
        slow, fast = vocabulary.ids["TempoBin_0"], vocabulary.ids["TempoBin_0"] + len(self.conditions.tempo_edges)
        is_bin = (ids >= slow) & (ids <= fast)
        if is_bin.any():
            ids[is_bin] = vocabulary.ids[self.conditions.tempo_token(self.mean_tempo(ids))]
        return ids

    def mean_tempo(self, ids: np.ndarray) -> float | None:
        """Time-weighted mean tempo (bpm) up to the end of the bar of the last onset, None without Tempo tokens."""
        piece = decode_ids(ids, self.vocabulary)
        end = int(piece.metre.bar_start(np.array([piece.num_bars]))[0])
        return mean_tempo(piece.tempo_ticks, self.vocabulary.tempos[piece.tempos], end)
