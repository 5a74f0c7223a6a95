"""Decoding speed and cache size against position, through `generate`, on real tokens.

Every contestant decodes the same song: sampling runs as usual, a logits processor then leaves the song's next token
only. The first round's prompt is the song up to the position; later rounds continue the returned cache, so that the
rounds of all contestants and positions alternate and a busy machine is unfair to nobody.
"""

import statistics
import time

import torch
from tqdm import tqdm
from transformers import Cache, DynamicCache, LogitsProcessor, PreTrainedModel, StaticCache
from transformers.generation.streamers import BaseStreamer

from partimento.modeling import MuseformerCache
from partimento.pipelines.generation import MidiGenerator
from partimento.tokenization import GenerationConstraints, GrammarLogitsProcessor
from partimento.training.benchmark_models import clock

LOSSY_WEIGHTS = ("half", "int8")


class FollowSong(LogitsProcessor):
    """Leaves the next token of `song` `[B, T]` only."""

    def __init__(self, song: torch.Tensor):
        self.song = song

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        hidden = torch.full_like(scores, float("-inf"))
        return hidden.scatter_(1, self.song[:, input_ids.shape[1], None], 0.0)


class TokenClock(BaseStreamer):
    """Notes the time of every token."""

    def __init__(self, device):
        self.device, self.times = device, []

    def put(self, value):
        self.times.append(clock(self.device))

    def end(self):
        pass

    def ms_per_token(self) -> float:
        """Mean over the tokens after the first, whose time contains the prompt's."""
        times = self.times[1:]
        return 1000 * (times[-1] - times[0]) / (len(times) - 1)


def cache_bytes(cache: Cache) -> int:
    """Bytes of all buffers, spare room included."""
    if isinstance(cache, MuseformerCache):
        tensors = [*cache.slots, *cache.summaries, *cache.visible.buffers]
    else:
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class Contestant:
    """One model with one kind of cache at one position of one song or of several, `[B, T]`."""

    def __init__(self, name: str, model: PreTrainedModel, song: torch.Tensor, position: int, room: int):
        self.name, self.model, self.song, self.position, self.length = name, model, song, position, position
        self.cache = self._make_cache(position + room)
        self.times: list[float] = []

    def _make_cache(self, length: int) -> Cache | None:
        for weights in LOSSY_WEIGHTS:
            if self.name.endswith(weights):
                return MuseformerCache(self.model.config, weights=weights)
        if "static" in self.name:
            return StaticCache(config=self.model.config, max_cache_len=length)
        return DynamicCache(config=self.model.config) if "dynamic" in self.name else None

    def decode(self, steps: int) -> None:
        """Decode `steps` tokens and note the time per token."""
        watch = TokenClock(self.model.device)
        prompt = self.song[:, : self.length]
        output = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=self.cache,
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=True,
            top_k=8,
            logits_processor=[FollowSong(self.song)],
            streamer=watch,
            return_dict_in_generate=True,
            disable_compile=self.model.device.type == "cpu",
        )
        self.cache = output.past_key_values
        self.length += steps
        self.times.append(watch.ms_per_token())

    def row(self) -> dict:
        """Figures: best and median of the rounds."""
        return {
            "contestant": self.name,
            "position": self.position,
            "songs": len(self.song),
            "ms_per_token": round(min(self.times), 3),
            "tokens_per_second": round(1000 * len(self.song) / min(self.times)),
            "median_ms_per_token": round(statistics.median(self.times), 3),
            "cache_bytes": cache_bytes(self.cache),
        }


@torch.inference_mode()
def decoding_speed(models: dict[str, PreTrainedModel], song, positions, steps: int, rounds: int) -> list[dict]:
    """Milliseconds per token of all `models` (name to model) at each position.

    Args:
        song: ids `[B, T]`, T at least the last position plus `steps * rounds`; with several songs a time is that of a
            step, which writes one token of each.
        positions: tokens before the first one that is timed.
        steps: tokens per round.
        rounds: in each, every contestant decodes at every position, so that other programs disturb all alike.
    """
    room = rounds * steps + 8
    contestants = [Contestant(name, model, song, p, room) for p in positions for name, model in models.items()]
    for contestant in tqdm(contestants * rounds, desc="decoding", unit="round"):
        contestant.decode(steps)
    rows = [contestant.row() for contestant in contestants]
    return rows


def stretches(song: list[int], bos: int, bar: int, number: int, length: int) -> torch.Tensor:
    """`number` stretches of a long song, each from a bar line on and behind BOS: `[number, length]`."""
    starts = [place for place, token in enumerate(song) if token == bar and place + length <= len(song) + 1]
    chosen = [starts[len(starts) * i // number] for i in range(number)]
    return torch.tensor([[bos, *song[start : start + length - 1]] for start in chosen])


@torch.inference_mode()
def lossy_errors(model: PreTrainedModel, song: torch.Tensor, prompt: int) -> dict[str, dict[str, float]]:
    """What `LOSSY_WEIGHTS` change: mean divergence of the next-token distribution in nats, and change of the loss.

    Args:
        model: a trained Museformer on a CPU.
        song: ids `[1, T]` of a real song; tokens after the first `prompt` are decoded one by one.
    """

    def log_probabilities(weights: str) -> torch.Tensor:
        cache = MuseformerCache(model.config, weights=weights)
        model(song[:, :prompt], past_key_values=cache)
        steps = (model(song[:, i : i + 1], past_key_values=cache).logits[0] for i in range(prompt, song.shape[1] - 1))
        return torch.cat(list(steps)).double().log_softmax(-1)

    exact, targets = log_probabilities("exact"), song[0, prompt + 1 :, None]
    found = {}
    for weights in LOSSY_WEIGHTS:
        lossy = log_probabilities(weights)
        found[weights] = {
            "divergence": ((exact - lossy) * exact.exp()).sum(1).mean().item(),
            "loss_change": (exact - lossy).gather(1, targets).mean().item(),
            "same_likeliest": (exact.argmax(1) == lossy.argmax(1)).double().mean().item(),
        }
    return found


def whole_song(generator: MidiGenerator, num_tokens: int) -> dict:
    """Sample one song of `num_tokens` with the grammar: seconds of wall and of `clock`."""
    processor, model = generator.processor, generator.model
    constraints = GenerationConstraints(min_bars=num_tokens, token_budget=num_tokens)
    prompt = torch.tensor([[processor.bos_token_id, processor.bar_token_id]], device=model.device)
    torch.manual_seed(0)
    wall, busy = time.perf_counter(), clock(model.device)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_tokens - prompt.shape[1],
        do_sample=True,
        logits_processor=[GrammarLogitsProcessor(processor.grammar, constraints)],
    )
    return {
        "tokens": output.shape[1],
        "bars": processor.count_bars(output[0].tolist()),
        "seconds": round(clock(model.device) - busy, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
    }
