"""Songs in consecutive windows, for truncated back-propagation through time.

Every epoch deals the songs, in a new order, to parallel lanes. An update takes the next window of every lane: up to
`window` tokens of one song, and for each of them the token that follows as target, so that no target is lost at a
border. A window never spans two songs; the first of a song is marked in `starts`, where the state begins at zero.
A lane is never shuffled, and every process owns lanes of its own.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from partimento.tokenization import MidiProcessor
from partimento.training.arguments import DataArguments
from partimento.training.bptt_arguments import BpttArguments
from partimento.training.token_corpus import Row, TokenCorpus
from partimento.training.token_data import IGNORED, Batch, RowAugmentation, TokenData

NOTHING = -1  # in a plan: the lane has no window left


@dataclass
class WindowBatch(Batch):
    """A micro-batch of windows: those lanes always come in the micro-batch number `slot` of an update."""

    starts: torch.Tensor  # [rows] bool: the window is the first of its song
    slot: int


def plan_lanes(num_windows: np.ndarray, lanes: int, *, seed: int, epoch: int, shuffled: bool = False) -> np.ndarray:
    """Return `[updates, lanes, 2]`: song and window of every lane at every update, `NOTHING` where a lane has ended.

    Args:
        num_windows: [songs] windows of each song.
        shuffled: deal single windows in random order instead of whole songs.
    """
    rng = np.random.default_rng((seed, epoch, 4))
    if shuffled:
        song = np.repeat(np.arange(len(num_windows)), num_windows)
        window = np.concatenate([np.arange(count) for count in num_windows])
        order = rng.permutation(len(song))
        plan = np.full((-(-len(order) // lanes) * lanes, 2), NOTHING)
        plan[: len(order), 0], plan[: len(order), 1] = song[order], window[order]
        return plan.reshape(-1, lanes, 2)
    queues: list[list[tuple[int, int]]] = [[] for _ in range(lanes)]
    loads = [(0, lane) for lane in range(lanes)]
    for song in rng.permutation(len(num_windows)).tolist():
        load, lane = heapq.heappop(loads)  # the lane that ends first goes on
        queues[lane] += [(song, window) for window in range(num_windows[song])]
        heapq.heappush(loads, (load + int(num_windows[song]), lane))
    plan = np.full((max(map(len, queues)), lanes, 2), NOTHING)
    for lane, queue in enumerate(queues):
        plan[: len(queue), lane] = queue
    return plan


class WindowDataset(Dataset):
    """Item k: the micro-batches of update k that belong to one process."""

    def __init__(self, data: "WindowData", epoch: int, plan: np.ndarray):
        self.data, self.epoch, self.plan = data, epoch, plan
        self.songs: OrderedDict[int, Row] = OrderedDict()

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[WindowBatch]:
        data = self.data
        parts = np.split(self.plan[index], data.batches_per_update)
        return [self.collate(part, slot) for slot, part in enumerate(parts[data.process :: data.processes])]

    def song(self, song: int) -> Row:
        """Return a whole song as this epoch has it."""
        if song not in self.songs:
            corpus: TokenCorpus = self.data.train
            ids, prefix = corpus.song(song), int(corpus.prefix_lengths[song])
            num_bars = int(corpus.end_bar[song] - corpus.first_bar[song])
            body = ids[prefix:]
            row = Row(ids[:prefix], body, np.zeros(len(body), dtype=bool), 0, num_bars, song, corpus.names[song])
            self.songs[song] = self.data.augmentation(row, np.random.default_rng((self.data.seed, self.epoch, 2, song)))
            if len(self.songs) > 2 * self.data.bptt.lanes:
                self.songs.popitem(last=False)
        self.songs.move_to_end(song)
        return self.songs[song]

    def collate(self, windows: np.ndarray, slot: int) -> WindowBatch:
        """Windows of some lanes, `[rows, 2]`, padded on the right."""
        size, vocabulary = self.data.bptt.window, self.data.train.vocabulary
        rows, names = [], []
        for song, window in windows.tolist():
            inputs = targets = np.zeros(0, dtype=np.int64)
            if song != NOTHING:
                row = self.song(song)
                ids = np.concatenate([row.prefix, row.body]).astype(np.int64)
                inputs, targets = ids[:-1], ids[1:].copy()
                targets[: len(row.prefix) - 1] = IGNORED
                start = window * size
                inputs, targets = inputs[start : start + size], targets[start : start + size]
                names.append(f"{row.name}#{window}")
            rows.append((inputs, targets))
        shape = (len(rows), max(1, *(len(inputs) for inputs, _ in rows)))
        input_ids, labels, mask = np.full(shape, vocabulary.pad), np.full(shape, IGNORED), np.zeros(shape, np.int64)
        for i, (inputs, targets) in enumerate(rows):
            input_ids[i, : len(inputs)], labels[i, : len(inputs)], mask[i, : len(inputs)] = inputs, targets, 1
        # No attention mask: padding stands behind the end of a song, and the state after it is thrown away.
        tensors = {"input_ids": input_ids, "shift_labels": labels}
        return WindowBatch(
            inputs={name: torch.from_numpy(value.astype(np.int64, copy=False)) for name, value in tensors.items()},
            num_supervised=int((labels != IGNORED).sum()),
            num_tokens=int(mask.sum()),
            num_bars=int((labels == vocabulary.bar).sum()),
            songs=names,
            starts=torch.from_numpy(windows[:, 1] <= 0),
            slot=slot,
        )


class WindowData(TokenData):
    """Training windows as the loop asks for them; validation reads crops, like `TokenData`."""

    def __init__(self, arguments: DataArguments, bptt: BpttArguments, processor: MidiProcessor, **settings: int):
        super().__init__(arguments, processor, **settings)
        self.bptt = bptt
        self.augmentation: RowAugmentation

    def epoch(self, epoch: int, position: int = 0) -> DataLoader:
        """Return a loader over the updates of an epoch from `position` on; it draws no global random number."""
        targets = np.diff(self.train.offsets) - 1
        plan = plan_lanes(
            -(-targets // self.bptt.window), self.bptt.lanes, seed=self.seed, epoch=epoch, shuffled=not self.bptt.carry
        )
        return DataLoader(
            WindowDataset(self, epoch, plan),
            batch_size=None,
            sampler=range(position, len(plan)),  # type: ignore[arg-type]
            num_workers=self.arguments.num_workers,
            collate_fn=_identity,
            generator=torch.Generator(),  # otherwise every new iterator would advance the global generator
        )


def _identity(item):
    return item
