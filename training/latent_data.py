"""What the latent laboratory is run on: bars of music or images, in three splits, with labels.

    drums, melody, piano_roll   bars of a corpus made by prepare_grids.py; the label is the song's genre
    digits                      the 1,797 images of 8 x 8 in scikit-learn (3 : 1 : 1, order drawn once with seed 0)
    FILE.npz                    x_train, y_train, x_test, y_test, as MNIST is handed round; the last 5,000 training
                                images (or a tenth, if that is less) validate

Bars keep the corpus' splits by song: bars of a split are unique, and none of them occurs in training.
"""

import argparse
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from partimento.modeling import DenseVAEConfig
from partimento.tokenization import DenseVAEProcessor, MusicVAEProcessor
from partimento.tokenization.processing_roll import KINDS
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_data import GridCorpus
from partimento.training.grid_songs_store import shards
from partimento.training.roll_data import RollCorpus

SPLITS = ("train", "validation", "test")
NO_LABEL = -1
BINARIZE = ("none", "fixed", "dynamic")


@dataclass(eq=False)
class LabItems:
    """Items of a split: `values` `[n, *shape]` (uint8 ones and zeros, or float32 greys) and `labels` `[n]`."""

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, chosen: np.ndarray) -> "LabItems":
        return LabItems(self.values[chosen], self.labels[chosen])

    def labelled(self) -> "LabItems":
        """The items that have a label."""
        return self.take(self.labels != NO_LABEL)


