"""Processing in shards: what was done survives a kill, and a second run goes on where the first one stopped."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from partimento.training.corpus_settings import SongSettings
from partimento.training.corpus_sources import SongFile
from partimento.training.corpus_stages import SongTask, process_file
from partimento.training.corpus_workers import WorkerFailure, run_tasks

SHARD_SCHEMA = pa.schema(
    {
        "stage": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "content": pa.string(),
        "signature": pa.string(),
        "num_bars": pa.int32(),
        "num_notes": pa.int32(),
        "num_tokens": pa.int32(),
        "key": pa.string(),
        "key_shift": pa.int8(),
        "tempo": pa.float32(),
        "programs": pa.list_(pa.int16()),
        "dropped_programs": pa.list_(pa.int16()),
        "conditions": pa.string(),
        "invariant": pa.uint64(),
        "bar_shingles": pa.list_(pa.uint64()),
        "melody_shingles": pa.list_(pa.uint64()),
        "midi": pa.binary(),
        "body": pa.list_(pa.int32()),
    }
)
HEAVY = ("midi", "body")
RETRIED = ("time_limit", "worker_crash")  # may be the machine's fault, not the file's
logger = logging.getLogger(__name__)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file that is either complete or absent."""
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def shard_folder(root: Path, files: Sequence[SongFile], settings: SongSettings, size: int, vocab_hash: str) -> Path:
    """Folder of the shards for exactly these files and settings; shards of anything else are never picked up."""
    listing = hashlib.sha256()
    for file in files:
        listing.update(f"{file.md5} {file.name} {file.metadata.get('key', '')}\n".encode())
    return root / f"shards-{settings.hash(listing.hexdigest(), str(size), vocab_hash)}"


def process_shards(
    files: Sequence[SongFile],
    folder: Path,
    settings: SongSettings,
    size: int,
    workers: int,
    time_limit: float,
    progress: bool = True,
    function=process_file,
    retry_failures: bool = False,
) -> list[Path]:
    """Process all files into shards of `size` files, skipping shards that exist; returns the shards in order.

    Args:
        retry_failures: process the files again that ran out of time or crashed a worker in an earlier run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder / f"shard-{i:05d}.parquet" for i in range(-(-len(files) // size))]
    missing = [i for i, path in enumerate(shards) if not path.exists()]
    numbers = [n for i in missing for n in range(i * size, min((i + 1) * size, len(files)))]
    open_shards: dict[int, dict[int, dict]] = {i: {} for i in missing}
    failed = [n for i, path in enumerate(shards) if i not in open_shards for n in failures_in(path, i * size)]
    if retry_failures:
        for i in sorted({n // size for n in failed}):
            records = pq.read_table(shards[i]).to_pylist()
            open_shards[i] = {n: r for n, r in enumerate(records, i * size) if r["reason"] not in RETRIED}
        numbers = sorted([*numbers, *failed])
    elif failed:
        warn_of_failures(len(failed))
    tasks = (SongTask(str(files[n].path), files[n].metadata.get("key", ""), settings) for n in numbers)
    results = run_tasks(function, tasks, workers, time_limit)
    bar = tqdm(results, total=len(files), initial=len(files) - len(numbers), unit="file", disable=not progress)
    for position, result in bar:
        number = numbers[position]
        if isinstance(result, WorkerFailure):
            result = {"stage": "parse", "reason": result.reason, "detail": result.detail}
        shard = number // size
        open_shards[shard][number] = result
        if len(open_shards[shard]) == min(size, len(files) - shard * size):
            done = open_shards.pop(shard)
            write_table(pa.Table.from_pylist([done[n] for n in sorted(done)], schema=SHARD_SCHEMA), shards[shard])
    return shards


def failures_in(shard: Path, first: int) -> list[int]:
    """Numbers of the files of a shard, whose first file has the number `first`, that are worth another try."""
    reasons = pq.read_table(shard, columns=["reason"])["reason"].to_pylist()
    return [n for n, reason in enumerate(reasons, first) if reason in RETRIED]


def warn_of_failures(number: int) -> None:
    """Tell how many files an earlier run gave up."""
    logger.warning(
        "%d files ran out of time or crashed a worker in an earlier run and stay rejected; "
        "--retry-failures tries them again",
        number,
    )


def read_records(shards: Sequence[Path]) -> list[dict]:
    """All records without the heavy columns, in the order of the files; shingles as arrays."""
    names = [n for n in SHARD_SCHEMA.names if n not in HEAVY]
    records = []
    for path in shards:
        table = pq.read_table(path, columns=names)
        arrays = {n: table[n].combine_chunks() for n in ("bar_shingles", "melody_shingles")}
        rows = table.drop_columns(list(arrays)).to_pylist()
        for i, row in enumerate(rows):
            for name, column in arrays.items():
                row[name] = column[i].values.to_numpy() if column[i].is_valid else None
        records += rows
    return records


def read_heavy(shards: Sequence[Path], wanted: Sequence[bool]) -> Iterator[tuple[int, bytes, list[int]]]:
    """(number of the file, MIDI bytes, tokens of its bars) of the wanted files, in order."""
    number = 0
    for path in shards:
        table = pq.read_table(path, columns=list(HEAVY))
        for i in range(len(table)):
            if wanted[number]:
                yield number, table["midi"][i].as_py(), table["body"][i].as_py()
            number += 1
