"""MidiProcessor: MIDI files, metadata and token ids into each other; the one public entrance to tokenization."""

import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from symusic import Score
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils.hub import cached_file

from partimento.tokenization import conditions as condition_module
from partimento.tokenization.augmentation import TokenAugmentation
from partimento.tokenization.canonical import Piece, from_score, names_of_programs
from partimento.tokenization.codec import decode_ids, encode_piece
from partimento.tokenization.conditions import Conditions, computed_tokens, label_tokens, measure
from partimento.tokenization.errors import (
    DroppedTracksWarning,
    MidiError,
    MidiTooLongError,
)
from partimento.tokenization.grammar import Grammar
from partimento.tokenization.reading import MidiSource, read_score
from partimento.tokenization.vocabulary import PRESETS, Vocabulary, base_tokens, make_miditok, make_tokenizer
from partimento.tokenization.windows import cut_window, split_prefix
from partimento.tokenization.writing import write_midi

MIDITOK_FILE = "miditok.json"
FILE_RESOLUTION = 480  # ticks per quarter of written files: a multiple of the grid that every sequencer accepts
Ids = Sequence[int] | np.ndarray


class MidiProcessor(ProcessorMixin):
    """Owns everything between MIDI and token ids; scalars are stored in ``processor_config.json``.

    Args:
        tokenizer: the exported vocabulary, a plain ``TokenizersBackend``.
        preset: "multitrack", "six_track" or "metres"; the settings behind the base vocabulary.
        tempo_edges, density_edges: 7 inner edges each of the bins of these computed conditions.
        bar_edges: what the Bars tokens say, stored with the processor; the vocabulary fixes it, so no other value
            is accepted.
        max_bars, max_tokens: default limits of ``encode``.
    """

    def __init__(
        self,
        tokenizer=None,
        preset="multitrack",
        tempo_edges=condition_module.TEMPO_EDGES,
        density_edges=condition_module.DENSITY_EDGES,
        bar_edges=condition_module.BAR_EDGES,
        max_bars=256,
        max_tokens=50_000,
        **kwargs,
    ):
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        if tuple(bar_edges) != condition_module.BAR_EDGES or any(
            len(edges) != 7 or list(edges) != sorted(set(edges)) for edges in (tempo_edges, density_edges)
        ):
            raise ValueError(
                "tempo_edges and density_edges need 7 ascending values; bar_edges belong to the vocabulary"
            )
        self.preset = preset
        self.tempo_edges, self.density_edges = [float(e) for e in tempo_edges], [float(e) for e in density_edges]
        self.bar_edges = [int(edge) for edge in bar_edges]
        self.max_bars, self.max_tokens = max_bars, max_tokens
        self._miditok_json: str | None = None
        super().__init__(tokenizer, **kwargs)

    # Construction, saving, loading

    @classmethod
    def from_preset(
        cls,
        preset: str = "multitrack",
        genres: Iterable[str] = (),
        artists: Iterable[str] = (),
        moods: Iterable[str] = (),
        **settings,
    ) -> "MidiProcessor":
        """A processor with MidiTok's base vocabulary (598, 475 or 702 tokens) and condition tokens behind it."""
        conditions = (*computed_tokens(), *label_tokens(genres, artists, moods))
        return cls(make_tokenizer(base_tokens(preset), conditions), preset=preset, **settings)

    def with_labels(
        self, genres: Iterable[str] = (), artists: Iterable[str] = (), moods: Iterable[str] = ()
    ) -> "MidiProcessor":
        """A copy with further labels at the end of the vocabulary; no existing id moves."""
        tokens, base_size = self.vocabulary.tokens, self.vocabulary.base_size
        added = (token for token in label_tokens(genres, artists, moods) if token not in self.vocabulary.ids)
        settings = {name: value for name, value in self.to_dict().items() if name != "processor_class"}
        return type(self)(make_tokenizer(tokens[:base_size], (*tokens[base_size:], *added)), **settings)

    def to_dict(self) -> dict:
        """The content of ``processor_config.json``."""
        names = ("preset", "tempo_edges", "density_edges", "bar_edges", "max_bars", "max_tokens")
        return {name: getattr(self, name) for name in names} | {"processor_class": type(self).__name__}

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes tokenizer files, ``processor_config.json`` and ``miditok.json``.

        Raises: ValueError: a ``config.json`` in the folder belongs to another vocabulary.
        """
        folder = Path(save_directory)
        if (folder / "config.json").is_file():
            self.check_model_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MIDITOK_FILE).write_text(self.miditok_json, encoding="utf-8")
        return super().save_pretrained(str(folder), push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "MidiProcessor":
        """Loads a saved processor from a folder or the Hub; needs no remote code."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        names = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        path = cached_file(
            str(pretrained_model_name_or_path), MIDITOK_FILE, _raise_exceptions_for_missing_entries=False, **hub
        )
        if path is not None:
            processor._miditok_json = Path(path).read_text(encoding="utf-8")
        return processor

    @property
    def miditok_json(self) -> str:
        """MidiTok's own parameters, as ``miditok.json`` stores them."""
        if self._miditok_json is None:
            self._miditok_json = json.dumps(make_miditok(self.preset).to_dict(), indent=4)
        return self._miditok_json

    def make_miditok(self):
        """MidiTok's tokenizer with these parameters, as a reference.

        Raises: ValueError: its vocabulary differs from this one.
        """
        from miditok import REMI

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MIDITOK_FILE
            path.write_text(self.miditok_json, encoding="utf-8")
            miditok = REMI(params=path)
        ours = list(self.vocabulary.tokens[: self.vocabulary.base_size])
        if sorted(miditok.vocab, key=miditok.vocab.get) != ours:
            raise ValueError(
                f"{MIDITOK_FILE} describes another vocabulary than the tokenizer: save the processor again"
            )
        return miditok

    def check_model_config(self, config) -> None:
        """Compares vocabulary facts with a model config (object or dict).

        Raises: ValueError: Bar, Position range, special tokens or vocabulary size differ.
        """
        values = config if isinstance(config, Mapping) else vars(config)
        for name, expected in self.model_config_kwargs().items():
            found = values.get(name)
            too_small = name == "vocab_size" and found is not None and found < expected
            if too_small or (name != "vocab_size" and found is not None and found != expected):
                raise ValueError(
                    f"model config has {name}={found}, the tokenizer {expected}: they belong to two vocabularies"
                )

    # Facts about the vocabulary

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_tokenizer(self.tokenizer)

    @cached_property
    def conditions(self) -> Conditions:
        edges = tuple(self.tempo_edges), tuple(self.density_edges), tuple(self.bar_edges)
        return Conditions(self.vocabulary, *edges)

    @cached_property
    def grammar(self) -> Grammar:
        return Grammar(self.vocabulary)

    @cached_property
    def augmentation(self) -> TokenAugmentation:
        return TokenAugmentation(self.conditions)

    vocab_hash = property(lambda self: self.vocabulary.content_hash)
    bar_token_id = property(lambda self: self.vocabulary.bar)
    position_token_start = property(lambda self: self.vocabulary.ids["Position_0"])
    num_positions = property(lambda self: self.vocabulary.num_positions)
    pad_token_id = property(lambda self: self.vocabulary.pad)
    bos_token_id = property(lambda self: self.vocabulary.bos)
    eos_token_id = property(lambda self: self.vocabulary.eos)

    def model_config_kwargs(self) -> dict[str, int]:
        """The fields that join a model to this vocabulary."""
        names = ("bar_token_id", "position_token_start", "num_positions")
        names += ("pad_token_id", "bos_token_id", "eos_token_id")
        return {"vocab_size": len(self.vocabulary)} | {name: getattr(self, name) for name in names}

    def labels(self, slot: str) -> list[str]:
        """Known labels of "genre", "artist" or "mood"."""
        return self.conditions.labels(slot.capitalize())

    # MIDI -> ids

    def load(self, midi: MidiSource) -> Score:
        """The canonical score of a path, bytes or score: quantised, one track per program, checked.

        12 ticks per quarter; 24 in the preset "metres", whose beats may be eighths.
        Raises: MidiError: a subclass that names path, reason and remedy.
        """
        return self.load_piece(midi).to_score()

    def load_piece(self, midi: MidiSource) -> Piece:
        """Like ``load``, as arrays."""
        score, path = read_score(midi)
        piece = from_score(score, self.vocabulary, path)
        if piece.dropped_programs:
            message = f"{path}: dropped tracks with programs {names_of_programs(piece.dropped_programs)}"
            warnings.warn(message, DroppedTracksWarning, stacklevel=3)
        return piece

    def encode(
        self,
        midi: MidiSource | Piece,
        conditions: Mapping | str | None = None,
        add_special_tokens: bool = True,
        max_bars: int | None = None,
        max_tokens: int | None = None,
        truncate: bool = False,
    ) -> list[int]:
        """[BOS] + condition ids + bars + [EOS].

        Args:
            conditions: a dict as in ``condition_ids``, or "measured" for the computed slots.
            max_bars, max_tokens: limits (default: the processor's, 256 bars and 50,000 tokens).
            truncate: cut at a bar line instead of raising when a limit is exceeded.
        Raises: MidiError: bad input or too long. ValueError: unknown condition.
        """
        piece = midi if isinstance(midi, Piece) else self.load_piece(midi)
        max_bars = self.max_bars if max_bars is None else max_bars
        max_tokens = self.max_tokens if max_tokens is None else max_tokens
        remedy = "Pass truncate=True to keep the beginning, or raise the limit"
        if piece.num_bars > max_bars:
            if not truncate:
                raise MidiTooLongError(piece.source, f"is too long: {piece.num_bars} bars, limit {max_bars}", remedy)
            piece = piece.first_bars(max_bars)
        ids = self.encode_with_prefix(piece, conditions, add_special_tokens)
        if len(ids) > max_tokens:
            if not truncate:
                raise MidiTooLongError(piece.source, f"is too long: {len(ids)} tokens, limit {max_tokens}", remedy)
            bars = np.flatnonzero(ids == self.bar_token_id)
            num_bars = int(np.searchsorted(bars, max_tokens - int(add_special_tokens), side="right")) - 1
            piece = piece.first_bars(max(num_bars, 0))
            if not piece.num_notes:
                reason = f"is too long: no bar with notes fits into {max_tokens} tokens"
                raise MidiTooLongError(piece.source, reason)
            ids = self.encode_with_prefix(piece, conditions, add_special_tokens)
        return ids.tolist()

    def encode_with_prefix(self, piece: Piece, conditions, add_special_tokens: bool) -> np.ndarray:
        if isinstance(conditions, str):
            if conditions != "measured":
                raise ValueError(f'conditions={conditions!r}: pass a dict, None or "measured"')
            conditions = measure(piece)
        prefix = self.condition_ids(conditions or {})
        if add_special_tokens:
            return np.concatenate([[self.bos_token_id], prefix, encode_piece(piece), [self.eos_token_id]]).astype(int)
        return np.concatenate([prefix, encode_piece(piece)]).astype(int)

    def encode_batch(
        self, paths: Iterable[MidiSource], conditions: Mapping | str | None = None, strict: bool = False, **limits
    ) -> tuple[dict, list[MidiError]]:
        """({path: ids}, errors): a bad file is listed and the others go on; ``strict`` raises the first error."""
        encoded, errors = {}, []
        for path in paths:
            try:
                encoded[path] = self.encode(path, conditions, **limits)
            except MidiError as error:
                if strict:
                    raise
                errors.append(error)
        return encoded, errors

    def __call__(self, midi: MidiSource | list | None = None, conditions=None, return_tensors=None, **kwargs):
        """``input_ids`` and ``attention_mask`` of one or several MIDI sources, padded left."""
        sources = midi if isinstance(midi, list) else [midi]
        rows = [self.encode(source, conditions, **kwargs) for source in sources]
        padded = self.tokenizer.pad({"input_ids": rows}, padding=True, return_tensors=return_tensors)
        return BatchFeature(dict(padded))

    # ids -> MIDI

    def decode(self, ids: Ids, exact_tempos: Mapping[int, float] | None = None, **kwargs) -> Score:
        """Score of token ids: prefix, PAD and all behind EOS are ignored, an incomplete last note is dropped.

        Args:
            exact_tempos: bpm by index of ``vocabulary.tempos``, written instead of the vocabulary's; see
                ``exact_tempo`` and ``Piece.exact_tempos``.
        """
        return self.decode_piece(ids, exact_tempos).to_score(exact_tempos=True)

    def decode_piece(self, ids: Ids, exact_tempos: Mapping[int, float] | None = None) -> Piece:
        """Like ``decode``, as arrays."""
        return replace(decode_ids(self.array(ids), self.vocabulary), exact_tempos=exact_tempos or {})

    def exact_tempo(self, bpm: float) -> dict[int, float]:
        """``exact_tempos`` of one tempo: the index of the nearest in the vocabulary, and the tempo itself."""
        return {int(self.vocabulary.nearest_tempo([60e6 / bpm])[0]): float(bpm)}

    def batch_decode(self, sequences: Iterable[Ids], **kwargs) -> list[Score]:
        """Scores of several sequences."""
        return [self.decode(ids) for ids in sequences]

    def save_midi(self, ids: Ids, path: str | os.PathLike, exact_tempos: Mapping[int, float] | None = None) -> Path:
        """Writes the decoded score at 480 ticks per quarter; the file appears complete or not at all."""
        return write_midi(self.decode(ids, exact_tempos).resample(FILE_RESOLUTION), path)

    def array(self, ids: Ids) -> np.ndarray:
        """Token ids as an int64 array [tokens].

        Raises: ValueError: not one sequence, or an id outside the vocabulary.
        """
        if hasattr(ids, "detach"):
            ids = ids.detach().cpu().numpy()
        array = np.asarray(ids, np.int64)
        if array.ndim != 1:
            raise ValueError(f"ids must be one sequence, got shape {array.shape}")
        if len(array) and not (array.min() >= 0 and array.max() < len(self.vocabulary)):
            raise ValueError(f"ids must lie in 0..{len(self.vocabulary) - 1}, got {array.min()}..{array.max()}")
        return array

    # Conditions

    def measure_conditions(
        self, score: MidiSource | Piece, genre=None, artist=None, mood=None, key=None, exact_tempo: bool = False
    ) -> dict:
        """Condition dict of a piece: given metadata plus tempo, instruments, density, bars and, unless given, key.

        The tempo is that of the tokens, or with `exact_tempo` the written one.
        """
        piece = score if isinstance(score, Piece) else self.load_piece(score)
        given = {"genre": genre, "artist": artist, "mood": mood, "key": key}
        return measure(piece, exact_tempo) | {name: value for name, value in given.items() if value is not None}

    def condition_ids(self, conditions: Mapping) -> list[int]:
        """Condition ids in slot order.

        Raises: ValueError: unknown field, label or value; names the nearest labels.
        """
        return [self.vocabulary.ids[token] for token in self.conditions.tokens(conditions)]

    def parse_conditions(self, ids: Ids) -> dict:
        """Condition dict of the condition tokens in a sequence; bins become a value inside the bin."""
        prefix, _ = self.split_prefix(ids)
        return self.conditions.parse(self.vocabulary.tokens[index] for index in prefix)

    # Bars, windows, grammar

    def split_prefix(self, ids: Ids) -> tuple[list[int], list[int]]:
        """(BOS and condition ids, everything from the first Bar on)."""
        prefix, body = split_prefix(self.array(ids), self.vocabulary)
        return prefix.tolist(), body.tolist()

    def count_bars(self, ids: Ids) -> int:
        return int((self.array(ids) == self.bar_token_id).sum())

    def window(self, ids: Ids, first_bar: int, num_bars: int) -> list[int]:
        """Ids of some bars (from 0) with running Program and Tempo restored; EOS only if the window reaches it."""
        return cut_window(self.array(ids), first_bar, num_bars, self.vocabulary).tolist()

    def validate(self, ids: Ids) -> None:
        """Raises: GrammarError: position, token and what was legal there."""
        self.grammar.validate(self.array(ids))

    # Augmentation, see TokenAugmentation

    def drop_conditions(self, prefix_ids: Ids, rng, slot_probability=0.2, all_probability=0.1) -> np.ndarray:
        return self.augmentation.drop_conditions(prefix_ids, rng, slot_probability, all_probability)

    def transpose(self, ids: Ids, semitones: int) -> np.ndarray:
        return self.augmentation.transpose(ids, semitones)

    def scale_tempo(self, ids: Ids, factor: float) -> np.ndarray:
        return self.augmentation.scale_tempo(ids, factor)
