"""A prepared corpus as a dataset for the Hub: the songs that may be passed on, and a card that counts them.

Tokens decode to the same notes as the MIDI bytes, so both configurations are music in the sense of a licence, and one
rule holds for both: a song goes along if its source has a licence under which anybody may pass on changed copies
(`corpus_card.OPEN_LICENCES`), or if the user names that licence.
"""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from partimento.training.checkpointing import replace_folder
from partimento.training.corpus_card import CONFIGURATIONS, licence_id, write_card
from partimento.training.corpus_grouping import SPLITS
from partimento.training.corpus_writing import ROWS_PER_FILE, genre_table, split_table

FACTS = ("source", "licence", "genre", "split", "group_id", "num_bars", "num_notes", "num_tokens")


def is_corpus(folder: Path) -> bool:
    """Whether a folder was made by `prepare_data.py`, to the end."""
    return (folder / "report.json").is_file() and (folder / "tokenized").is_dir()


def export_corpus(corpus: Path, output: Path, name: str | None = None, include: Sequence[str] = ()) -> dict:
    """Write the dataset folder beside `output` first and then put it in its place.

    Args:
        name: title of the card; default: the name of `output`.
        include: further values of the column `licence` whose songs go along.

    Returns:
        The report of the songs that went along, as in `report.json` of the folder.

    Raises:
        ValueError: no song may go along, or `include` names a licence that no song has.
    """
    songs = read_facts(corpus)
    found = Counter(song["licence"] for song in songs)
    if unknown := [licence for licence in include if licence not in found]:
        raise ValueError(
            f"no song of {corpus} has the licence {unknown[0]!r}; there are: {', '.join(map(repr, found))}"
        )
    chosen = {licence for licence in found if licence_id(licence) or licence in include}
    kept = [song for song in songs if song["licence"] in chosen]
    if not kept:
        raise ValueError(f"{corpus}: no song has an open licence; there are: {', '.join(map(repr, found))}")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for configuration in CONFIGURATIONS:
        (partial / configuration).mkdir(parents=True)
        for split in SPLITS:
            files = sorted((corpus / configuration).glob(f"{split}-*.parquet"))
            copy_rows(files, partial / configuration, split, chosen)
    shutil.copytree(corpus / "processor", partial / "processor")
    left_out = {licence: count for licence, count in sorted(found.items()) if licence not in chosen}
    report = new_report(json.loads((corpus / "report.json").read_text(encoding="utf-8")), kept, left_out)
    (partial / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sources = Counter((song["source"], song["licence"]) for song in songs)
    in_folder = {key: count for key, count in sources.items() if key[1] in chosen}
    others = {key: count for key, count in sources.items() if key[1] not in chosen}
    write_card(partial / "README.md", report, in_folder, name or output.name, others)
    replace_folder(partial, output)
    return report


def read_facts(corpus: Path) -> list[dict]:
    """The columns that are counted, of all songs."""
    files = sorted(file for split in SPLITS for file in (corpus / "tokenized").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file, columns=list(FACTS)).to_pylist()]


def copy_rows(files: Sequence[Path], folder: Path, split: str, licences: Collection[str]) -> None:
    """Copy the rows with these licences, row group by row group, into files `<split>-00000-of-00002.parquet`."""
    writer, written, rows = None, [], 0
    for file in map(pq.ParquetFile, files):
        for number in range(file.num_row_groups):
            group = file.read_row_group(number)
            group = group.filter(pc.is_in(group["licence"], pa.array(sorted(licences))))
            if not len(group):
                continue
            if writer is None or rows >= ROWS_PER_FILE:
                if writer is not None:
                    writer.close()
                written.append(folder / f"{split}-{len(written):05d}.partial")
                writer, rows = pq.ParquetWriter(written[-1], file.schema_arrow, compression="zstd"), 0
            writer.write_table(group)
            rows += len(group)
    if writer is not None:
        writer.close()
    for number, path in enumerate(written):
        path.rename(folder / f"{split}-{number:05d}-of-{len(written):05d}.parquet")


def new_report(report: dict, kept: Sequence[dict], left_out: dict[str, int]) -> dict:
    """The report of the corpus with a further stage `licence`, and its counts made anew for what passed it."""
    total = len(kept) + sum(left_out.values())
    stage = {"stage": "licence", "in": total, "out": len(kept), "rejected": left_out}
    groups = {split: len({song["group_id"] for song in kept if song["split"] == split}) for split in SPLITS}
    return report | {
        "stages": [*report["stages"], stage],
        "splits": split_table(kept),
        "genres": genre_table(kept),
        "groups": {"groups": sum(groups.values()), "groups per split": groups},
    }
