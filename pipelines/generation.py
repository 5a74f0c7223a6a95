"""Music from conditions or from the beginning of a piece, on a CPU or a GPU."""

from __future__ import annotations

import inspect
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.modeling import MuseformerCache  # importing it registers the architectures with transformers
from partimento.pipelines.devices import usable_device
from partimento.pipelines.instruments import EnterInstruments, choose_programs, parts_to_hear, programs_of
from partimento.pipelines.keys import semitones_between
from partimento.pipelines.piano_roll import plot_piano_roll
from partimento.pipelines.progress import BarMusic, BarProgress, BarStreamer, EndBeforeBar, StopOnEvent
from partimento.pipelines.splicing import save_onto
from partimento.pipelines.threads import one_thread
from partimento.tokenization import GenerationConstraints, GrammarLogitsProcessor, MidiProcessor

if TYPE_CHECKING:
    from symusic import Score

__all__ = ["DEFAULT_MODEL", "GeneratedMidi", "MidiGenerator", "resolve_model"]

DEFAULT_MODEL = "museformer-small"
MAX_BARS = 256
_LATEST_ENTRY = 8  # bars that a long piece may begin without an asked instrument
_PATIENCE = 2  # bars after which an asked instrument that has fallen silent plays again
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
    transposed: int
    """Semitones by which the piece was moved to the asked key after it was written."""
    complete: bool
    """False when the generation was stopped, or ran out of its token budget, before the asked number of bars."""
    processor: MidiProcessor = field(repr=False)
    exact_tempos: Mapping[int, float] = field(default_factory=dict, repr=False)
    """The asked tempo, or those of the primer: beats per minute by index of the tempos that the tokens know."""

    def save(self, path: str | Path, *, onto: str | Path | None = None) -> Path:
        """Writes a Standard MIDI File and returns its path.

        Args:
            onto: the file of which the piece is a continuation. Its notes, tracks, names, controllers and resolution
                are written as they are, and the new bars behind them. None writes all bars on the grid of the
                tokenizer, one track per program.
        """
        if onto is not None:
            return save_onto(self.processor, onto, self.score, Path(path))
        return self.processor.save_midi(self.ids, path, self.exact_tempos)

    def measured(self) -> dict[str, Any]:
        """The conditions as they come out of the notes: tempo, key, instruments, density, bars."""
        return self.processor.measure_conditions(self.score, exact_tempo=True)

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
    if Path(name).suffix.lower() in {".mid", ".midi", ".kar"} or (
        len(Path(name).parts) > 1 and Path(name).parent.is_dir()
    ):
        raise ValueError(f"{name}: there is no such file or model folder")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        return str(name)
    raise ValueError(
        f"{name}: not a model folder, not a Hub id (owner/model) and not an embedded checkpoint "
        f"({', '.join(list_embedded()) or 'none installed'})"
    )


