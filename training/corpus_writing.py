"""Writing a corpus: Parquet files of two configurations, tables for the report, the rejected files."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from partimento.tokenization import MidiProcessor
from partimento.training.corpus_card import CONFIGURATIONS
from partimento.training.corpus_grouping import SPLITS
from partimento.training.lakh_labels import artist_label

ROWS_PER_FILE, ROWS_PER_GROUP = 4096, 256
COLUMNS = {
    "md5": pa.string(),
    "file_name": pa.string(),
    "source": pa.string(),
    "licence": pa.string(),
    "title": pa.string(),
    "artist": pa.string(),
    "genre": pa.string(),
    "genre_source": pa.string(),
    "genre_secondary": pa.string(),
    "mood": pa.string(),
    "msd_id": pa.string(),
    "match_score": pa.float32(),
    "key": pa.string(),
    "key_shift": pa.int8(),
    "tempo": pa.float32(),
    "programs": pa.list_(pa.int16()),
    "num_bars": pa.int32(),
    "num_notes": pa.int32(),
    "num_tokens": pa.int32(),
    "group_id": pa.string(),
    "split": pa.string(),
}
HEAVY_COLUMNS = {"raw": ("midi", pa.binary()), "tokenized": ("input_ids", pa.list_(pa.int32()))}


def song_conditions(song: dict, labels: dict[str, list[str]]) -> dict:
    """Measured conditions of a song plus those of its labels that are tokens."""
    conditions = json.loads(song["conditions"])
    for slot, name, value in (
        ("genre", "genres", song["genre"]),
        ("artist", "artists", artist_label(song["artist"])),
        ("mood", "moods", song["mood"]),
    ):
        if value in labels[name]:
            conditions[slot] = value
        else:
            conditions.pop(slot, None)
    return conditions


class SplitWriter:
    """Rows of one split in numbered Parquet files `<split>-00000-of-00003.parquet`."""

    def __init__(self, folder: Path, split: str, configuration: str, rows: int, metadata: dict[str, str]):
        name, kind = HEAVY_COLUMNS[configuration]
        light = list(COLUMNS.items())
        self.schema = pa.schema([(name, kind), *light] if name == "midi" else [*light, (name, kind)], metadata=metadata)
        total = -(-rows // ROWS_PER_FILE)
        self.paths = [folder / configuration / f"{split}-{i:05d}-of-{total:05d}.parquet" for i in range(total)]
        self.buffer: list[dict] = []
        self.file, self.written = None, 0

    def add(self, row: dict) -> None:
        self.buffer.append(row)
        if len(self.buffer) == ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows; they never cross a file, because a file holds whole row groups."""
        if self.buffer:
            if self.file is None:
                self.file = pq.ParquetWriter(self.paths[self.written // ROWS_PER_FILE], self.schema, compression="zstd")
            names = self.schema.names
            self.file.write_table(
                pa.Table.from_pylist([{n: r[n] for n in names} for r in self.buffer], schema=self.schema)
            )
            self.written += len(self.buffer)
            self.buffer = []
        if self.file is not None and self.written % ROWS_PER_FILE == 0:
            self.close()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def write_parquet(
    folder: Path,
    songs: Sequence[dict],
    heavy: Iterator[tuple[int, bytes, list[int]]],
    processor: MidiProcessor,
    labels: dict[str, list[str]],
    metadata: dict[str, str],
) -> None:
    """Write both configurations; fills in `num_tokens` of each song (with BOS, conditions and EOS).

    Args:
        songs: all songs in the order of the files; those without `split` are skipped.
        heavy: (number of the song, MIDI bytes, tokens of its bars).
    """
    for configuration in CONFIGURATIONS:
        (folder / configuration).mkdir(parents=True)
    rows = Counter(s["split"] for s in songs if s.get("split"))
    writers = {(c, s): SplitWriter(folder, s, c, rows[s], metadata) for c in CONFIGURATIONS for s in SPLITS if rows[s]}
    for number, midi, body in heavy:
        song = songs[number]
        prefix = processor.condition_ids(song_conditions(song, labels))
        ids = [processor.bos_token_id, *prefix, *body, processor.eos_token_id]
        song["num_tokens"] = len(ids)
        for configuration, column in (("raw", {"midi": midi}), ("tokenized", {"input_ids": ids})):
            writers[configuration, song["split"]].add(song | column)
    for writer in writers.values():
        writer.flush()
        writer.close()


def split_table(songs: Sequence[dict]) -> dict[str, dict[str, int]]:
    """Songs, bars, notes and tokens per split."""
    table = {split: Counter(songs=0, bars=0, notes=0, tokens=0) for split in SPLITS}
    for song in songs:
        one = {"songs": 1, "bars": song["num_bars"], "notes": song["num_notes"], "tokens": song["num_tokens"]}
        table[song["split"]].update(one)
    return {split: dict(row) for split, row in table.items()}


def genre_table(songs: Sequence[dict]) -> dict[str, dict[str, list[int]]]:
    """[songs, tokens] per genre and split; songs without a genre under the empty name."""
    table: dict = defaultdict(lambda: {split: [0, 0] for split in SPLITS})
    for song in songs:
        cell = table[song["genre"]][song["split"]]
        cell[0] += 1
        cell[1] += song["num_tokens"]
    return {genre: table[genre] for genre in sorted(table)}


def write_rejected(path: Path, rejected: Sequence[dict]) -> None:
    """One JSON object per rejected file, sorted by MD5 and name."""
    names = ("file_name", "md5", "stage", "reason", "detail")
    lines = [json.dumps({n: r[n] for n in names}, ensure_ascii=False) for r in rejected]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def stage_lines(report: dict) -> list[str]:
    """The stage counts as a table for the terminal."""
    lines = [f"{'stage':<16}{'in':>9}{'out':>9}  rejected"]
    for row in report["stages"]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in row["rejected"].items())
        lines.append(f"{row['stage']:<16}{row['in']:>9}{row['out']:>9}  {reasons}")
    return lines


def report_lines(report: dict) -> list[str]:
    """Stage counts, splits, genres and groups as text."""
    lines = stage_lines(report)
    lines += ["", f"{'split':<16}{'songs':>9}{'groups':>9}{'bars':>10}{'notes':>11}{'tokens':>12}"]
    for split, row in report["splits"].items():
        groups = report["groups"]["groups per split"][split]
        lines.append(f"{split:<16}{row['songs']:>9}{groups:>9}{row['bars']:>10}{row['notes']:>11}{row['tokens']:>12}")
    lines += ["", f"{'genre':<16}" + "".join(f"{s + ' songs':>18}{'tokens':>12}" for s in SPLITS)]
    for genre, cells in report["genres"].items():
        mark = "" if genre in report["labels"]["genres"] else " *"
        counts = "".join(f"{cells[s][0]:>18}{cells[s][1]:>12}" for s in SPLITS)
        lines.append(f"{(genre or '(none)') + mark:<16}{counts}")
    lines += ["* no condition token", ""]
    lines += [f"{name + ':':<42}{value}" for name, value in report["groups"].items() if name != "groups per split"]
    return lines


def publish(finished: Path, out: Path) -> None:
    """Move a finished corpus into place, the report last: a corpus without report.json is not complete."""
    (out / "report.json").unlink(missing_ok=True)
    for path in sorted(finished.iterdir(), key=lambda p: p.name == "report.json"):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
