"""Genre, artist and title labels for the Lakh MIDI Dataset, joined through Million Song Dataset (MSD) track ids.

Lakh's `match_scores.json` (Raffel, 2016) maps MSD track -> {MD5: score}; genre labels come from TopMAGD (Schindler et
al., 2012) and tagtraum (Schreiber, 2015), which label MSD tracks. All tables are supplied by the user.
"""

import csv
import dataclasses
import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

TRACK_ID = re.compile(r"TR[A-Z0-9]{16}")

# Spellings that mean the same label. Everything else keeps its words, joined by hyphens.
ALIASES = {
    "poprock": "Pop-Rock",
    "rnb": "RnB",
    "randb": "RnB",
    "rhythmandblues": "RnB",
    "hiphop": "Rap",  # TopMAGD's name for the genre
    "raphiphop": "Rap",
    "hiphoprap": "Rap",
    "newage": "New-Age",
    "neworleans": "New-Orleans",
    "afrocuban": "Afro-Cuban",
    "middleeastern": "Middle-Eastern",
}
PLACEHOLDER_ARTIST = re.compile(r"^(traditional|unknown|anonymous|anon|various|n/?a)\b|\bcontributors\b", re.IGNORECASE)


def to_label(text: str) -> str:
    """Text as the value of a condition token: letters and digits, words joined by hyphens, no underscore, no space."""
    return "-".join(re.findall(r"[^\W_]+", text.replace("&", " and ") if "&" in text else text))


def genre_label(text: str) -> str:
    """Canonical genre label: `pop_rock` -> `Pop-Rock`, `rnb` -> `RnB`, `folk` -> `Folk`; empty for empty text."""
    key = re.sub(r"[\W_]+", "", text.lower().replace("&", "and"))
    if key in ALIASES:
        return ALIASES[key]
    return "-".join(w if w[:1].isupper() else w.capitalize() for w in to_label(text).split("-") if w)


def artist_label(text: str) -> str:
    """Artist as a token value; empty for placeholders such as `traditional` or `Various Artists`."""
    return "" if PLACEHOLDER_ARTIST.search(text.strip()) else to_label(text)


def read_match_scores(path: Path) -> dict[str, list[tuple[float, str]]]:
    """Invert track -> {MD5: score} to MD5 -> [(score, track)], best first, ties by track id."""
    inverted: dict[str, list[tuple[float, str]]] = {}
    for track, scores in json.loads(Path(path).read_text(encoding="utf-8")).items():
        for md5, score in scores.items():
            inverted.setdefault(md5.lower(), []).append((float(score), track))
    for candidates in inverted.values():
        candidates.sort(key=lambda c: (-c[0], c[1]))
    return inverted


def read_labels(path: Path) -> dict[str, list[str]]:
    """Labels by track id, from a `.cls` file or a folder of `id_list_<label>.txt`.

    A line of a `.cls` file reads track, tab, label and, in tagtraum, possibly tab, minority label.

    Raises:
        ValueError: a line has no label, or the folder holds no list.
    """
    path = Path(path)
    if path.is_dir():
        lists = sorted(path.glob("id_list_*.txt"))
        if not lists:
            raise ValueError(f"{path}: no id_list_<label>.txt in this folder; give LPD's list folder or a .cls file")
        labels: dict[str, list[str]] = {}
        for file in lists:
            for track in file.read_text(encoding="utf-8").split():
                labels.setdefault(track, []).append(genre_label(file.stem.removeprefix("id_list_")))
        return labels
    labels = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        track, *values = (cell.strip() for cell in line.split("\t"))
        values = [genre_label(v) for v in values if v]
        if not values:
            raise ValueError(f"{path}:{number}: expected 'track<TAB>label', found {line!r}")
        labels[track] = list(dict.fromkeys(values))
    return labels


