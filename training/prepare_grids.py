"""Put the songs of a corpus on the sixteenth grid that MusicVAE reads.

From a corpus made by prepare_data.py, whose splits (by song group) are kept:

    python training/prepare_grids.py --corpus corpus -o grids

With further MIDI files, such as drum takes too short for the corpus; a column of their metadata.csv names the split,
without it the file's MD5 decides (8 : 1 : 1). Files that the corpus holds already are passed over:

    python training/prepare_grids.py --corpus corpus --midi data/sample data/train_open --only groove_drums \
        --split-column groove_split -o grids

The output folder holds grids/{train,validation,test}-*.parquet and report.json, which counts every file that was left
out and why. Exit status: 0; 1 if no song came through; 2 for wrong arguments.
"""

import argparse
import collections
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from partimento.tokenization.errors import MidiError
from partimento.tokenization.grid_songs import read_grid_song
from partimento.training.checkpointing import write_atomically
from partimento.training.corpus_sources import collect
from partimento.training.grid_songs_store import StoredSong, write_songs

SPLITS = ("train", "validation", "test")
TEXT = ("file_name", "md5", "source", "licence", "group_id", "genre")


def corpus_rows(folder: Path, split: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """MIDI bytes and metadata of one split of a prepared corpus.

    Raises:
        FileNotFoundError: no `raw` configuration.
    """
    files = sorted(folder.glob(f"raw/{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no raw/{split}-*.parquet; make the corpus with prepare_data.py")
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=100, columns=["midi", *TEXT]):
            for row in batch.to_pylist():
                yield row["midi"], {name: row[name] or "" for name in TEXT}


def split_of(metadata: dict[str, str], md5: str, column: str | None) -> str:
    """Split of a file outside of the corpus."""
    named = metadata.get(column or "", "").lower()
    if named in SPLITS:
        return named
    return {0: "validation", 1: "test"}.get(int(md5[:8], 16) % 10, "train")


def loose_rows(
    folders: Sequence[Path], only: str, column: str | None, known: set[str]
) -> dict[str, list[tuple[Path, dict[str, str]]]]:
    """Files outside of the corpus whose name contains `only`, by split, each with its metadata.

    MD5s that are `known` are passed over.
    """
    rows: dict[str, list[tuple[Path, dict[str, str]]]] = {split: [] for split in SPLITS}
    with tempfile.TemporaryDirectory() as scratch:
        for file in collect(folders, Path(scratch)).files:
            if file.md5 in known or only not in file.name:
                continue
            known.add(file.md5)
            metadata = {**file.metadata, "file_name": file.name, "md5": file.md5, "group_id": file.md5}
            rows[split_of(metadata, file.md5, column)].append((file.path, metadata))
    return rows


class Preparation:
    """Reads songs and counts what happens to them."""

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter] = {}
        self.rejected: list[dict[str, str]] = []

    def songs(self, split: str, rows: Iterator) -> Iterator[StoredSong]:
        """The songs that can be put on the grid."""
        counter = self.counts.setdefault(split, collections.Counter())
        for source, metadata in rows:
            try:
                song = read_grid_song(source)
            except MidiError as error:
                counter[type(error).__name__] += 1
                self.rejected.append({"file_name": metadata["file_name"], "reason": str(error)})
                continue
            counter["songs"] += 1
            counter["bars"] += len(song.bars)
            counter["parts"] += len(song.parts)
            yield StoredSong(song, metadata)

    def report(self) -> dict:
        return {"splits": {split: dict(counter) for split, counter in self.counts.items()}, "rejected": self.rejected}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder made by prepare_data.py")
    parser.add_argument("--midi", type=Path, nargs="+", default=[], metavar="FOLDER", help="further MIDI files")
    parser.add_argument("--only", default="", metavar="TEXT", help="of them, those whose path contains this text")
    parser.add_argument("--split-column", help="column of their metadata.csv with train, validation or test")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the grids")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the grids; return the exit status."""
    options = make_parser().parse_args(argv)
    preparation = Preparation()
    try:
        known = {metadata["md5"] for split in SPLITS for _, metadata in corpus_rows(options.corpus, split)}
        loose = loose_rows(options.midi, options.only, options.split_column, known) if options.midi else {}
        total = 0
        for split in SPLITS:
            rows = [corpus_rows(options.corpus, split), iter(loose.get(split, []))]
            bar = tqdm((row for part in rows for row in part), desc=split, unit="song", disable=not sys.stderr.isatty())
            total += write_songs(options.output, split, preparation.songs(split, iter(bar)))
    except (OSError, ValueError) as error:
        print(f"prepare_grids.py: {error}", file=sys.stderr)
        return 2
    write_atomically(options.output / "report.json", json.dumps(preparation.report(), indent=1, ensure_ascii=False))
    for split, counter in preparation.counts.items():
        print(f"{split}: {', '.join(f'{count} {name}' for name, count in counter.items())}")
    return 0 if total else 1


if __name__ == "__main__":
    sys.exit(main())
