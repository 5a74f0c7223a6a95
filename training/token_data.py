"""Training and validation micro-batches of a token corpus.

Every random choice comes from a generator seeded by (seed, epoch) or (seed, epoch, item): a batch can be rebuilt from
these numbers alone, whatever was drawn before it. Prefix, restored tokens and padding carry no loss.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from partimento.tokenization import MidiProcessor
from partimento.tokenization.vocabulary import TokenType, Vocabulary
from partimento.training.arguments import DataArguments
from partimento.training.batch_plan import Update, cut_batches, plan_epoch
from partimento.training.token_corpus import CropTable, Row, TokenCorpus, cut_crop, draw_crops

IGNORED = -100


class RowAugmentation:
    """Transposition, tempo and dropped conditions of a crop, so that prefix and crop keep telling the same."""

    def __init__(self, arguments: DataArguments, processor: MidiProcessor, corpus: TokenCorpus):
        self.arguments, self.processor, self.corpus = arguments, processor, corpus
        self.mean_tempos: dict[int, float | None] = {}

    def __call__(self, row: Row, rng: np.random.Generator) -> Row:
        """Return a changed copy; the draws are the same for every row."""
        a, operations = self.arguments, self.processor.augmentation
        shift = int(rng.integers(a.transpose[0], a.transpose[1] + 1)) if a.transpose else 0
        factor = float(rng.uniform(a.tempo_factor[0], a.tempo_factor[1])) if a.tempo_factor else 1.0
        prefix, body, restored = row.prefix, row.body, row.restored
        if shift:
            low, high = operations.transposition_range(body)
            if low <= shift <= high:
                prefix, body = operations.transpose(prefix, shift), operations.transpose(body, shift)
        if a.tempo_factor:
            prefix, body, restored = self.scale_tempo(row.song, prefix, body, restored, factor)
        prefix = operations.drop_conditions(prefix, rng, a.condition_slot_dropout, a.condition_all_dropout)
        return dataclasses.replace(row, prefix=prefix, body=body, restored=restored)

    def scale_tempo(
        self, song: int, prefix: np.ndarray, body: np.ndarray, restored: np.ndarray, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scale the crop's tempi; TempoBin stays a statement about the whole song."""
        vocabulary, conditions = self.corpus.vocabulary, self.processor.conditions
        first_bin = vocabulary.ids["TempoBin_0"]
        is_bin = (prefix >= first_bin) & (prefix <= first_bin + len(conditions.tempo_edges))
        if is_bin.any():
            if song not in self.mean_tempos:
                self.mean_tempos[song] = self.processor.augmentation.mean_tempo(self.corpus.song(song))
            tempo = self.mean_tempos[song]
            if tempo is not None:
                prefix = np.where(is_bin, vocabulary.ids[conditions.tempo_token(tempo * factor)], prefix)
        scaled = self.processor.augmentation.scale_tempo(body, factor)
        if len(scaled) != len(body):
            # Only repeated tempi and the positions they leave empty go, and nothing up to the first tempo.
            moves, moves_now = _is_tempo_or_position(body, vocabulary), _is_tempo_or_position(scaled, vocabulary)
            now = np.zeros(len(scaled), dtype=bool)
            now[~moves_now] = restored[~moves]
            now[np.flatnonzero(restored & moves)] = True
            restored = now
        return prefix, scaled, restored


def _is_tempo_or_position(ids: np.ndarray, vocabulary: Any) -> np.ndarray:
    types = vocabulary.types[ids]
    return (types == TokenType.TEMPO) | (types == TokenType.POSITION)


@dataclass
class Batch:
    """A micro-batch: what the model gets, and what the loop counts."""

    inputs: dict[str, torch.Tensor]
    num_supervised: int  # labels that carry loss
    num_tokens: int  # tokens without padding
    num_bars: int
    songs: list[str]


def collate(rows: Sequence[Row], pad: int, accepts_bar_offset: bool) -> Batch:
    """Pad rows on the right to [rows, longest]."""
    lengths = [len(row.prefix) + len(row.body) for row in rows]
    shape = (len(rows), max(lengths))
    input_ids, labels, mask = np.full(shape, pad), np.full(shape, IGNORED), np.zeros(shape, dtype=np.int64)
    for i, (row, length) in enumerate(zip(rows, lengths)):
        start = len(row.prefix)
        input_ids[i, :start], input_ids[i, start:length], mask[i, :length] = row.prefix, row.body, 1
        labels[i, start:length] = np.where(row.restored, IGNORED, row.body)
    inputs = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
    if accepts_bar_offset:
        inputs["bar_offset"] = np.array([row.bars_before for row in rows])
    return Batch(
        inputs={name: torch.from_numpy(value.astype(np.int64, copy=False)) for name, value in inputs.items()},
        num_supervised=int((labels[:, 1:] != IGNORED).sum()),
        num_tokens=sum(lengths),
        num_bars=sum(row.num_bars for row in rows),
        songs=[row.name for row in rows],
    )


class RowSource:
    """The rows of one epoch, made on demand."""

    def __init__(
        self, corpus: TokenCorpus, crops: CropTable, seed: int, epoch: int, augmentation: RowAugmentation | None
    ):
        self.corpus, self.crops, self.seed, self.epoch, self.augmentation = corpus, crops, seed, epoch, augmentation

    def row(self, item: int) -> Row:
        """Return a finished row, the same at every call."""
        row = cut_crop(self.corpus, self.crops, int(item))
        if self.augmentation is None:
            return row
        return self.augmentation(row, np.random.default_rng((self.seed, self.epoch, 2, int(item))))


