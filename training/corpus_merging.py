"""From single songs to a corpus: labels, duplicates, groups, splits, and the count of every stage."""

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from partimento.training.corpus_grouping import SPLITS, assign_splits, find_groups
from partimento.training.corpus_settings import CorpusSettings
from partimento.training.corpus_sources import Collection, SongFile
from partimento.training.lakh_labels import LakhLabels, artist_label, genre_label, to_label

STAGES = (
    "collect",
    "parse",
    "six_track",
    "normalise_time",
    "filters",
    "deduplicate",
    "length",
    "normalise_key",
    "split",
)
SPLIT_NAMES = {"train": "train", "valid": "validation", "validation": "validation", "dev": "validation", "test": "test"}


@dataclasses.dataclass
class StageCount:
    """Songs that entered and left a stage, and why the others did not leave it."""

    stage: str
    entered: int
    left: int
    rejected: dict[str, int]

    def as_dict(self) -> dict:
        """As written to report.json."""
        return {"stage": self.stage, "in": self.entered, "out": self.left, "rejected": self.rejected}


def read_split_list(path: Path, split: str) -> dict[str, str]:
    """MD5 -> split from a file with one MD5 (or `<md5>.mid`, or a path ending so) per line.

    Raises:
        ValueError: the split is unknown or a line holds no MD5.
    """
    if split not in SPLIT_NAMES:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLIT_NAMES)}")
    listed = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        found = re.search(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", line.lower())
        if found is None:
            raise ValueError(f"{path}:{number}: no MD5 in {line!r}")
        listed[found.group()] = SPLIT_NAMES[split]
    return listed


def join_lists(listed: dict[str, str], more: dict[str, str], where: str) -> None:
    """Add `more` to `listed` in place.

    Raises:
        ValueError: an MD5 that is in both, with different splits.
    """
    for md5, split in more.items():
        if listed.setdefault(md5, split) != split:
            raise ValueError(f"{where}: {md5} is listed in the split {split} here and in {listed[md5]} before")


def read_split_table(path: Path, column: str) -> dict[str, str]:
    """MD5 -> split from a CSV with columns `md5` and `column`; an empty cell of `column` is no entry.

    Raises:
        ValueError: a column is missing, a split is unknown, or an MD5 is none or is listed in two splits.
    """
    listed: dict[str, str] = {}
    with Path(path).open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        columns = reader.fieldnames or []
        for name in ("md5", column):
            if name not in columns:
                raise ValueError(f"{path}: no column {name!r}; it has {', '.join(columns) or 'none'}")
        for row in reader:
            split, md5 = (row[column] or "").strip().lower(), (row["md5"] or "").strip().lower()
            where = f"{path}:{reader.line_num}"
            if not split:
                continue
            if split not in SPLIT_NAMES:
                raise ValueError(f"{where}: split {split!r} is unknown; choose one of {', '.join(SPLIT_NAMES)}")
            if not re.fullmatch(r"[0-9a-f]{32}", md5):
                raise ValueError(f"{where}: {md5!r} is no MD5")
            join_lists(listed, {md5: SPLIT_NAMES[split]}, where)
    return listed


def song_labels(file: SongFile, lakh: LakhLabels, settings: CorpusSettings) -> dict:
    """Metadata columns of a song; what the metadata table leaves open is filled through the Lakh join."""
    row, match = file.metadata, lakh.match(file.md5, file.name)
    basis = row.get("genre_basis", "")
    genre, source, secondary = genre_label(row.get("genre", "")), basis or "metadata", ""
    if genre and "heuristic" in basis.lower() and settings.heuristic_genres == "drop":
        genre = ""
    if not genre:
        genre, source, secondary = match.genre, match.genre_source, match.genre_secondary
    return {
        "md5": file.md5,
        "file_name": file.name,
        "source": row["source"],
        "licence": row["licence"],
        "title": row.get("title") or match.title,
        "artist": row.get("artist") or match.artist,
        "genre": genre,
        "genre_source": source if genre or secondary else "",
        "genre_secondary": secondary,
        "mood": to_label(row.get("mood", "") or match.mood),
        "msd_id": row.get("msd_id") or match.msd_id,
        "match_score": match.match_score,
    }


def _label_rank(song: dict) -> int:
    """Of several copies the one with the best-founded genre is kept."""
    return 2 if not song["genre"] else int("heuristic" in song["genre_source"].lower())


def find_duplicates(
    songs: Sequence[dict], listed: dict[str, str], settings: CorpusSettings
) -> dict[int, tuple[str, str]]:
    """Number -> (reason, detail) of songs that repeat an earlier one.

    First come songs on imported lists, then those with a better label, then the smaller MD5.
    """

    def rank(i: int) -> tuple:
        return songs[i]["md5"] not in listed, _label_rank(songs[i]), songs[i]["md5"], songs[i]["file_name"]

    order = sorted(range(len(songs)), key=rank)
    tests = {"identical_bytes": "md5", "identical_notes": "content"}
    if settings.signature_duplicates:
        tests["same_signature"] = "signature"
    seen: dict[tuple[str, str], str] = {}
    duplicates = {}
    for i in order:
        keys = {reason: (column, songs[i][column]) for reason, column in tests.items()}
        hit = next(((reason, seen[key]) for reason, key in keys.items() if key in seen), None)
        if hit is not None:
            duplicates[i] = (hit[0], f"like {hit[1]}")
            continue
        for key in keys.values():
            seen[key] = songs[i]["file_name"]
    return duplicates


def reject(song: dict, stage: str, reason: str, detail: str = "") -> None:
    """Mark a song as rejected."""
    song |= {"stage": stage, "reason": reason, "detail": detail}


def merge_songs(songs: Sequence[dict], listed: dict[str, str], settings: CorpusSettings) -> dict:
    """Find duplicates, groups and splits; marks rejected songs and gives the others `group_id` and `split`.

    Args:
        songs: labels and shard record of each song in one dict.
        listed: MD5 -> split from imported lists.

    Returns:
        the report on groups.
    """
    alive = [s for s in songs if s["stage"] in ("", "length")]  # a song of the wrong length still counts as an original
    for i, (reason, detail) in find_duplicates(alive, listed, settings).items():
        reject(alive[i], "deduplicate", reason, detail)
    kept = [s for s in songs if not s["stage"]]
    groups = find_groups(kept, settings)
    strata = [s[settings.stratify] for s in kept] if settings.stratify else None
    weights = [s["num_notes"] for s in kept] if settings.stratify else None
    splits = assign_splits([s["md5"] for s in kept], groups.number, listed, settings, strata, weights)
    for song, group, split in zip(kept, splits["group_id"], splits["split"]):
        if split is None:
            unlisted = settings.unlisted == "drop"
            reject(song, "split", "unlisted" if unlisted else "split_conflict", f"group {group}")
        else:
            song |= {"group_id": group, "split": split}
    kept = [s for s in kept if not s["stage"]]
    across = Counter(group for group, _ in {(s["group_id"], s["split"]) for s in kept})
    sizes = Counter(s["group_id"] for s in kept)
    largest = max(sizes, key=sizes.__getitem__, default="")
    return groups.report | {
        "groups across splits by imported lists": sum(n > 1 for n in across.values()),
        "groups per split": {split: len({s["group_id"] for s in kept if s["split"] == split}) for split in SPLITS},
        "from the largest group": [s["file_name"] for s in kept if s["group_id"] == largest][:10],
    }


def count_stages(songs: Sequence[dict], collection: Collection) -> list[StageCount]:
    """In, out and rejected by reason, stage by stage."""
    reasons = Counter((s["stage"], s["reason"]) for s in songs if s["stage"])
    reasons.update(("collect", r["reason"]) for r in collection.rejected)
    present, counts = len(songs) + len(collection.rejected), []
    for stage in STAGES:
        rejected = {reason: n for (where, reason), n in sorted(reasons.items()) if where == stage}
        counts.append(StageCount(stage, present, present - sum(rejected.values()), rejected))
        present = counts[-1].left
    return counts


def label_tokens(songs: Sequence[dict], settings: CorpusSettings) -> dict[str, list[str]]:
    """Labels that occur often enough to become tokens, in alphabetical order."""
    columns = {
        "genres": ("genre", settings.min_genre_count, str),
        "artists": ("artist", settings.min_artist_count, artist_label),
        "moods": ("mood", settings.min_mood_count, str),
    }
    chosen = {}
    for name, (column, least, label) in columns.items():
        counts = Counter(label(s[column]) for s in songs if s[column])
        chosen[name] = sorted(value for value, n in counts.items() if value and n >= least)
    return chosen