@dataclass(eq=False)
class LabData:
    """A data set of the laboratory.

    Args:
        name: what `--data` said.
        splits: train, validation and test.
        label_names: names of the labels 0, 1, ...; empty where there are none.
        likelihood: what fits: `bernoulli` or `categorical`.
        processor: turns grids into MIDI; `None` for images.
        facts: how it was read.
    """

    name: str
    splits: dict[str, LabItems]
    label_names: list[str] = field(default_factory=list)
    likelihood: str = "bernoulli"
    processor: Any = None
    facts: dict[str, Any] = field(default_factory=dict)

    def items(self, split: str) -> LabItems:
        """A split; greys that are drawn anew in every epoch of a training are drawn once here."""
        items = self.splits[split]
        if self.facts.get("binarize") == "dynamic" and split == "train":
            return LabItems(drawn(items.values, np.random.default_rng((0, SPLITS.index(split)))), items.labels)
        return items

    def describe(self) -> dict[str, Any]:
        """What a report says about the data, with a hash of its content."""
        digest = hashlib.sha256()
        for items in self.splits.values():
            digest.update(np.ascontiguousarray(items.values).data)
            digest.update(np.ascontiguousarray(items.labels).data)
        sizes = {name: len(items) for name, items in self.splits.items()}
        return {
            "data": self.name,
            "items": sizes,
            "labels": self.label_names,
            **self.facts,
            "hash": digest.hexdigest()[:16],
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an item."""
        return self.splits["train"].values.shape[1:]


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what is read."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", default="digits", metavar="NAME", help="digits, drums, melody, piano_roll, or a .npz file of images"
    )
    group.add_argument("--grids", metavar="FOLDER", help="music: folder made by prepare_grids.py")
    group.add_argument("--bars", type=int, default=1, help="music: bars of an item")
    group.add_argument("--min-onsets", type=int, default=4, help="music: fewest steps of an item with an onset")
    group.add_argument("--min-per-label", type=int, default=50, help="music: fewest items of a genre in every split")
    group.add_argument("--max-items", type=int, default=0, help="training items, spread over the split; 0: all")
    group.add_argument("--held-out-items", type=int, default=0, help="validation and test items each; 0: all")
    group.add_argument(
        "--binarize",
        choices=BINARIZE,
        default="fixed",
        help="images: draw every pixel with the probability that its grey names, once (fixed) or in every epoch "
        "(dynamic); with none a Bernoulli model of greys has no likelihood, only the published loss",
    )


def read_data(options: argparse.Namespace, processor: Any = None) -> LabData:
    """The data that the options name.

    Args:
        processor: of a MusicVAE, whose sequences of ids are then the items.

    Raises:
        ValueError: a name that does not exist, no music folder, scikit-learn missing, or an unusable file.
    """
    if processor is not None:
        data = read_music(options, processor)
    elif options.data == "digits":
        data = read_digits()
    elif options.data in KINDS:
        data = read_music(options, DenseVAEProcessor(options.data, options.bars))
    elif options.data.endswith(".npz"):
        data = read_images(Path(options.data))
    else:
        raise ValueError(f"--data {options.data}: give digits, {', '.join(KINDS)}, or a .npz file")
    for split, limit in (("train", options.max_items), *((name, options.held_out_items) for name in SPLITS[1:])):
        if limit:
            data.splits[split] = spread(data.splits[split], limit)
    if data.processor is None:
        data.facts["binarize"] = options.binarize
        for number, split in enumerate(SPLITS):
            if options.binarize == "fixed" or (options.binarize == "dynamic" and split != "train"):
                items = data.splits[split]
                items.values = drawn(items.values, np.random.default_rng((0, number)))
    return data


def spread(items: LabItems, count: int) -> LabItems:
    """At most `count` items, evenly over the split."""
    if count >= len(items):
        return items
    return items.take(np.linspace(0, len(items) - 1, count).round().astype(int))


def drawn(greys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ones and zeros, uint8, with the probabilities that the greys name."""
    return (rng.random(greys.shape, dtype=np.float32) < greys).astype(np.uint8)


def read_digits() -> LabData:
    """Scikit-learn's digits, greys in 0 ... 1."""
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError as error:
        raise ValueError(
            f"--data digits: the images are part of scikit-learn; pip install 'partimento[lab]' ({error})"
        ) from None
    digits: Any = load_digits()
    values, labels = (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(values))
    parts = np.split(order, [3 * len(order) // 5, 4 * len(order) // 5])
    splits = {name: LabItems(values[part], labels[part]) for name, part in zip(SPLITS, parts)}
    return LabData("digits", splits, [str(i) for i in range(10)])


def read_images(path: Path) -> LabData:
    """Images of an archive.

    Raises:
        ValueError: unreadable, or not with the four arrays.
    """
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"--data {path}: needs the arrays x_train, y_train, x_test, y_test ({error})") from None

    def items(name: str, part: slice) -> LabItems:
        values = arrays[f"x_{name}"][part]
        values = values / np.float32(255) if values.dtype == np.uint8 else values.astype(np.float32)
        return LabItems(values.astype(np.float32), arrays[f"y_{name}"][part].astype(np.int64).reshape(-1))

    held_out = max(1, min(5000, len(arrays["x_train"]) // 10))
    splits = {
        "train": items("train", slice(None, -held_out)),
        "validation": items("train", slice(-held_out, None)),
        "test": items("test", slice(None)),
    }
    return LabData(path.name, splits, [str(i) for i in range(int(arrays["y_train"].max()) + 1)])


def read_music(options: argparse.Namespace, processor: Any) -> LabData:
    """Bars of a grid corpus with the genre of their song.

    Raises:
        ValueError: no folder given. FileNotFoundError: the folder has no such split.
    """
    if options.grids is None:
        raise ValueError("music needs --grids FOLDER, one made by prepare_grids.py")
    arguments = GridArguments(options.grids, min_onsets=options.min_onsets)
    is_roll = isinstance(processor, DenseVAEProcessor)
    name = processor.kind if is_roll else " and ".join(processor.tracks)
    splits, genres, seen = {}, {}, None
    for split in SPLITS:
        corpus = (RollCorpus if is_roll else GridCorpus).from_parquet(arguments, split, processor, seen)
        seen = corpus if split == "train" else seen
        if isinstance(corpus, RollCorpus):
            values = corpus.values(np.arange(len(corpus)), processor)
        else:
            assert isinstance(processor, MusicVAEProcessor)
            values = processor.join_tracks(list(corpus.windows.transpose(1, 0, 2)))
        named = genres_of(options.grids, split)
        genres[split] = np.array([named[corpus.names[song]] for song in corpus.songs])
        splits[split] = values
    names = common_labels(genres, options.min_per_label)
    number = {name: i for i, name in enumerate(names)}
    items = {
        split: LabItems(values, np.array([number.get(name, NO_LABEL) for name in genres[split]], np.int64))
        for split, values in splits.items()
    }
    facts: dict[str, Any] = {"bars": processor.num_bars, "min_onsets": options.min_onsets, "label": "genre of the song"}
    likelihood = processor.model_config_kwargs().get("likelihood", "categorical")
    return LabData(name, items, names, likelihood, processor, facts)


def genres_of(folder: str, split: str) -> dict[str, str]:
    """Genre of each song of a split, by the name the corpus gives it: lower case, without hyphens and blanks."""
    genres = {}
    for shard in shards(folder, split):
        for row in pq.read_table(shard, columns=["md5", "file_name", "genre"]).to_pylist():
            genres[row["md5"] or row["file_name"]] = re.sub(r"[\s_-]", "", (row["genre"] or "").lower())
    return genres


def common_labels(genres: dict[str, np.ndarray], minimum: int) -> list[str]:
    """Genres with at least `minimum` items in every split, the most frequent first."""
    counts = [dict(zip(*np.unique(found, return_counts=True))) for found in genres.values()]
    names = [name for name in counts[0] if name and all(count.get(name, 0) >= minimum for count in counts)]
    return [str(name) for name in sorted(names, key=lambda name: (-counts[0][name], name))]


def config_for(data: LabData, **settings) -> DenseVAEConfig:
    """The configuration of a dense VAE that fits the data."""
    return DenseVAEConfig(input_shape=tuple(data.shape), **{"likelihood": data.likelihood, **settings})
