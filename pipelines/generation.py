"""Music from conditions or from the beginning of a piece, on a CPU or a GPU."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

import partimento.modeling  # noqa: F401  (registers the architectures with transformers' Auto classes)
from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.pipelines.instruments import EnterInstruments
from partimento.pipelines.piano_roll import plot_piano_roll
from partimento.pipelines.progress import BarProgress, BarStreamer, StopOnEvent
from partimento.tokenization import FAMILY_PROGRAMS, GenerationConstraints, GrammarLogitsProcessor, MidiProcessor

if TYPE_CHECKING:
    from symusic import Score

__all__ = ["DEFAULT_MODEL", "GeneratedMidi", "MidiGenerator", "resolve_model"]

DEFAULT_MODEL = "museformer-small"
MAX_BARS = 256
_TOKENS_PER_BAR = 512  # room for a very dense bar; the budget of a request is this times its bars


@dataclass
class GeneratedMidi:
    """One generated piece."""

    ids: list[int] = field(repr=False)
    """Token ids from BOS and the conditions to EOS."""
    score: Score = field(repr=False)
    conditions: dict[str, Any]
    """What was asked, as the model was told."""
    seed: int
    num_bars: int
    """Bars in all; for a continuation the primer's bars are counted too."""
    seconds: float
    """Wall-clock time of the batch that this piece was part of."""
    complete: bool
    """False when the generation was stopped, or ran out of its token budget, before the asked number of bars."""
    processor: MidiProcessor = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Writes a Standard MIDI File and returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.processor.save_midi(self.ids, path)
        return path

    def measured(self) -> dict[str, Any]:
        """The conditions as they come out of the notes: tempo, key, instruments, density, bars."""
        return self.processor.measure_conditions(self.score)

    def piano_roll(self, path: str | Path | None = None):
        """Draws the piece; see [`plot_piano_roll`][partimento.pipelines.plot_piano_roll]."""
        return plot_piano_roll(self.score, path)


def resolve_model(name: str | Path) -> str:
    """Folder or Hub id for `name`: a folder with a `config.json`, an embedded checkpoint, or `owner/model`.

    Raises:
        ValueError: `name` is none of these.
    """
    if (Path(name) / "config.json").is_file():
        return str(name)
    if str(name) in list_embedded():
        return str(embedded_checkpoint(str(name)))
    if Path(name).is_dir():
        raise ValueError(f"{name}: the folder has no config.json; give the folder that save_pretrained wrote")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        return str(name)
    raise ValueError(
        f"{name}: not a model folder, not a Hub id (owner/model) and not an embedded checkpoint "
        f"({', '.join(list_embedded()) or 'none installed'})"
    )


