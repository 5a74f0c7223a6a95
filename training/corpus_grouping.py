"""Which songs are the same music: fingerprints, near-duplicate search, groups and splits.

Three fingerprints are transposition-invariant: a hash of all notes, hashes of bars, and hashes of 12 successive
melodic steps (interval and time to the next onset) of every pitched line. Bars and steps are compared through an
inverted index; hashes that occur in more than `max_shingle_songs` songs are generic (a scale, a groove) and count for
nothing.
"""

import dataclasses
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
from symusic.core import ScoreTick

from partimento.training.corpus_arranging import DRUMS, TICKS, bar_starts, note_arrays
from partimento.training.corpus_settings import CorpusSettings

STEPS = 12  # melodic steps in one fingerprint hash: one and a half bars of eighth notes
LONGEST_STEP = 8 * TICKS
SPLITS = ("train", "validation", "test")
PAIRS_AT_ONCE = 20_000_000


def _mix(columns: np.ndarray) -> np.ndarray:
    """64-bit hash of each row. columns: [rows, n] integers -> [rows] uint64 (FNV-1a with extra mixing)."""
    state = np.full(len(columns), 14695981039346656037, dtype=np.uint64)
    for column in columns.T:
        state = (state ^ column.astype(np.uint64)) * np.uint64(1099511628211)
        state ^= state >> np.uint64(29)
    return state


def _digest(array: np.ndarray) -> int:
    data = np.ascontiguousarray(array, dtype="<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def melody_shingles(score: ScoreTick) -> np.ndarray:
    """Hashes [n] of melodic steps of each pitched line's top notes, from the tracks as the file has them.

    Basses (programs 32-39 or a mean pitch below C3) are left out, as are passages with fewer than three different
    intervals: accompaniments share both.
    """
    found = [np.empty(0, np.uint64)]
    for track in score.tracks:
        if track.is_drum or len(track.notes) <= STEPS or 32 <= track.program <= 39:
            continue
        notes = track.notes.numpy()
        if notes["pitch"].mean() < 48:
            continue
        onsets = np.rint(notes["time"] * (TICKS / score.tpq)).astype(np.int64)
        pitches = notes["pitch"].astype(np.int64)
        order = np.lexsort((-pitches, onsets))
        onsets, pitches = onsets[order], pitches[order]
        top = np.r_[True, onsets[1:] != onsets[:-1]]
        intervals, gaps = np.diff(pitches[top]), np.minimum(np.diff(onsets[top]), LONGEST_STEP)
        if len(intervals) < STEPS:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(intervals, STEPS)
        steps = np.lib.stride_tricks.sliding_window_view((intervals + 128) * 128 + gaps, STEPS)
        different = (np.diff(np.sort(windows, axis=1), axis=1) != 0).sum(axis=1) + 1
        found.append(_mix(steps[different >= 3]))
    return np.unique(np.concatenate(found))


def bar_shingles(score: ScoreTick) -> np.ndarray:
    """Hashes [n] of the bars of a canonical score that hold at least four notes.

    A bar is its pitched notes (onset, pitch above the bar's lowest, duration) without programs; the drums count only in
    songs that have nothing else.
    """
    notes = note_arrays(score)
    pitched = notes["program"] != DRUMS
    keep = pitched if pitched.any() else ~pitched
    time, pitch, duration = (notes[name][keep] for name in ("time", "pitch", "duration"))
    starts = bar_starts(score, int(time.max()) + 1)
    bars = np.searchsorted(starts, time, side="right") - 1
    order = np.lexsort((duration, pitch, time))
    time, pitch, duration, bars = time[order], pitch[order], duration[order], bars[order]
    edges = np.flatnonzero(np.r_[True, bars[1:] != bars[:-1], True])
    hashes = set()
    for low, high in itertools.pairwise(edges.tolist()):
        if high - low >= 4:
            lowest = pitch[low:high].min() if pitched.any() else 0
            content = (time[low:high] - starts[bars[low]], pitch[low:high] - lowest, duration[low:high])
            hashes.add(_digest(np.unique(np.stack(content, axis=1), axis=0)))
    return np.array(sorted(hashes), dtype=np.uint64)


def invariant_hash(score: ScoreTick) -> int:
    """Hash of all notes up to transposition, tempo, velocity and instrumentation; drums keep their pitch."""
    notes = note_arrays(score)
    drums = notes["program"] == DRUMS
    lowest = notes["pitch"][~drums].min() if (~drums).any() else 0
    pitch = np.where(drums, notes["pitch"], notes["pitch"] - lowest)
    rows = np.stack([drums, notes["time"] - notes["time"].min(), pitch, notes["duration"]], axis=1)
    return _digest(np.unique(rows, axis=0))


@dataclasses.dataclass
class Groups:
    """Group number per song [songs], and what the search found."""

    number: np.ndarray
    report: dict


class _Forest:
    """Union-find whose trees remember their size."""

    def __init__(self, size: int):
        self.parent, self.size = list(range(size)), [1] * size

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, a: int, b: int, limit: int | None = None) -> bool:
        """Join two trees unless the result would exceed `limit`; True unless it was refused."""
        a, b = sorted((self.find(a), self.find(b)))
        if a == b:
            return True
        if limit is not None and self.size[a] + self.size[b] > limit:
            return False
        self.parent[b] = a
        self.size[a] += self.size[b]
        return True