class UpdateDataset(Dataset):
    """Item k: the micro-batches of update k that belong to one process."""

    def __init__(self, source: RowSource, plan: list[Update], process: int, processes: int, accepts_bar_offset: bool):
        self.source, self.plan = source, plan
        self.process, self.processes, self.accepts_bar_offset = process, processes, accepts_bar_offset

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[Batch]:
        pad = self.source.corpus.vocabulary.pad
        mine = self.plan[index][self.process :: self.processes]
        return [collate([self.source.row(item) for item in rows], pad, self.accepts_bar_offset) for rows in mine]


class TokenData:
    """Training and validation batches of a corpus, as the loop asks for them."""

    unit = "token"  # what `num_supervised` counts

    def __init__(
        self,
        arguments: DataArguments,
        processor: MidiProcessor,
        *,
        seed: int,
        batches_per_update: int,
        process: int = 0,
        processes: int = 1,
    ):
        assert arguments.corpus is not None
        self.arguments, self.seed, self.batches_per_update = arguments, seed, batches_per_update
        self.process, self.processes = process, processes
        vocabulary = processor.vocabulary
        self.processor = processor
        self.train = self.open_train(vocabulary)
        self.validation = TokenCorpus.from_parquet(arguments.corpus, arguments.validation_split, vocabulary)
        self.augmentation = RowAugmentation(arguments, processor, self.train)
        self.accepts_bar_offset = False  # set by the loop, which knows the model
        self.data_hash = hashlib.sha256(
            (self.train.content_hash() + self.validation.content_hash()).encode()
        ).hexdigest()

    def open_train(self, vocabulary: Vocabulary) -> Any:
        """Return the training songs."""
        assert self.arguments.corpus is not None
        corpus = TokenCorpus.from_parquet(self.arguments.corpus, self.arguments.train_split, vocabulary)
        return corpus.spread(self.arguments.train_songs) if self.arguments.train_songs else corpus

    def draw_rows(self, corpus: TokenCorpus, augmentation: RowAugmentation, seed: int, epoch: int) -> RowSource:
        """Return the training rows that an epoch takes from some songs."""
        a = self.arguments
        crops = draw_crops(
            corpus,
            a.crop,
            a.crop_length,
            seed=seed,
            epoch=epoch,
            head_probability=a.head_probability,
            crops_per_song=a.crops_per_song,
            short_crop_length=a.short_crop_length,
            short_crop_probability=a.short_crop_probability,
        )
        return RowSource(corpus, crops, seed, epoch, augmentation)

    def plan_rows(self, lengths: np.ndarray, bars: np.ndarray, seed: int, epoch: int) -> list[Update]:
        """Return the updates that rows of these lengths and bars make."""
        a = self.arguments
        return plan_epoch(
            lengths,
            bars,
            seed=seed,
            epoch=epoch,
            max_tokens=a.max_tokens_per_batch,
            max_rows=a.max_rows_per_batch,
            batches_per_update=self.batches_per_update,
            bucket_rows=a.bucket_rows,
        )

    def epoch(self, epoch: int, position: int = 0) -> DataLoader:
        """Return a loader over the updates of an epoch from `position` on; it draws no global random number."""
        a = self.arguments
        source = self.draw_rows(self.train, self.augmentation, self.seed, epoch)
        plan = self.plan_rows(source.crops.lengths, source.crops.bars, self.seed, epoch)
        if not plan:
            raise ValueError(
                f"data.corpus {a.corpus}: {len(self.train)} songs are fewer than train.batches_per_update "
                f"{self.batches_per_update}: lower it or data.max_tokens_per_batch"
            )
        dataset = UpdateDataset(source, plan, self.process, self.processes, self.accepts_bar_offset)
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=range(position, len(plan)),  # type: ignore[arg-type]
            num_workers=a.num_workers,
            collate_fn=_identity,
            generator=torch.Generator(),  # otherwise every new iterator would advance the global generator
        )

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this process's validation batches: the same crops every time, without augmentation.

        Every process gets equally many; a process that has one fewer repeats its last with nothing supervised.
        """
        a = self.arguments
        corpus = self.validation
        crops = draw_crops(corpus, a.validation_crop, a.validation_length, seed=0, epoch=0)
        source = RowSource(corpus, crops, 0, 0, None)
        items = np.arange(len(crops))
        if a.validation_songs:
            items = np.unique(np.linspace(0, len(items) - 1, min(a.validation_songs, len(items))).round().astype(int))
        items = items[np.lexsort((crops.bars[items], crops.lengths[items]))]
        budget = a.validation_tokens_per_batch or a.max_tokens_per_batch
        plan = cut_batches(items, crops.lengths, budget, a.max_rows_per_batch)
        for i in range(0, len(plan), self.processes):
            mine = i + self.process
            rows = [source.row(item) for item in plan[min(mine, len(plan) - 1)]]
            batch = collate(rows, corpus.vocabulary.pad, self.accepts_bar_offset)
            if mine >= len(plan):
                batch.inputs["labels"].fill_(IGNORED)
                batch.num_supervised = batch.num_bars = 0
            yield batch


def _identity(item: Any) -> Any:
    return item
