"""Turn MIDI files into a training corpus: a Parquet dataset with a raw and a tokenised configuration.

The open corpus (two folders with metadata.csv beside the files):

    python training/prepare_data.py data/sample data/train_open -o corpus --profile open --workers 2

The Lakh MIDI Dataset as in the Museformer paper (folder or lmd_full.tar.gz; label files are yours):

    python training/prepare_data.py lmd_full.tar.gz -o lakh --profile paper --six-track --normalise-key --workers 16 \\
        --match-scores match_scores.json --topmagd msd-topMAGD-genreAssignment.cls \\
        --tagtraum-cd1 msd_tagtraum_cd1.cls \\
        --split-list train=train.txt --split-list valid=valid.txt --split-list test=test.txt

Reading it:

    datasets.load_dataset("corpus", "tokenized", split="train")

A run that was killed goes on where it stopped when the same command is given again. Exit status: 0; 1 if no song came
through, or with --strict if a file could not be read or parsed; 2 for wrong arguments.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partimento.training.corpus_building import Job, build_corpus
from partimento.training.corpus_merging import SPLIT_NAMES, join_lists, read_split_list, read_split_table
from partimento.training.corpus_settings import PROFILES, profile_defaults, settings_from
from partimento.training.corpus_sources import collect_md5s
from partimento.training.corpus_writing import report_lines
from partimento.training.lakh_labels import (
    LakhLabels,
    names_from_folders,
    read_labels,
    read_match_scores,
    read_md5_labels,
    read_track_names,
)

SWITCH = argparse.BooleanOptionalAction
GENRE_SOURCES = ("topmagd", "tagtraum-cd1", "tagtraum-cd2", "tagtraum-cd2c")  # in order of preference


def with_defaults(group: argparse._ArgumentGroup) -> Callable[..., None]:
    """`add_argument` of the group, with what the profiles set at the end of the help texts."""
    profiles = {name: profile_defaults(name) for name in PROFILES}

    def shown(value: Any) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            value = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
        return f"{value:g}" if isinstance(value, float) else str(value) or "none"

    def add(option: str, *, help: str, **settings: Any) -> None:
        name = option.removeprefix("--").replace("-", "_")
        if name in profiles["paper"]:
            texts = {profile: shown(values[name]) for profile, values in profiles.items()}
            different = len(set(texts.values())) > 1
            help += f" [{', '.join(f'{p}: {text}' for p, text in texts.items()) if different else texts['paper']}]"
        group.add_argument(option, help=help, **settings)

    return add


def make_parser() -> argparse.ArgumentParser:
    """All options; thresholds without a value take it from the profile."""
    parser = argparse.ArgumentParser(
        prog="prepare_data.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, help="folders, .zip or .tar.gz archives, or MIDI files")
    add("-o", "--out", required=True, type=Path, help="folder of the corpus")
    add("--profile", choices=PROFILES, default="paper", help="set of defaults, shown in [brackets] below [paper]")
    add("--workers", type=int, default=2, help="processes; 0 works in this one, unprotected")
    add("--time-limit", type=float, default=60.0, help="seconds per file")
    add("--shard-size", type=int, default=256, help="files per shard, the unit of resuming")
    add("--overwrite", action="store_true", default=False, help="replace a corpus made with other settings")
    add(
        "--retry-failures", action="store_true", default=False,
        help="try files again that crashed a worker or took too long (a finished corpus without OUT/.work: all files)",
    )  # fmt: skip
    add("--keep-work", action="store_true", default=False, help="keep shards and unpacked archives in OUT/.work")
    add("--strict", action="store_true", default=False, help="exit status 1 if any file cannot be read or parsed")
    add("--quiet", action="store_true", default=False, help="no progress bar")
    add("--source", default="", help="source of files whose metadata names none")
    add("--licence", default="", help="licence of files whose metadata names none")

    song = with_defaults(parser.add_argument_group("songs"))
    song("--preset", choices=("multitrack", "six_track", "metres"), help="vocabulary (--six-track implies six_track)")
    song("--six-track", action=SWITCH, help="compress to melody, piano, guitar, strings, bass, drums")
    song("--trim", action=SWITCH, help="remove empty bars at both ends")
    song("--time-signatures", nargs="+", metavar="N/D", help="allowed time signatures")
    song("--min-instruments", type=int, help="programs, drums included")
    song("--require-melody", action=SWITCH, help="a melody program (73-88) or a predicted melody track")
    song("--min-tempo", type=float, help="bpm, every tempo event")
    song("--max-tempo", type=float, help="bpm, every tempo event")
    song("--min-pitch", type=int, help="without drums")
    song("--max-pitch", type=int, help="without drums")
    song("--max-note-beats", type=float, help="longest note")
    song("--max-empty-bars", type=int, help="bars without sound between first and last onset")
    song("--reject-single-pitch", action=SWITCH, help="songs whose pitches are all equal")
    song("--reject-single-duration", action=SWITCH, help="songs whose durations are all equal")
    song("--min-bars", type=int, help="shortest song")
    song("--max-bars", type=int, help="longest song")
    song("--max-tokens", type=int, help="without BOS, EOS and conditions")
    song("--normalise-key", action=SWITCH, help="shift to C major or A minor")
    song("--midi", choices=("processed", "original"), help="which bytes the column `midi` holds")

    corpus = with_defaults(parser.add_argument_group("duplicates, groups, splits"))
    corpus("--signature-duplicates", action=SWITCH, help="equal duration, bars, notes, onsets, instruments")
    corpus("--melody-containment", type=float, help="share of the smaller song's melodic steps that makes a group")
    corpus("--min-shared-melody", type=int, help="and how many they share at least")
    corpus("--bar-containment", type=float, help="share of the smaller song's bars that makes a group")
    corpus("--min-shared-bars", type=int, help="and how many they share at least")
    corpus("--max-shingle-songs", type=int, help="steps or bars in more songs than this are generic")
    corpus("--max-group-fraction", type=float, help="largest group that resemblance may form")
    corpus("--group-columns", nargs="*", choices=("title", "artist"), help="equal values also make a group")
    corpus("--split-ratio", nargs=3, type=float, metavar=("TRAIN", "VALID", "TEST"), help="sizes of the splits")
    corpus("--stratify", choices=("", "source", "genre"), help="share out the splits inside each source or genre")
    corpus("--split-list", action="append", default=[], metavar="SPLIT=FILE", help="imported MD5 list, repeatable")
    corpus("--split-table", default="", metavar="FILE:COLUMN", help="CSV with `md5` and a column of splits")
    corpus("--unlisted", choices=("hash", "drop"), help="songs on no imported list")

    label = with_defaults(parser.add_argument_group("labels"))
    label("--heuristic-genres", choices=("keep", "drop"), help="genres whose genre_basis says `heuristic`")
    label("--min-genre-count", type=int, help="songs that make a genre a token")
    label("--min-artist-count", type=int, help="songs that make an artist a token")
    label("--min-mood-count", type=int, help="songs that make a mood a token")
    label("--processor", type=Path, default=None, help=(
        "folder of a model or processor whose vocabulary is kept, to evaluate or train on that model"))  # fmt: skip
    label("--match-scores", type=Path, default=None, help="Lakh's match_scores.json")
    label("--min-match-score", type=float, default=0.0, help="candidates below are dropped")
    for source in GENRE_SOURCES:
        label(f"--{source}", type=Path, default=None, help=".cls file, or folder of id_list_<label>.txt")
    label("--moods", type=Path, default=None, help=".cls file of moods by MSD track")
    label("--msd-tracks", type=Path, default=None, help="unique_tracks.txt, track_metadata.db or CSV with names")
    label("--clean-midi", type=Path, default=None, help="folder Artist/Title.mid: artists and titles by MD5")
    label("--md5-labels", type=Path, default=None, help="CSV with md5, topmagd[, clean_artist, clean_title]")
    label("--ambiguous-labels", choices=("drop", "first"), default="drop", help="several labels in --md5-labels")
    return parser


def read_lakh(args: argparse.Namespace) -> LakhLabels:
    """Read the label tables that were given."""
    tables = ((name, getattr(args, name.replace("-", "_"))) for name in GENRE_SOURCES)
    return LakhLabels(
        scores=read_match_scores(args.match_scores) if args.match_scores else {},
        genres=[(name, read_labels(path)) for name, path in tables if path],
        moods=read_labels(args.moods) if args.moods else {},
        names=read_track_names(args.msd_tracks) if args.msd_tracks else {},
        md5_names=names_from_folders(collect_md5s(args.clean_midi)) if args.clean_midi else {},
        md5_labels=read_md5_labels(args.md5_labels) if args.md5_labels else {},
        minimum=args.min_match_score,
        ambiguous=args.ambiguous_labels,
    )


def read_splits(args: argparse.Namespace) -> dict[str, str]:
    """MD5 -> split from the imported lists."""
    listed: dict[str, str] = {}
    if args.split_table:
        path, _, column = args.split_table.rpartition(":")
        if not path or not column:
            raise ValueError(f"--split-table {args.split_table!r} must read FILE:COLUMN")
        listed = read_split_table(Path(path), column)
    for entry in args.split_list:
        split, _, path = entry.partition("=")
        if split not in SPLIT_NAMES or not path:
            raise ValueError(f"--split-list {entry!r} must read SPLIT=FILE with SPLIT one of {', '.join(SPLIT_NAMES)}")
        join_lists(listed, read_split_list(Path(path), split), path)
    return listed


def check_options(given: dict[str, Any]) -> None:
    """Refuse options that contradict each other.

    Args:
        given: the options of the command line, without what the profile adds.

    Raises:
        ValueError: naming both options and the remedy.
    """
    preset = given.get("preset")
    if given.get("six_track") and preset not in (None, "six_track"):
        raise ValueError(f"--six-track cannot be joined with --preset {preset}: leave one of them out")
    other = [signature for signature in given.get("time_signatures", ()) if signature != "4/4"]
    if other and preset != "metres":
        raise ValueError(f"--time-signatures {' '.join(other)} needs --preset metres: other vocabularies hold 4/4 only")
    counts = [f"--min-{label}-count" for label in ("genre", "artist", "mood") if f"min_{label}_count" in given]
    if counts and given["processor"] is not None:
        raise ValueError(f"{', '.join(counts)} cannot be joined with --processor, whose labels are kept as they are")


def main(argv: list[str] | None = None) -> int:
    """Run the pipeline; returns the exit status."""
    args = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    values = profile_defaults(args.profile) | vars(args)
    if values["six_track"]:
        values["preset"] = "six_track"
    started = time.monotonic()
    try:
        check_options(vars(args))
        settings, rules = settings_from(values)
        names = ("inputs", "out", "processor", "source", "licence", "workers", "time_limit", "shard_size", "overwrite")
        job = Job(
            **{name: values[name] for name in names},
            lakh=read_lakh(args),
            listed=read_splits(args),
            progress=not args.quiet,
            keep_work=args.keep_work,
            retry_failures=args.retry_failures,
        )
        report = build_corpus(job, settings, rules)
    except (OSError, ValueError) as exc:
        print(f"prepare_data.py: {exc}", file=sys.stderr)
        return 2
    print("\n".join(report_lines(report)))
    print(f"{args.out}: {report['stages'][-1]['out']} songs in {time.monotonic() - started:.0f} s")
    unread = sum(sum(row["rejected"].values()) for row in report["stages"] if row["stage"] in ("collect", "parse"))
    return int(report["stages"][-1]["out"] == 0 or (args.strict and unread > 0))


if __name__ == "__main__":
    sys.exit(main())