class MidiGenerator:
    """A causal music model with its processor.

    Example:
        >>> generator = MidiGenerator.from_pretrained("museformer-small")
        >>> piece = generator.generate(genre="jazz", instruments=["piano", "bass", "drums"], bars=16, seed=7)[0]
        >>> piece.save("jazz.mid")
    """

    def __init__(self, model: PreTrainedModel, processor: MidiProcessor, name: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.name = name or model.config.name_or_path
        if model.config.vocab_size != len(processor.tokenizer):
            raise ValueError(
                f"{self.name}: the model has {model.config.vocab_size} token embeddings but its tokenizer has "
                f"{len(processor.tokenizer)} tokens; they do not belong together"
            )

    @classmethod
    def from_pretrained(
        cls, name: str | Path = DEFAULT_MODEL, *, device: str | torch.device | None = None, revision: str | None = None
    ) -> MidiGenerator:
        """Loads a model folder, an embedded checkpoint or a Hub model.

        Args:
            name: see [`resolve_model`].
            device: default: the first GPU when there is one, else the CPU. On a CPU weights are kept in float32.
            revision: branch, tag or commit of a Hub model.
        """
        source = resolve_model(name)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        config = AutoConfig.from_pretrained(source, revision=revision)
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype, revision=revision).to(device)
        processor = MidiProcessor.from_pretrained(source, revision=revision)
        return cls(model, processor, name=str(name))

    def generate(
        self,
        *,
        genre: str | None = None,
        artist: str | None = None,
        mood: str | None = None,
        key: str | None = None,
        tempo: float | None = None,
        instruments: Sequence[str] | None = None,
        density: float | None = None,
        bars: int = 16,
        num_outputs: int = 1,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.95,
        constrain: bool = True,
        on_bar: BarProgress | None = None,
        stop: threading.Event | None = None,
        max_seconds: float | None = None,
    ) -> list[GeneratedMidi]:
        """Writes `num_outputs` new pieces.

        Args:
            genre, artist, mood: labels the checkpoint knows (`generator.processor`); upper and lower case are the same.
            key: such as "A-minor" or "C-major". A wish: the model is told, not forced.
            tempo: beats per minute, nearest of 32 values between 24 and 200.
            instruments: General MIDI families ("piano", "bass", "drums", ...); nothing else will sound, and each of
                them will have entered after a quarter of the bars.
            density: notes per bar over all tracks. A wish.
            bars: length, 1 ... 256.
            num_outputs: size of the batch.
            seed: 0 ... 2**63-1; drawn at random, and reported, when None. The same seed, request, model and
                machine give the same notes.
            temperature: below 1 more predictable, above 1 more surprising; 0 takes the likeliest token always.
            top_k: keep only the k likeliest tokens; 0 keeps all.
            top_p: keep the likeliest tokens that hold this probability together.
            constrain: force tempo, instruments and number of bars. False leaves them to what the model learned
                (the grammar still holds).
            on_bar: called at each new bar of each output.
            stop: set it from another thread to end within one token; finished bars are kept.
            max_seconds: end after this time, finished bars are kept.

        Raises:
            ValueError: a value is out of range or a label is unknown; the message says what is possible.
        """
        _check_request(bars, num_outputs, temperature, top_k, top_p)
        wishes = {"genre": genre, "artist": artist, "mood": mood, "key": key, "tempo": tempo, "density": density}
        conditions = {name: value for name, value in wishes.items() if value is not None}
        conditions["bars"] = bars
        if instruments:
            conditions["instruments"] = list(instruments)
        prompt = [self.processor.bos_token_id, *self.processor.condition_ids(conditions)]
        constraints = self._constraints(conditions, bars, constrain)
        entering = [] if not (instruments and constrain) else [self._entering(conditions["instruments"], bars // 4 + 1)]
        return self._run(
            prompt, [], prompt, conditions, constraints, entering, bars, num_outputs, seed, temperature, top_k, top_p,
            on_bar, stop, max_seconds,
        )  # fmt: skip

    def continue_midi(
        self,
        midi: str | Path | bytes | Score,
        *,
        bars: int = 8,
        context_bars: int = 64,
        genre: str | None = None,
        instruments: Sequence[str] | None = None,
        num_outputs: int = 1,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.95,
        on_bar: BarProgress | None = None,
        stop: threading.Event | None = None,
        max_seconds: float | None = None,
    ) -> list[GeneratedMidi]:
        """Writes `bars` more bars after a piece. The primer's notes stay as they are on the grid of the tokenizer.

        Args:
            midi: file, bytes or score; 4/4, at most 256 bars with the continuation (see the processor's limits).
            context_bars: how many of the primer's last bars the model reads.
            genre: label for the continuation.
            instruments: families that may sound in the new bars; default: the primer's programs.
            Others: as in [`generate`].

        Raises:
            MidiError: the primer cannot be read or does not fit the tokenizer.
            ValueError: as in [`generate`].
        """
        _check_request(bars, num_outputs, temperature, top_k, top_p)
        processor = self.processor
        score = processor.load(midi)
        primer = processor.encode(score, add_special_tokens=False)
        primer_bars = processor.count_bars(primer)
        if primer_bars + bars > MAX_BARS:
            raise ValueError(f"the primer has {primer_bars} bars: bars={bars} more would exceed {MAX_BARS}")
        conditions = processor.measure_conditions(score, genre=genre)
        conditions["bars"] = primer_bars + bars
        programs = {(-1 if track.is_drum else track.program) for track in score.tracks if len(track.notes)}
        entering = []
        if instruments:
            conditions["instruments"] = list(instruments)
            programs = _programs_of(processor, instruments)
            entering = [self._entering(instruments, min(primer_bars, context_bars) + bars // 4 + 1)]
        read_bars = min(primer_bars, context_bars)
        context = processor.window(primer, primer_bars - read_bars, read_bars)
        prefix = [processor.bos_token_id, *processor.condition_ids(conditions)]
        opening = [processor.bar_token_id]
        constraints = GenerationConstraints(
            allowed_programs=programs, min_bars=read_bars + bars, max_bars=read_bars + bars
        )
        return self._run(
            [*prefix, *context, *opening], opening, [*prefix, *primer], conditions, constraints, entering, bars,
            num_outputs, seed, temperature, top_k, top_p, on_bar, stop, max_seconds,
        )  # fmt: skip

    def _constraints(self, conditions: dict[str, Any], bars: int, constrain: bool) -> GenerationConstraints:
        if not constrain:
            return GenerationConstraints(max_bars=MAX_BARS)
        asked = conditions.get("instruments")
        return GenerationConstraints(
            allowed_programs=_programs_of(self.processor, asked) if asked else None,
            tempo=conditions.get("tempo"),
            min_bars=bars,
            max_bars=bars,
        )

    def _entering(self, instruments: Sequence[str], deadline: int) -> EnterInstruments:
        return EnterInstruments(self.processor, _families(self.processor, instruments), deadline)

    @torch.inference_mode()
    def _run(
        self, prompt, opening, kept, conditions, constraints, entering, bars, num_outputs, seed, temperature, top_k, top_p,
        on_bar, stop, max_seconds,
    ) -> list[GeneratedMidi]:  # fmt: skip
        """Samples after `prompt`; `opening` are its last tokens that belong to the new bars, `kept` what precedes
        them in the result (the prompt may be only a window of it), `entering` further logits processors."""
        seed = secrets.randbelow(2**31) if seed is None else seed
        device = self.model.device
        budget = len(prompt) + _TOKENS_PER_BAR * bars
        constraints = replace(constraints, token_budget=budget)
        input_ids = torch.tensor([prompt] * num_outputs, device=device)
        stopper = StopOnEvent(stop, max_seconds)
        sampling = {"do_sample": False} if temperature == 0 else {
            "do_sample": True, "temperature": float(temperature), "top_k": int(top_k), "top_p": float(top_p),
        }  # fmt: skip
        grammar = GrammarLogitsProcessor(self.processor.grammar, constraints)
        streamer = BarStreamer(self.processor.bar_token_id, bars, on_bar, len(opening)) if on_bar else None
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            output = self.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=budget - len(prompt),
                logits_processor=LogitsProcessorList([grammar, *entering]),
                stopping_criteria=StoppingCriteriaList([stopper]),
                streamer=streamer,
                pad_token_id=self.processor.pad_token_id,
                eos_token_id=self.processor.eos_token_id,
                **sampling,
            )
        seconds = time.perf_counter() - started
        pieces = []
        for row in output.tolist():
            new = [*opening, *row[len(prompt) :]]
            complete = self.processor.eos_token_id in new
            new = new[: new.index(self.processor.eos_token_id) + 1] if complete else self._finished_bars(new)
            ids = [*kept, *new]
            num_bars = self.processor.count_bars(ids)
            complete = complete and self.processor.count_bars(new) >= bars
            pieces.append(
                GeneratedMidi(
                    ids, self.processor.decode(ids), dict(conditions), seed, num_bars, seconds, complete, self.processor
                )
            )
        return pieces

    def _finished_bars(self, new: list[int]) -> list[int]:
        """What was finished when a generation is stopped: all bars but the last, closed by EOS."""
        bar, pad = self.processor.bar_token_id, self.processor.pad_token_id
        new = [token for token in new if token != pad]
        starts = [index for index, token in enumerate(new) if token == bar]
        return [*new[: starts[-1]], self.processor.eos_token_id] if starts else [self.processor.eos_token_id]


def _families(processor: MidiProcessor, instruments: Sequence[str]) -> list[str]:
    """Family names in their own spelling, from any that the conditions accept."""
    return processor.parse_conditions(processor.condition_ids({"instruments": list(instruments)}))["instruments"]


def _programs_of(processor: MidiProcessor, instruments: Sequence[str]) -> set[int]:
    """General MIDI programs (drums: -1) of the named families."""
    return {program for family in _families(processor, instruments) for program in FAMILY_PROGRAMS[family]}


def _check_request(bars: int, num_outputs: int, temperature: float, top_k: int, top_p: float) -> None:
    if not 1 <= bars <= MAX_BARS:
        raise ValueError(f"bars={bars} is out of range; choose 1 to {MAX_BARS}")
    if num_outputs < 1:
        raise ValueError(f"num_outputs={num_outputs} must be at least 1")
    if not 0 <= temperature <= 5:
        raise ValueError(f"temperature={temperature} is out of range; choose 0 (greedy) to 5, 1 is the model's own")
    if top_k < 0:
        raise ValueError(f"top_k={top_k} must be 0 (off) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is out of range; choose above 0 to 1 (off)")