def read_md5_labels(path: Path) -> dict[str, dict[str, str]]:
    """Rows by MD5 of a table with columns md5, topmagd (labels joined by ';') and, optionally, artist and title."""
    with Path(path).open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        if not {"md5", "topmagd"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: columns 'md5' and 'topmagd' are needed, found {reader.fieldnames}")
        return {row["md5"].lower(): row for row in reader}


def read_track_names(path: Path) -> dict[str, tuple[str, str]]:
    """(artist, title) by track id from MSD's `unique_tracks.txt`, `track_metadata.db`, or a CSV with those columns."""
    path = Path(path)
    if path.suffix in (".db", ".sqlite"):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as base:
            return {t: (a, n) for t, a, n in base.execute("SELECT track_id, artist_name, title FROM songs")}
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return {
                row["track_id"]: (row.get("artist_name") or row.get("artist") or "", row.get("title") or "")
                for row in csv.DictReader(handle)
            }
    names = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        cells = line.split("<SEP>")
        if len(cells) == 4:
            names[cells[0]] = (cells[2].strip(), cells[3].strip())
    return names


def names_from_folders(files: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """(artist, title) by MD5 from paths `.../Artist/Title[.number].mid` of the Clean MIDI subset.

    Args:
        files: (path, MD5) pairs; the first path in sorted order names a file that occurs twice.
    """
    names: dict[str, tuple[str, str]] = {}
    for path, md5 in sorted(files):
        parts = PurePosixPath(path)
        if parts.parent.name:
            names.setdefault(md5, (parts.parent.name, re.sub(r"\.\d+$", "", parts.stem)))
    return names


@dataclasses.dataclass(frozen=True)
class Match:
    """The joined labels of one file; empty strings and None where nothing is known."""

    msd_id: str = ""
    match_score: float | None = None
    genre: str = ""
    genre_secondary: str = ""
    genre_source: str = ""
    mood: str = ""
    artist: str = ""
    title: str = ""


@dataclasses.dataclass
class LakhLabels:
    """All tables of the join.

    Attributes:
        scores: MD5 -> [(score, track)], see `read_match_scores`.
        genres: (source name, labels by track) in order of preference; a later source only fills gaps of an earlier one.
        moods: mood labels by track.
        names: (artist, title) by track; `md5_names` the same by MD5, used where the track has none.
        md5_labels: ready-made labels by MD5, see `read_md5_labels`.
        minimum: candidates with a lower match score are dropped.
        ambiguous: what to do with several labels for one MD5 and no scores to choose by: "drop" or "first".
    """

    scores: dict[str, list[tuple[float, str]]] = dataclasses.field(default_factory=dict)
    genres: Sequence[tuple[str, dict[str, list[str]]]] = ()
    moods: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    names: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    md5_names: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    md5_labels: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    minimum: float = 0.0
    ambiguous: str = "drop"

    def candidates(self, md5: str, path: str = "") -> list[tuple[float | None, str]]:
        """Matched tracks of a file, best first; a track id in the path (`lmd_matched` tree) stands in for scores."""
        if md5 in self.scores:
            return [c for c in self.scores[md5] if c[0] >= self.minimum]
        found = TRACK_ID.search(path)
        return [(None, found.group())] if found else []

    def match(self, md5: str, path: str = "") -> Match:
        """Join one file: the best candidate that has a genre label, else the best candidate without one."""
        candidates = self.candidates(md5, path)
        labelled = (c for c in candidates if self._genre(c[1]))
        score, track = next(labelled, candidates[0] if candidates else (None, ""))
        genre, secondary, source = self._genre(track) or self._md5_genre(md5)
        artist, title = self.names.get(track) or self.md5_names.get(md5) or self._md5_name(md5)
        mood = self.moods.get(track, [""])[0]
        return Match(track, score, genre, secondary, source, mood, artist, title)

    def _genre(self, track: str) -> tuple[str, str, str] | None:
        for source, labels in self.genres:
            if track in labels:
                first, *rest = labels[track]
                return first, ";".join(rest), source
        return None

    def _md5_genre(self, md5: str) -> tuple[str, str, str]:
        labels = [genre_label(x) for x in self.md5_labels.get(md5, {}).get("topmagd", "").split(";") if x]
        if not labels:
            return "", "", ""
        if len(labels) > 1 and self.ambiguous == "drop":
            return "", ";".join(labels), "topmagd by md5"
        return labels[0], ";".join(labels[1:]), "topmagd by md5"

    def _md5_name(self, md5: str) -> tuple[str, str]:
        row = self.md5_labels.get(md5, {})
        return row.get("clean_artist") or "", row.get("clean_title") or ""