def read_config(name: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of the model `name`, see [`resolve_model`].

    Raises:
        ValueError: `name` is no model.
        OSError: it is a Hub id, and the Hub has no such model or cannot be reached.
    """
    source = resolve_model(name)
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except OSError as error:
        if Path(source).is_dir():
            raise
        raise OSError(
            f"{name}: neither a folder here nor found on the Hub ({str(error).splitlines()[0].rstrip('.')}); "
            f"embedded, without a network: {', '.join(list_embedded()) or 'none installed'}"
        ) from error


class MidiGenerator:
    """A causal music model with its processor.

    Example:
        >>> generator = MidiGenerator.from_pretrained("museformer-small")
        >>> piece = generator.generate(genre="jazz", instruments=["piano", "bass", "drums"], bars=16, seed=7)[0]
        >>> piece.save("jazz.mid")
    """

    def __init__(self, model: PreTrainedModel, processor: MidiProcessor, name: str = "", weights: str = "exact"):
        self.model = model.eval()
        self.processor = processor
        self.name = name or model.config.name_or_path
        if model.config.vocab_size != len(processor.tokenizer):
            raise ValueError(
                f"{self.name}: the model has {model.config.vocab_size} token embeddings but its tokenizer has "
                f"{len(processor.tokenizer)} tokens; they do not belong together"
            )
        processor.check_model_config(model.config)
        self.weights = weights
        if weights != "exact":
            self._new_cache()  # raises where it makes no sense

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device | None = None,
        revision: str | None = None,
        weights: str = "exact",
    ) -> MidiGenerator:
        """Loads a model folder, an embedded checkpoint or a Hub model.

        Args:
            name: see [`resolve_model`].
            device: default: the first GPU when there is one, else the CPU. On a CPU weights are kept in float32.
            revision: branch, tag or commit of a Hub model.
            weights: `half` or `int8` let a Museformer on a CPU decode from rounded copies of its weights, faster and
                not quite the same; see [`MuseformerCache`][partimento.modeling.MuseformerCache].

        Raises:
            ValueError: `name` is no model, there is no such device, or `weights` are not for this model or device.
        """
        source = resolve_model(name)
        device = usable_device(device)
        config = read_config(name, revision)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(
                f"{name}: is a {config.model_type}, which writes no pieces; choose a model such as {DEFAULT_MODEL}"
                + (f", or let it write loops: partimento sample --model {name}" * (config.model_type == "musicvae"))
            )
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype, revision=revision).to(device)
        processor = MidiProcessor.from_pretrained(source, revision=revision)
        return cls(model, processor, str(name), weights)

    def _new_cache(self) -> MuseformerCache | None:
        """The cache of a new piece; None: the model makes its own."""
        if self.weights == "exact":
            return None
        if self.model.config.model_type != "museformer" or self.model.device.type != "cpu":
            raise ValueError(
                f"weights={self.weights!r} is for a Museformer on a CPU; {self.name} is a "
                f"{self.model.config.model_type} on {self.model.device.type}"
            )
        return MuseformerCache(self.model.config, weights=self.weights)

    def generate(
        self,
        *,
        genre: str | None = None,
        artist: str | None = None,
        mood: str | None = None,
        key: str | None = None,
        tempo: float | None = None,
        instruments: Sequence[str] | None = None,
        without: Sequence[str] = (),
        one_program: bool = True,
        density: float | None = None,
        bars: int = 16,
        num_outputs: int = 1,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        constrain: bool = True,
        on_bar: BarProgress | None = None,
        on_music: BarMusic | None = None,
        stop: threading.Event | None = None,
        max_seconds: float | None = None,
    ) -> list[GeneratedMidi]:
        """Writes `num_outputs` new pieces.

        Args:
            genre, artist, mood: labels the checkpoint knows (`generator.processor`); upper and lower case are the same.
            key: such as "A-minor" or "C-major". The model is told, and the finished piece is transposed from its
                estimated key to the asked one, or to the relative where major and minor differ.
            tempo: beats per minute, 24 to 200, kept exactly; the model is told the nearest of 32 values.
            instruments: General MIDI families ("piano", "bass", "drums", ...) or programs ("nylon guitar"); nothing
                else will sound. Each of them will have entered after an eighth of the bars, eight at most, and is never
                silent for more than two bars from then on; programs of one family each count for themselves.
            without: families or programs that may not sound.
            one_program: a family plays with one program: the one that is usual in the training songs of the genre.
                False lets all programs of the asked families sound.
            density: notes per bar over all tracks. A wish.
            bars: length, 1 ... 256.
            num_outputs: size of the batch.
            seed: 0 ... 2**63-1; drawn at random, and reported, when None. The same seed, request, model and
                machine give the same notes.
            temperature: below 1 more predictable, above 1 more surprising; 0 takes the likeliest token always. None,
                also for `top_k` and `top_p`: as the checkpoint's generation configuration says.
            top_k: keep only the k likeliest tokens; 0 keeps all.
            top_p: keep the likeliest tokens that hold this probability together.
            constrain: force key, tempo, instruments and number of bars. False leaves them to what the model learned
                (the grammar still holds).
            on_bar: called at each new bar of each output.
            on_music: called with the new tokens at each finished bar but the last; the finished piece may lie in
                another key.
            stop: set it from another thread to end within one token; finished bars are kept.
            max_seconds: end after this time, finished bars are kept.

        Raises:
            ValueError: a value is out of range or a label is unknown; the message says what is possible.
        """
        sampling = self._sampling(num_outputs, seed, temperature, top_k, top_p, on_bar, on_music, stop, max_seconds)
        _check_bars(bars)
        if tempo is not None and not 24 <= tempo <= 200:
            raise ValueError(f"tempo={tempo} is out of range; choose 24 to 200 beats per minute")
        wishes = {"genre": genre, "artist": artist, "mood": mood, "key": key, "tempo": tempo, "density": density}
        conditions = {name: value for name, value in wishes.items() if value is not None}
        conditions["bars"] = bars
        parts = choose_programs(instruments or (), without=without, genre=genre, one_program=one_program)
        if parts:
            conditions["instruments"] = list(parts)
        prompt = [self.processor.bos_token_id, *self.processor.condition_ids(conditions)]
        task = _Task(conditions, bars, prompt, kept=prompt)
        if constrain:
            task.key = key
            task.constraints = GenerationConstraints(tempo=tempo, min_bars=bars, max_bars=bars)
            if tempo is not None:
                task.exact_tempos = self.processor.exact_tempo(tempo)
            self._keep_to(task, instruments or (), parts, without, last_prompt_bar=0)
        return self._run(task, sampling)

    def continue_midi(
        self,
        midi: str | Path | bytes | Score,
        *,
        bars: int = 8,
        after_bar: int | None = None,
        total_bars: int | None = None,
        context_bars: int = 64,
        genre: str | None = None,
        instruments: Sequence[str] | None = None,
        without: Sequence[str] = (),
        one_program: bool = True,
        num_outputs: int = 1,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        on_bar: BarProgress | None = None,
        on_music: BarMusic | None = None,
        stop: threading.Event | None = None,
        max_seconds: float | None = None,
    ) -> list[GeneratedMidi]:
        """Writes `bars` more bars after a piece. The primer's notes stay as they are on the grid of the tokenizer.

        Args:
            midi: file, bytes or score; 4/4, at most 256 bars with the continuation (see the processor's limits).
            after_bar: the primer's bars behind this one are dropped (0: all of them); default: none.
            total_bars: the length that the model is told. Where it is more than the primer and `bars`, the new bars do
                not come to an end: they stop where the model would begin the next one.
            context_bars: how many of the primer's last bars the model reads.
            genre: label for the continuation.
            instruments: families or programs that may sound in the new bars; default: the primer's programs. Of a
                family the primer's programs go before the usual one.
            Others: as in [`generate`].

        Raises:
            MidiError: the primer cannot be read or does not fit the tokenizer.
            ValueError: as in [`generate`].
        """
        sampling = self._sampling(num_outputs, seed, temperature, top_k, top_p, on_bar, on_music, stop, max_seconds)
        _check_bars(bars)
        processor = self.processor
        piece = processor.load_piece(midi)
        primer = processor.encode(piece, add_special_tokens=False)
        primer_bars = processor.count_bars(primer)
        if after_bar is not None:
            if not 0 <= after_bar <= primer_bars:
                raise ValueError(f"after_bar={after_bar} is out of range; the primer has {primer_bars} bars")
            primer_bars, primer = after_bar, _first_bars(primer, after_bar, processor.bar_token_id)
        if primer_bars + bars > MAX_BARS:
            raise ValueError(f"the primer has {primer_bars} bars: bars={bars} more would exceed {MAX_BARS}")
        conditions = processor.measure_conditions(piece, genre=genre)
        conditions["bars"] = max(primer_bars + bars, total_bars or 0)
        programs = {(-1 if track.is_drum else track.program) for track in piece.to_score().tracks}
        parts = choose_programs(
            instruments or (), without=without, genre=genre, present=programs, one_program=one_program
        )
        if parts:
            conditions["instruments"] = list(parts)
        context = min(primer_bars, context_bars)
        prefix = [processor.bos_token_id, *processor.condition_ids(conditions)]
        opening = [processor.bar_token_id]
        read = processor.window(primer, primer_bars - context, context) if context else []
        task = _Task(conditions, bars, [*prefix, *read, *opening], kept=[*prefix, *primer], opening=opening)
        task.bar_offset, task.exact_tempos = primer_bars - context, piece.exact_tempos
        goes_on = conditions["bars"] > primer_bars + bars
        last = context + bars
        task.constraints = GenerationConstraints(programs, min_bars=last, max_bars=last + goes_on)
        self._keep_to(task, instruments or (), parts, without, last_prompt_bar=context)
        if goes_on:
            task.processors.append(EndBeforeBar(processor, last + 1))
        return self._run(task, sampling)

    def _sampling(self, num_outputs, seed, temperature, top_k, top_p, on_bar, on_music, stop, max_seconds) -> _Sampling:
        """The checked settings; what is None comes from the checkpoint, and is neutral where that says nothing."""
        stored = self.model.generation_config

        def choose(given, name, neutral):
            value = getattr(stored, name, None) if given is None else given
            return neutral if value is None else value

        return _Sampling(
            num_outputs,
            seed,
            choose(temperature, "temperature", 1.0),
            choose(top_k, "top_k", 0),
            choose(top_p, "top_p", 1.0),
            on_bar,
            on_music,
            stop,
            max_seconds,
        )

    def _keep_to(
        self,
        task: _Task,
        instruments: Sequence[str],
        parts: Mapping[str, Sequence[int]],
        without: Sequence[str],
        last_prompt_bar: int,
    ) -> None:
        """Lets only the programs of `parts` sound, and each asked instrument from an eighth of the new bars on."""
        allowed = task.constraints.allowed_programs
        if parts:
            allowed = {program for programs in parts.values() for program in programs}
            deadline = last_prompt_bar + min(task.bars // 8, _LATEST_ENTRY) + 1
            task.processors = [EnterInstruments(self.processor, parts_to_hear(instruments, parts), deadline, _PATIENCE)]
        if without:
            taken = {program for name in without for program in programs_of(name)[1]}
            allowed = set(range(-1, 128) if allowed is None else allowed) - taken
            if not allowed:
                raise ValueError(f"without={list(without)} leaves no instrument to play")
        task.constraints = replace(task.constraints, allowed_programs=allowed)

    def bar_offset(self, bars: int, rows: int) -> dict[str, torch.Tensor]:
        """Arguments that tell the model how many bars of the piece stand before its input, where it asks for them."""
        if not bars or "bar_offset" not in inspect.signature(self.model.forward).parameters:
            return {}
        return {"bar_offset": torch.full((rows,), bars, device=self.model.device)}

    @torch.inference_mode()
    def _run(self, task: _Task, sampling: _Sampling) -> list[GeneratedMidi]:
        seed = secrets.randbelow(2**31) if sampling.seed is None else sampling.seed
        device = self.model.device
        room = _TOKENS_PER_BAR * task.bars
        constraints = replace(task.constraints, token_budget=len(task.prompt) + room)
        grammar = GrammarLogitsProcessor(self.processor.grammar, constraints)
        input_ids = torch.tensor([task.prompt] * sampling.num_outputs, device=device)
        extra: dict[str, Any] = self.bar_offset(task.bar_offset, len(input_ids))
        if (cache := self._new_cache()) is not None:
            extra["past_key_values"] = cache
        streamer = None
        if sampling.on_bar or sampling.on_music:
            streamer = BarStreamer(
                self.processor.bar_token_id, task.bars, sampling.on_bar, task.opening, sampling.on_music
            )
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), one_thread(device):
            torch.manual_seed(seed)
            output = self.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=room,
                logits_processor=LogitsProcessorList([grammar, *task.processors]),
                stopping_criteria=StoppingCriteriaList([StopOnEvent(sampling.stop, sampling.max_seconds)]),
                streamer=streamer,
                pad_token_id=self.processor.pad_token_id,
                eos_token_id=self.processor.eos_token_id,
                **sampling.arguments(),
                **extra,
            )
        seconds = time.perf_counter() - started
        return [self._finish(row[len(task.prompt) :], task, seed, seconds) for row in output.tolist()]

    def _finish(self, new: list[int], task: _Task, seed: int, seconds: float) -> GeneratedMidi:
        """A row of the output as a piece; one that was stopped keeps its finished bars."""
        eos = self.processor.eos_token_id
        new = [*task.opening, *new]
        ended = eos in new
        new = new[: new.index(eos) + 1] if ended else self._finished_bars(new)
        ids, semitones = self._move_to_key([*task.kept, *new], task.key)
        cut = len(new) - len(task.opening) > _TOKENS_PER_BAR * task.bars - 4  # the grammar closed it: a note and EOS
        complete = ended and not cut and self.processor.count_bars(new) >= min(task.bars, task.constraints.min_bars)
        return GeneratedMidi(
            ids=ids,
            score=self.processor.decode(ids, task.exact_tempos),
            conditions=dict(task.conditions),
            seed=seed,
            num_bars=self.processor.count_bars(ids),
            seconds=seconds,
            transposed=semitones,
            complete=complete,
            processor=self.processor,
            exact_tempos=task.exact_tempos,
        )

    def _move_to_key(self, ids: list[int], key: str | None) -> tuple[list[int], int]:
        """The piece in the asked key, and by how many semitones it was moved; as it is where that leaves the range."""
        found = self.processor.measure_conditions(self.processor.decode(ids)).get("key") if key else None
        if not found:
            return ids, 0
        prefix, body = self.processor.split_prefix(ids)
        semitones = semitones_between(found, key)
        low, high = self.processor.augmentation.transposition_range(body)
        if not semitones or not low <= semitones <= high:
            return ids, 0
        return [*prefix, *self.processor.augmentation.transpose(body, semitones).tolist()], semitones

    def _finished_bars(self, new: list[int]) -> list[int]:
        """What was finished when a generation is stopped: all bars but the last, closed by EOS."""
        bar, pad = self.processor.bar_token_id, self.processor.pad_token_id
        new = [token for token in new if token != pad]
        starts = [index for index, token in enumerate(new) if token == bar]
        return [*new[: starts[-1]], self.processor.eos_token_id] if starts else [self.processor.eos_token_id]


@dataclass
class _Task:
    """What is to be written."""

    conditions: dict[str, Any]
    bars: int
    prompt: list[int]
    """What the model reads; it may hold only a window of `kept`."""
    kept: list[int]
    """What stands before the new tokens in the result."""
    opening: list[int] = field(default_factory=list)
    """The last tokens of the prompt, where they belong to the new bars."""
    key: str | None = None
    """The key that the result is brought to."""
    bar_offset: int = 0
    """Bars of the result that stand before the first one of the prompt."""
    exact_tempos: Mapping[int, float] = field(default_factory=dict)
    """See `GeneratedMidi.exact_tempos`."""
    constraints: GenerationConstraints = field(default_factory=lambda: GenerationConstraints(max_bars=MAX_BARS))
    processors: list[LogitsProcessor] = field(default_factory=list)
    """Run after the grammar."""


@dataclass
class _Sampling:
    """How it is written; the checks of `generate` and `continue_midi`."""

    num_outputs: int
    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    on_bar: BarProgress | None
    on_music: BarMusic | None
    stop: threading.Event | None
    max_seconds: float | None

    def __post_init__(self):
        if self.num_outputs < 1:
            raise ValueError(f"num_outputs={self.num_outputs} must be at least 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must lie in 0 to 2**63-1")
        if not 0 <= self.temperature <= 5:
            raise ValueError(
                f"temperature={self.temperature} is out of range; choose 0 (greedy) to 5; 1 is the model's"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is out of range; choose above 0 to 1 (off)")

    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        shape = {"temperature": float(self.temperature), "top_k": int(self.top_k), "top_p": float(self.top_p)}
        return {"do_sample": True, **shape}


def _first_bars(ids: list[int], num_bars: int, bar_token_id: int) -> list[int]:
    """The tokens of the first bars; empty ones count."""
    starts = [index for index, token in enumerate(ids) if token == bar_token_id]
    return ids[: starts[num_bars]] if num_bars < len(starts) else ids


def _check_bars(bars: int) -> None:
    if not 1 <= bars <= MAX_BARS:
        raise ValueError(f"bars={bars} is out of range; choose 1 to {MAX_BARS}")
