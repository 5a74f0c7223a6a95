"""Recurrent models of note/duration melodies: the two in series, or both in one vector.

    series          a note, its duration, a note, ...: one softmax over all tokens (`NoteRun`)
    fused_two_hot   note and duration together in one vector of zeros and two ones, one softmax over all of it: the
                    negative control of J. Roman Morales (UAM, 2018), with which he had no success
    two_heads       the same vector read, but one softmax over the notes and one over the durations

A softmax over the joined vector spends half of its mass on notes and half on durations at best, so two draws give a
note and a duration only half of the time. Both joined forms draw a duration without seeing its note.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
from partimento.training.note_durations import is_duration


@dataclass(frozen=True)
class NoteSettings:
    """What a run depends on, beside its hidden units."""

    window: int = 50
    stride: int = 25
    batch: int = 32
    learning_rate: float = 1e-3
    dropout: float = 0.3
    feedback: str = "sample"
    seed: int = 0


@dataclass(frozen=True)
class Melodies:
    """Ids of training and held-out pieces, and what they mean."""

    symbols: tuple[str, ...]
    training: list[np.ndarray]
    held_out: list[np.ndarray]
    facts: dict[str, Any]


class NoteRun:
    """One LSTM on the series of tokens; goes on from `<folder>/<name>.pt` where there is one."""

    form = "series"

    def __init__(self, hidden: int, settings: NoteSettings, melodies: Melodies, folder: Path):
        self.hidden, self.settings, self.melodies = hidden, settings, melodies
        self.path = folder / f"{self.name}.pt"
        torch.manual_seed(settings.seed)
        self.model = self.make_model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.windows = self.make_windows()
        self.losses: list[float] = []
        self.seconds = 0.0
        if self.path.is_file():
            content = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.losses, self.seconds = content["losses"], content["seconds"]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"hidden-{self.hidden}"

    @property
    def title(self) -> str:
        """In the report."""
        return f"{self.hidden} units"

    def config(self, **changes: Any) -> RecurrentConfig:
        """One layer of `hidden` units, without special tokens."""
        ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "bar_token_id"))
        common = {"cell_type": "lstm", "hidden_size": self.hidden, "num_hidden_layers": 1}
        return RecurrentConfig(**common, dropout=self.settings.dropout, **ids, **changes)  # type: ignore[arg-type]

    def make_model(self) -> RecurrentForCausalLM:
        return RecurrentForCausalLM(self.config(vocab_size=len(self.melodies.symbols), input_mode="one_hot"))

    def make_windows(self) -> torch.Tensor:
        """`[windows, window + 1]` ids of all training pieces, merged into one sequence as published."""
        pieces = torch.from_numpy(np.concatenate(self.melodies.training))
        if len(pieces) <= self.settings.window:
            raise ValueError(f"{len(pieces)} training tokens are fewer than a window of {self.settings.window}")
        return pieces.unfold(0, self.settings.window + 1, self.settings.stride)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean over windows and steps, in nats."""
        return self.model(windows[:, :-1], shift_labels=windows[:, 1:]).loss

    def train_to(self, epoch: int, save_every: int, progress: tqdm) -> None:
        """Train up to the end of an epoch, saving on the way."""
        while len(self.losses) < epoch:
            self.train_epoch()
            progress.update()
            progress.set_postfix_str(f"loss {self.losses[-1]:.3f}")
            if len(self.losses) % save_every == 0 or len(self.losses) == epoch:
                self.save()

    def train_epoch(self) -> None:
        """All windows once, in an order of this epoch's own."""
        started, number = time.perf_counter(), len(self.losses)
        torch.manual_seed(hash((self.settings.seed, number)) % 2**31)  # the same dropout after an interruption
        self.model.train()
        total = 0.0
        for rows in torch.randperm(len(self.windows)).split(self.settings.batch):
            loss = self.loss(self.windows[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows)
        self.losses.append(total / len(self.windows))
        self.seconds += time.perf_counter() - started

    def save(self) -> None:
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        temporary = self.path.with_suffix(".tmp")
        torch.save({**content, "losses": self.losses, "seconds": self.seconds}, temporary)
        temporary.replace(self.path)

    @torch.inference_mode()
    def held_out_nats(self) -> float | None:
        """Nats for a note and its duration, mean over the held-out pieces but for their first; None without pieces."""
        self.model.eval()
        total, count = 0.0, 0
        for piece in self.melodies.held_out:
            ids = torch.from_numpy(piece)[None]
            logits = self.model(ids[:, :-1], use_cache=False).logits[0, 1:]  # behind the first pair
            total += float(F.cross_entropy(logits, ids[0, 2:], reduction="sum"))
            count += len(piece) // 2 - 1
        return total / count if count else None

    @torch.inference_mode()
    def write_melodies(self, count: int, tokens: int) -> list[list[int]]:
        """Draw `count` melodies, each behind a symbol and its duration from a random place of the training pieces."""
        self.model.eval()
        generator = torch.Generator().manual_seed(self.settings.seed)
        pieces = np.concatenate(self.melodies.training)
        places = torch.randint(len(pieces) // 2, (count,), generator=generator).numpy() * 2
        ids = torch.from_numpy(np.stack([pieces[places], pieces[places + 1]], 1))
        output = self.model(ids, use_cache=True)
        columns = [ids]
        while sum(column.shape[1] for column in columns) < tokens:
            probabilities = output.logits[:, -1].softmax(-1)
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            columns.append(drawn)
            step = (
                {"inputs_embeds": probabilities[:, None]} if self.settings.feedback == "soft" else {"input_ids": drawn}
            )
            output = self.model(**step, past_key_values=output.past_key_values, use_cache=True)
        return torch.cat(columns, 1).tolist()


class PairRun(NoteRun):
    """One LSTM whose steps are notes with their durations, `[n, 2]` ids; base of the joined forms."""

    def __init__(self, hidden: int, settings: NoteSettings, melodies: Melodies, folder: Path):
        self.durations = torch.tensor([is_duration(token) for token in melodies.symbols])
        super().__init__(hidden, settings, melodies, folder)

    @property
    def name(self) -> str:
        return f"{self.form}-hidden-{self.hidden}"

    @property
    def title(self) -> str:
        return f"{self.hidden} units, {self.form}"

    def make_model(self) -> RecurrentForCausalLM:
        """Vectors in, logits of equal width out; the loss is ours, not that of the head."""
        return RecurrentForCausalLM(self.config(head_type="bernoulli", embedding_size=len(self.melodies.symbols)))

    def make_windows(self) -> torch.Tensor:
        """`[windows, window / 2 + 1, 2]`: as many tokens as a window of the series has."""
        pairs = torch.from_numpy(np.concatenate(self.melodies.training)).reshape(-1, 2)
        size = max(1, self.settings.window // 2)
        if len(pairs) <= size:
            raise ValueError(f"{len(pairs)} training notes are fewer than a window of {size}")
        return pairs.unfold(0, size + 1, max(1, self.settings.stride // 2)).transpose(1, 2)

    def vectors(self, pairs: torch.Tensor) -> torch.Tensor:
        """Ids `[..., 2]` to two-hot vectors `[..., alphabet]`."""
        return F.one_hot(pairs, len(self.durations)).sum(-2).clamp(max=1).float()

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., alphabet]` to logarithms of what is drawn from."""
        raise NotImplementedError

    def pair_nats(self, logits: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """`[...]` nats of note and duration, added."""
        return -self.log_probabilities(logits).gather(-1, pairs).sum(-1)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        logits = self.model(inputs_embeds=self.vectors(windows[:, :-1]), use_cache=False).logits
        return self.pair_nats(logits, windows[:, 1:]).mean()

    @torch.inference_mode()
    def held_out_nats(self) -> float | None:
        self.model.eval()
        nats = []
        for piece in self.melodies.held_out:
            pairs = torch.from_numpy(piece).reshape(1, -1, 2)
            logits = self.model(inputs_embeds=self.vectors(pairs[:, :-1]), use_cache=False).logits
            nats.append(self.pair_nats(logits, pairs[:, 1:])[0])
        return float(torch.cat(nats).mean()) if nats else None

    @torch.inference_mode()
    def write_melodies(self, count: int, tokens: int) -> list[list[int]]:
        self.model.eval()
        generator = torch.Generator().manual_seed(self.settings.seed)
        pieces = np.concatenate(self.melodies.training).reshape(-1, 2)
        pairs = torch.from_numpy(pieces[torch.randint(len(pieces), (count,), generator=generator).numpy()])[:, None]
        steps, cache = [pairs], None
        vectors = self.vectors(pairs)
        for _ in range((tokens - 1) // 2):
            output = self.model(inputs_embeds=vectors, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            log_probabilities = self.log_probabilities(output.logits[:, -1])
            pairs = self.draw(log_probabilities.exp(), generator)[:, None]
            soft = self.settings.feedback == "soft"
            vectors = log_probabilities.exp()[:, None] if soft else self.vectors(pairs)
            steps.append(pairs)
        return torch.cat(steps, 1).flatten(1)[:, :tokens].tolist()

    def draw(self, probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """`[B, alphabet]` to ids `[B, 2]`."""
        raise NotImplementedError


class FusedRun(PairRun):
    """One softmax over the joined vector, trained to have both ones; two tokens are drawn from it."""

    form = "fused_two_hot"

    def log_probabilities(self, logits):
        return logits.log_softmax(-1)

    def pair_nats(self, logits, pairs):
        """Of two draws that give this note and this duration, in either order."""
        return super().pair_nats(logits, pairs) - math.log(2)

    def draw(self, probabilities, generator):
        return torch.multinomial(probabilities, 2, replacement=True, generator=generator)


class TwoHeadsRun(PairRun):
    """A softmax over the notes and one over the durations."""

    form = "two_heads"

    def log_probabilities(self, logits):
        parts = [logits.masked_fill(hidden, -math.inf).log_softmax(-1) for hidden in (self.durations, ~self.durations)]
        return torch.where(self.durations, parts[1], parts[0])

    def draw(self, probabilities, generator):
        drawn = [
            torch.multinomial(probabilities * kind, 1, generator=generator)
            for kind in (~self.durations, self.durations)
        ]
        return torch.cat(drawn, 1)


FORMS = {run.form: run for run in (NoteRun, FusedRun, TwoHeadsRun)}