def _shared_counts(shingles: list[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count shared rare hashes of all pairs of songs.

    Returns:
        pairs [pairs, 2] and counts [pairs], ordered by pair; rare hashes per song [songs].
    """
    songs = len(shingles)
    owner = np.repeat(np.arange(songs), [len(s) for s in shingles])
    values = np.concatenate([np.empty(0, np.uint64), *shingles])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    edges = np.flatnonzero(np.r_[True, values[1:] != values[:-1], True]) if len(values) else np.array([0])
    frequency = np.diff(edges)
    rare = np.bincount(owner[np.repeat(frequency <= most, frequency)], minlength=songs)
    pending: list[np.ndarray] = []
    codes, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for size in range(2, most + 1):
        starts = edges[:-1][frequency == size]
        first, second = np.triu_indices(size, 1)
        step = max(1, PAIRS_AT_ONCE // len(first))
        for low in range(0, len(starts), step):
            members = owner[starts[low : low + step, None] + np.arange(size)]  # [hashes, size], ascending in each row
            pending.append((members[:, first] * songs + members[:, second]).ravel())
            if sum(len(p) for p in pending) > PAIRS_AT_ONCE:
                codes, counts = _add_counts(codes, counts, pending)
    codes, counts = _add_counts(codes, counts, pending)
    return np.stack([codes // max(songs, 1), codes % max(songs, 1)], axis=1), counts, rare


def _add_counts(codes: np.ndarray, counts: np.ndarray, pending: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Counts per code after `pending` was added to them (and emptied)."""
    new, number = np.unique(np.concatenate([np.empty(0, np.int64), *pending]), return_counts=True)
    pending.clear()
    merged, index = np.unique(np.concatenate([codes, new]), return_inverse=True)
    return merged, np.bincount(index, weights=np.concatenate([counts, number])).astype(np.int64)


def similar_pairs(
    shingles: list[np.ndarray], most: int, shared: int, containment: float
) -> list[tuple[float, int, int]]:
    """Pairs (containment, song, song) that share at least `shared` rare hashes and `containment` of the smaller set."""
    pairs, counts, rare = _shared_counts(shingles, most)
    ratio = counts / np.maximum(rare[pairs].min(axis=1), 1)
    good = (counts >= shared) & (ratio >= containment)
    return [(float(r), int(a), int(b)) for r, (a, b) in zip(ratio[good], pairs[good])]


def _chain(keys: Iterable) -> list[tuple[int, int]]:
    """Link each song to the first one with the same non-empty key."""
    first: dict = {}
    return [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key]


def find_groups(songs: list[dict], settings: CorpusSettings) -> Groups:
    """Connected components over equal content, near-identical bars, shared melody, MSD track and chosen columns.

    Args:
        songs: dicts with `invariant`, `bar_shingles`, `melody_shingles`, `msd_id` and the columns of
            `settings.group_columns`.

    Edges from columns come first, those from similarity follow from the strongest to the weakest, and one that would
    make a group larger than `max_group_fraction` of the corpus is refused: a chain of weak resemblances must not
    swallow the corpus. Refused edges are counted in the report.
    """
    forest, report = _Forest(len(songs)), {}
    limit = max(2, int(settings.max_group_fraction * len(songs)))
    columns = {c: ((s[c].lower() if s[c] else "") for s in songs) for c in settings.group_columns}
    exact = {"content": (s["invariant"] for s in songs), "msd_id": (s["msd_id"] for s in songs)}
    refused = 0
    for name, keys in (exact | columns).items():
        links = [(a, b) for a, b in _chain(keys) if a != b]
        report[f"edges by {name}"] = len(links)
        refused += sum(not forest.join(a, b, limit if name in columns else None) for a, b in links)
    melody = (settings.min_shared_melody, settings.melody_containment)
    bars = (settings.min_shared_bars, settings.bar_containment)
    edges = []
    for name, (shared, containment) in {"bar_shingles": bars, "melody_shingles": melody}.items():
        found = similar_pairs([s[name] for s in songs], settings.max_shingle_songs, shared, containment)
        report[f"edges by {name.removesuffix('_shingles')}"] = len(found)
        edges += found
    edges.sort(key=lambda e: (-e[0], e[1], e[2]))
    report["edges refused"] = refused + sum(not forest.join(a, b, limit) for _, a, b in edges)
    number = np.array([forest.find(i) for i in range(len(songs))], dtype=np.int64)
    sizes = Counter(number.tolist())
    report |= {
        "groups": len(sizes),
        "groups of several songs": sum(n > 1 for n in sizes.values()),
        "largest groups": sorted(sizes.values(), reverse=True)[:5],
    }
    return Groups(number, report)


def hashed_split(md5: str, ratio: tuple[float, ...]) -> str:
    """Split of a group by a hash of its smallest MD5."""
    point = int.from_bytes(hashlib.sha256(md5.encode()).digest()[:8], "big") / 2**64 * sum(ratio)
    edges = np.cumsum(ratio)
    return SPLITS[int(np.searchsorted(edges, point, side="right").clip(max=len(SPLITS) - 1))]


def dealt_splits(groups: list[tuple[str, str, int]], ratio: tuple[float, ...]) -> dict[str, str]:
    """Split by smallest MD5 of each group, so that every stratum is shared out in `ratio` by weight.

    Args:
        groups: (smallest MD5, stratum, weight) of each group.

    Inside a stratum the groups come in the order of their hashes and each goes to the split that so far lags most
    behind its share. Its own weight has no say, so that no split prefers light groups. Songs added later can move
    groups; an imported list fixes them.
    """
    goal = np.array(ratio) / sum(ratio)
    split, filled = {}, defaultdict(lambda: np.zeros(len(SPLITS)))
    for md5, stratum, weight in sorted(groups, key=lambda g: hashlib.sha256(g[0].encode()).digest()):
        have = filled[stratum]
        lag = np.where(goal > 0, goal * have.sum() - have, -np.inf)
        chosen = int(np.argmax(lag))
        have[chosen] += weight
        split[md5] = SPLITS[chosen]
    return split


def assign_splits(
    md5s: list[str],
    groups: np.ndarray,
    listed: dict[str, str],
    settings: CorpusSettings,
    strata: list[str] | None = None,
    weights: list[int] | None = None,
) -> dict:
    """Group id and split per song.

    Args:
        strata, weights: per song; with them the splits are dealt (see `dealt_splits`), otherwise hashed. A group
            belongs to the stratum of most of its weight.

    A song on an imported list keeps its place and takes the rest of its group along. Where a list itself tears a group
    apart, the unlisted songs of that group get no split (None): wherever they went, they would leak.

    Returns:
        dict with `group_id` (the smallest MD5) and `split` per song, and `crossing`: groups torn apart by the lists.
    """
    members = defaultdict(list)
    for i, group in enumerate(groups.tolist()):
        members[group].append(i)
    dealt = None
    if strata is not None and weights is not None:
        about = []
        for songs in members.values():
            share = Counter()
            for i in songs:
                share[strata[i]] += weights[i]
            stratum = min(share, key=lambda name: (-share[name], name))
            about.append((min(md5s[i] for i in songs), stratum, sum(share.values())))
        dealt = dealt_splits(about, settings.split_ratio)
    group_id, crossing = [""] * len(md5s), 0
    split: list[str | None] = [None] * len(md5s)
    for songs in members.values():
        smallest = min(md5s[i] for i in songs)
        fixed = {listed[md5s[i]] for i in songs if md5s[i] in listed}
        crossing += len(fixed) > 1
        if len(fixed) == 1:
            common = fixed.pop()
        elif fixed or settings.unlisted == "drop":
            common = None
        else:
            common = dealt[smallest] if dealt else hashed_split(smallest, settings.split_ratio)
        for i in songs:
            group_id[i] = smallest
            split[i] = listed.get(md5s[i], None if settings.unlisted == "drop" else common)
    return {"group_id": group_id, "split": split, "crossing": crossing}
