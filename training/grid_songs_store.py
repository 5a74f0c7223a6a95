"""Songs on the sixteenth grid as Parquet, and back: what a grid corpus stores is notes, not windows.

One row per song: where it comes from, `bars` (steps of the bar lines of 4/4) and `parts` (program, name, and the notes'
start step, end step and pitch). Windows, voices and ranges are settled when a model's processor reads it.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partimento.tokenization.grid_songs import GridPart, GridSong
from partimento.tokenization.melody_lines import Notes

FOLDER = "grids"
PART = pa.struct(
    [
        ("program", pa.int16()),
        ("name", pa.string()),
        ("starts", pa.list_(pa.int32())),
        ("ends", pa.list_(pa.int32())),
        ("pitches", pa.list_(pa.int8())),
    ]
)
TEXT = ("file_name", "md5", "source", "licence", "group_id", "genre")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in TEXT),
        ("num_steps", pa.int32()),
        ("bars", pa.list_(pa.int32())),
        ("parts", pa.list_(PART)),
    ]
)


@dataclasses.dataclass(frozen=True)
class StoredSong:
    """A song and its metadata (`file_name`, `md5`, `source`, `licence`, `group_id`, `genre`)."""

    song: GridSong
    metadata: dict[str, str]


def to_row(stored: StoredSong) -> dict:
    """One row of the table."""
    song = stored.song
    parts = [
        {"program": p.program, "name": p.name, **{k: v.tolist() for k, v in p.notes._asdict().items()}}
        for p in song.parts
    ]
    text = {name: stored.metadata.get(name, "") or "" for name in TEXT}
    return {**text, "num_steps": song.num_steps, "bars": song.bars.tolist(), "parts": parts}


def from_row(row: dict) -> StoredSong:
    """A row back."""
    parts = [
        GridPart(p["program"], p["name"], Notes(*(np.asarray(p[k], np.int64) for k in Notes._fields)))
        for p in row["parts"]
    ]
    song = GridSong(row["file_name"], row["num_steps"], np.asarray(row["bars"], np.int64), parts)
    return StoredSong(song, {name: row[name] for name in TEXT})


def write_songs(folder: Path, split: str, songs: Iterable[StoredSong], rows_per_group: int = 200) -> int:
    """Write `<folder>/grids/<split>-00000-of-00001.parquet`, whole or not at all; return the number of songs."""
    path = folder / FOLDER / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    count, rows = 0, []
    with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:

        def flush() -> None:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows.clear()

        for stored in songs:
            rows.append(to_row(stored))
            count += 1
            if len(rows) == rows_per_group:
                flush()
        flush()
    temporary.replace(path)
    return count


def shards(folder: str | Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(Path(folder).glob(f"{FOLDER}/{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no {FOLDER}/{split}-*.parquet; make the corpus with prepare_grids.py")
    return files


def read_stored(folder: str | Path, split: str) -> Iterator[StoredSong]:
    """The songs of a split.

    Raises:
        FileNotFoundError: no such split.
    """
    for shard in shards(folder, split):
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=100):
            for row in batch.to_pylist():
                yield from_row(row)


def hash_of_files(folder: str | Path, splits: Iterable[str]) -> str:
    """SHA-256 over the Parquet files of some splits."""
    digest = hashlib.sha256()
    for split in splits:
        for shard in shards(folder, split):
            digest.update(shard.read_bytes())
    return digest.hexdigest()
