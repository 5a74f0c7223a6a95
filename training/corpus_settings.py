"""Settings of the corpus pipeline: thresholds per song, rules for the whole corpus, and the two profiles.

The profile `paper` holds the filters of Yu et al., "Museformer: Transformer with Fine- and Coarse-Grained Attention for
Music Generation" (NeurIPS 2022, appendix on data processing). The profile `open` is for small collections of mixed
material, where drum takes, two-track folk tunes and piano arrangements have to survive.
"""

import dataclasses
import hashlib
import json
from typing import Any

# Changing what a stage does to a song changes this number, so that shards of an older run are not reused.
STAGES_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SongSettings:
    """What one song must satisfy and how it is changed; everything a shard of processed songs depends on."""

    preset: str = "multitrack"
    six_track: bool = False
    trim: bool = True
    time_signatures: tuple[str, ...] = ("4/4",)
    min_instruments: int = 2
    require_melody: bool = True
    min_tempo: float = 24.0
    max_tempo: float = 200.0
    min_pitch: int = 21
    max_pitch: int = 108
    max_note_beats: float = 16.0
    max_empty_bars: int = 3
    reject_single_pitch: bool = True
    reject_single_duration: bool = True
    min_bars: int = 25
    max_bars: int = 256
    max_tokens: int = 47_000
    normalise_key: bool = False
    midi: str = "processed"

    def hash(self, *more: str) -> str:
        """Short hash of the settings, the code version and any further text."""
        text = json.dumps([STAGES_VERSION, dataclasses.asdict(self), *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Rules that look at all songs together: duplicates, groups, splits and which labels become tokens."""

    signature_duplicates: bool = True
    melody_containment: float = 0.4
    min_shared_melody: int = 6
    bar_containment: float = 0.5
    min_shared_bars: int = 4
    max_shingle_songs: int = 100
    max_group_fraction: float = 0.05
    group_columns: tuple[str, ...] = ()
    split_ratio: tuple[float, ...] = (8.0, 1.0, 1.0)
    stratify: str = ""
    unlisted: str = "hash"
    heuristic_genres: str = "keep"
    min_genre_count: int = 20
    min_artist_count: int = 20
    min_mood_count: int = 20

    def __post_init__(self):
        if len(self.split_ratio) != 3 or min(self.split_ratio) < 0 or sum(self.split_ratio) <= 0:
            raise ValueError(f"split_ratio {self.split_ratio} must be three numbers >= 0, e.g. 8/1/1")


PROFILES: dict[str, dict] = {
    "paper": {},  # the defaults above
    "open": {
        "min_instruments": 1,
        "require_melody": False,
        "min_tempo": 10.0,
        "max_tempo": 400.0,  # tempi outside 24-200 bpm are stored as the nearest tempo token
        "min_pitch": 0,
        "max_pitch": 127,
        "max_note_beats": 1024.0,  # stored as 16 beats
        "max_empty_bars": 256,
        "reject_single_duration": False,
        "min_bars": 4,
        "signature_duplicates": False,
        "stratify": "source",  # few songs of many kinds: held-out splits of another mixture would mislead
    },
}


def profile_defaults(name: str) -> dict:
    """All settings of both kinds, as a flat dict, for the profile `name`."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r} is unknown; choose one of {', '.join(PROFILES)}")
    fields = {f.name: f.default for cls in (SongSettings, CorpusSettings) for f in dataclasses.fields(cls)}
    return {**fields, **PROFILES[name]}


def settings_from(values: dict[str, Any]) -> tuple[SongSettings, CorpusSettings]:
    """Distribute a flat dict over the two settings classes."""
    picked: list[Any] = []
    for cls in (SongSettings, CorpusSettings):
        names = {f.name for f in dataclasses.fields(cls)}
        chosen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}
        picked.append(cls(**chosen))
    return picked[0], picked[1]
