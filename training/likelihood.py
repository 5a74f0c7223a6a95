"""Teacher-forced likelihood of whole songs: what their tokens cost, and the figures made of that.

Losses are natural logarithms (nats) until a figure is called bits.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from partimento.tokenization import MidiProcessor
from partimento.training.batch_plan import cut_batches
from partimento.training.songs import Song, note_token_ids

PREFIX_LENGTHS = (1_024, 5_120, 10_240)  # PPL(N) of Museformer (arXiv 2210.10349), table 1
LN2 = float(np.log(2.0))
INTERVALS = tuple(zip((0, *PREFIX_LENGTHS), (*PREFIX_LENGTHS, None)))  # (above, up to), in supervised tokens
BAR_INTERVALS = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 128), (128, None))  # (above, up to), bars from 1


@dataclass(frozen=True)
class CountedTokens:
    """The size of the vocabulary and the tokens of which a bar and a note have exactly one each."""

    vocab_size: int
    bar_token_id: int
    note_token_ids: np.ndarray

    @classmethod
    def from_processor(cls, processor: MidiProcessor) -> "CountedTokens":
        return cls(len(processor.vocabulary.tokens), processor.bar_token_id, note_token_ids(processor))


@dataclass(frozen=True)
class SongScore:
    """What a model paid for the supervised tokens of a song: `nll` [m] in nats, `bars` [m] the bar of each, from 1."""

    genre: str
    nll: np.ndarray
    num_bars: int
    num_notes: int
    bars: np.ndarray


def model_token_nll(
    model: torch.nn.Module,
    sequences: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    *,
    batch_tokens: int = 8_192,
    chunk_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
    on_batch: Callable[[int], Any] = lambda num_tokens: None,
) -> list[np.ndarray]:
    """Nats of every masked token of every sequence, one float32 array each, teacher-forced from the first token.

    See `iterate_token_nll`; `on_batch` is called with the number of tokens of each finished batch.
    """
    results: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(sequences)
    batches = iterate_token_nll(
        model, sequences, masks, batch_tokens=batch_tokens, chunk_tokens=chunk_tokens, autocast_dtype=autocast_dtype
    )
    for batch in batches:
        for i, nll in batch.items():
            results[i] = nll
        on_batch(sum(len(sequences[i]) for i in batch))
    return results


def iterate_token_nll(
    model: torch.nn.Module,
    sequences: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    *,
    done: Collection[int] = (),
    batch_tokens: int = 8_192,
    chunk_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[dict[int, np.ndarray]]:
    """Yield batch after batch: the number of each sequence of the batch -> nats [m] of its masked tokens, float32.

    Sequences of similar length share a batch of at most `batch_tokens` tokens, padding included, filled on the right.

    Args:
        model: any causal language model of transformers' form; `forward(input_ids, attention_mask, use_cache)` gives
            logits, with `chunk_tokens` also `past_key_values`.
        done: numbers of sequences to leave out.
        chunk_tokens: read a batch in pieces of this many tokens through the model's cache: less memory for long
            songs, the same losses. None: in one pass.
    """
    device = next(model.parameters()).device
    lengths = np.array([len(ids) for ids in sequences])
    longest_first = np.argsort(-lengths, kind="stable")  # lack of memory shows at once
    remaining = longest_first[~np.isin(longest_first, np.array(list(done), dtype=np.int64))]
    model.eval()
    for batch in cut_batches(remaining, lengths, batch_tokens):
        width = int(lengths[batch].max())
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        attention_mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, i in enumerate(batch):
            ids[row, : len(sequences[i])] = torch.from_numpy(sequences[i].astype(np.int64))
            attention_mask[row, : len(sequences[i])] = 1
        nll = batch_nll(model, ids.to(device), attention_mask.to(device), chunk_tokens, autocast_dtype)
        yield {int(i): nll[row, : lengths[i] - 1][masks[i][1:]] for row, i in enumerate(batch)}


@torch.inference_mode()
def batch_nll(
    model: torch.nn.Module,
    ids: torch.Tensor,
    attention_mask: torch.Tensor,
    chunk_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> np.ndarray:
    """[batch, width - 1] nats of ids[:, 1:], float32; columns behind a row's end mean nothing."""
    width = ids.shape[1]
    step = width if chunk_tokens is None else chunk_tokens
    if step < 1:
        raise ValueError(f"chunk_tokens={chunk_tokens} must be positive")
    precision = torch.autocast(ids.device.type, dtype=autocast_dtype) if autocast_dtype is not None else nullcontext()
    parts, cache = [], {}
    for start in range(0, width, step):
        end = min(start + step, width)
        with precision:
            output = model(
                input_ids=ids[:, start:end], attention_mask=attention_mask[:, :end], use_cache=step < width, **cache
            )
        if step < width:
            cache = {"past_key_values": output.past_key_values}
        targets = ids[:, start + 1 : end + 1]
        logits = output.logits[:, : targets.shape[1]].float()
        parts.append(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none"))
    return torch.cat(parts, dim=1).cpu().numpy()


def score_songs(
    songs: list[Song], sequences: list[np.ndarray], nll: list[np.ndarray], counted: CountedTokens
) -> list[SongScore]:
    """Losses with the bars and notes that the sequences hold."""
    return [
        SongScore(
            genre=song.genre,
            nll=losses,
            bars=np.cumsum(ids == counted.bar_token_id)[len(ids) - len(losses) :],
            num_bars=int(np.count_nonzero(ids == counted.bar_token_id)),
            num_notes=int(np.isin(ids, counted.note_token_ids).sum()),
        )
        for song, ids, losses in zip(songs, sequences, nll)
    ]


def summarise(scores: Sequence[SongScore], prefix_lengths: Sequence[int] = PREFIX_LENGTHS) -> dict[str, Any]:
    """Corpus-level figures (sums over songs divided by sums, never means of means).

    `ppl_N` is exp of the mean loss of the first N supervised tokens of every song, the whole song where it is shorter
    (Museformer, arXiv 2210.10349, section 4); `songs_reaching_N` says how many are that long. `nats_per_token_se` is
    the standard error of the ratio of sums with songs as units.
    """
    tokens = np.array([len(score.nll) for score in scores], dtype=np.float64)
    nats = np.array([score.nll.sum(dtype=np.float64) for score in scores])
    num_bars, num_notes = sum(s.num_bars for s in scores), sum(s.num_notes for s in scores)
    if not tokens.sum():
        raise ValueError("scores: no supervised token; give songs with at least one bar")
    mean = nats.sum() / tokens.sum()
    bits = nats.sum() / LN2
    result: dict[str, Any] = {
        "songs": len(scores),
        "tokens": int(tokens.sum()),
        "bars": num_bars,
        "notes": num_notes,
        "nats_per_token": float(mean),
        "nats_per_token_se": _ratio_standard_error(nats, tokens),
        "bits_per_token": float(mean / LN2),
        "perplexity": float(np.exp(mean)),
        "bits_per_bar": float(bits / num_bars) if num_bars else None,
        "bits_per_note": float(bits / num_notes) if num_notes else None,
    }
    for length in prefix_lengths:
        beginnings = [score.nll[:length] for score in scores]
        total = sum(part.sum(dtype=np.float64) for part in beginnings)
        result[f"ppl_{length}"] = float(np.exp(total / sum(map(len, beginnings))))
        result[f"songs_reaching_{length}"] = int((tokens >= length).sum())
    return result


def interval_name(above: int, up_to: int | None) -> str:
    """`1,025-5,120` for tokens number 1,025 to 5,120."""
    return f"over {above:,}" if up_to is None else f"{above + 1:,}-{up_to:,}"


def by_length(scores: Sequence[SongScore]) -> dict[str, dict[str, Any]]:
    """The figures of songs whose supervised tokens number within each of `INTERVALS`; empty intervals are left out."""
    groups = {
        interval_name(above, up_to): [s for s in scores if above < len(s.nll) <= (up_to or np.inf)]
        for above, up_to in INTERVALS
    }
    return {name: summarise(group, prefix_lengths=()) for name, group in groups.items() if group}


def by_position(scores: Sequence[SongScore]) -> dict[str, dict[str, Any]]:
    """Mean loss of the tokens that stand within each of `INTERVALS` of their song: does a long past help?"""
    result = {}
    for above, up_to in INTERVALS:
        parts = [score.nll[above:up_to] for score in scores if len(score.nll) > above]
        if parts:
            tokens = sum(map(len, parts))
            nats = sum(part.sum(dtype=np.float64) for part in parts)
            name = interval_name(above, up_to)
            result[name] = {"songs": len(parts), "tokens": tokens, "nats_per_token": float(nats / tokens)}
    return result


def by_bar(scores: Sequence[SongScore]) -> dict[str, dict[str, Any]]:
    """Mean loss of the tokens within each of `BAR_INTERVALS` of their song, per token and per bar."""
    result = {}
    for above, up_to in BAR_INTERVALS:
        chosen = [(score.bars > above) & (score.bars <= (up_to or np.inf)) for score in scores]
        tokens = sum(int(where.sum()) for where in chosen)
        if tokens:
            nats = sum(score.nll[where].sum(dtype=np.float64) for score, where in zip(scores, chosen))
            bars = sum(len(np.unique(score.bars[where])) for score, where in zip(scores, chosen))
            result[interval_name(above, up_to)] = {
                "songs": sum(bool(where.any()) for where in chosen),
                "tokens": tokens,
                "bars": bars,
                "nats_per_token": float(nats / tokens),
                "bits_per_bar": float(nats / LN2 / bars),
            }
    return result


def _ratio_standard_error(numerators: np.ndarray, denominators: np.ndarray) -> float | None:
    """Standard error of sum(numerators) / sum(denominators) by linearisation; None for a single unit."""
    count = len(numerators)
    if count < 2:
        return None
    residuals = numerators - denominators * (numerators.sum() / denominators.sum())
    return float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / denominators.sum())
