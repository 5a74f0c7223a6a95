"""The whole pipeline in order: collect, label, process in shards, merge, write."""

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from partimento.tokenization import MidiProcessor
from partimento.training.corpus_card import write_card
from partimento.training.corpus_merging import count_stages, label_tokens, merge_songs, song_labels
from partimento.training.corpus_settings import STAGES_VERSION, CorpusSettings, SongSettings
from partimento.training.corpus_shards import (
    RETRIED,
    process_shards,
    read_heavy,
    read_records,
    shard_folder,
    warn_of_failures,
)
from partimento.training.corpus_sources import WORK_FOLDER, Collection, collect
from partimento.training.corpus_stages import process_file, processors
from partimento.training.corpus_writing import (
    genre_table,
    publish,
    split_table,
    write_parquet,
    write_rejected,
)
from partimento.training.lakh_labels import LakhLabels

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Job:
    """Everything one run needs besides the settings.

    Attributes:
        inputs: folders, archives or MIDI files. out: folder of the corpus.
        lakh: label tables. listed: MD5 -> split from imported lists.
        processor: folder of an existing processor whose labels and bins are to be kept, or None.
        source, licence: for files without metadata.
        workers, time_limit, shard_size: how the work is done; results do not depend on the number of workers.
        overwrite: replace a corpus made with other settings. keep_work: keep shards and unpacked archives.
        retry_failures: process files again that ran out of time or crashed a worker in an earlier run.
    """

    inputs: Sequence[Path]
    out: Path
    lakh: LakhLabels = dataclasses.field(default_factory=LakhLabels)
    listed: dict[str, str] = dataclasses.field(default_factory=dict)
    processor: Path | None = None
    source: str = ""
    licence: str = ""
    workers: int = 2
    time_limit: float = 60.0
    shard_size: int = 256
    progress: bool = True
    overwrite: bool = False
    keep_work: bool = False
    retry_failures: bool = False


def config_hash(files: list, job: Job, settings: SongSettings, rules: CorpusSettings, vocab_hash: str) -> str:
    """Hash of all that determines the corpus: files, labels, lists, settings, vocabulary, code version."""
    parts = [
        STAGES_VERSION,
        files,
        sorted(job.listed.items()),
        dataclasses.asdict(settings),
        dataclasses.asdict(rules),
    ]
    return hashlib.sha256(json.dumps([*parts, vocab_hash], sort_keys=True).encode()).hexdigest()[:16]


def existing_report(out: Path, wanted: str, overwrite: bool) -> dict | None:
    """The report of a finished corpus with the same configuration, or None where there is work to do.

    Raises:
        FileExistsError: the folder holds a corpus of another configuration.
    """
    path = out / "report.json"
    if not path.exists() or overwrite:
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    if report["config_hash"] != wanted:
        raise FileExistsError(
            f"{out} holds a corpus of configuration {report['config_hash']}, not {wanted}; "
            "choose another folder or pass --overwrite"
        )
    return report


def count_failures(report: dict) -> int:
    """How many files of a finished corpus ran out of time or crashed a worker."""
    rejected = next(row["rejected"] for row in report["stages"] if row["stage"] == "parse")
    return sum(rejected.get(reason, 0) for reason in RETRIED)


def build_corpus(job: Job, settings: SongSettings, rules: CorpusSettings, function=process_file) -> dict:
    """Run all stages and return the report (also in `<out>/report.json`).

    Args:
        function: what a worker does with a `SongTask`; replaced in tests only.
    """
    work = job.out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    archives = hashlib.sha256("\n".join(_archive_mark(p) for p in job.inputs).encode()).hexdigest()[:16]
    collection = collect(job.inputs, work / f"unpacked-{archives}", job.source, job.licence)
    labels = [song_labels(file, job.lakh, rules) for file in collection.files]
    base = processors(settings.preset, settings.six_track)[1]
    given = MidiProcessor.from_pretrained(job.processor) if job.processor else None
    if given is not None and given.preset != settings.preset:
        raise ValueError(f"processor {job.processor} has the preset {given.preset}, the corpus {settings.preset}")

    keys = [file.metadata.get("key", "") for file in collection.files]
    wanted = config_hash([labels, keys, collection.rejected], job, settings, rules, (given or base).vocab_hash)
    done = existing_report(job.out, wanted, job.overwrite)
    given_up = count_failures(done) if done else 0
    if given_up and job.retry_failures:
        done = None
    elif given_up:
        warn_of_failures(given_up)
    if done is None:
        folder = shard_folder(work, collection.files, settings, job.shard_size, base.vocab_hash)
        shards = process_shards(
            collection.files,
            folder,
            settings,
            job.shard_size,
            job.workers,
            job.time_limit,
            job.progress,
            function,
            job.retry_failures,
        )
        songs = [label | record for label, record in zip(labels, read_records(shards))]
        groups = merge_songs(songs, job.listed, rules)
        done = _write(job, settings, rules, collection, songs, shards, groups, given, wanted)
    else:
        logger.info("%s is complete already", job.out)
    if not job.keep_work:
        shutil.rmtree(work)
    return done


def _write(job, settings, rules, collection, songs, shards, groups, given, wanted) -> dict:
    """Write everything into a temporary folder and move it into place."""
    kept = [s for s in songs if not s["stage"]]
    if given is None:
        tokens = label_tokens(kept, rules)
        processor = MidiProcessor.from_preset(settings.preset, **tokens)
    else:
        processor = given
        tokens = {name: given.labels(name.removesuffix("s")) for name in ("genres", "artists", "moods")}
    with tempfile.TemporaryDirectory(dir=job.out / WORK_FOLDER, prefix="writing-") as name:
        finished = Path(name)
        metadata = {"partimento.vocab_hash": processor.vocab_hash, "partimento.config_hash": wanted}
        heavy = read_heavy(shards, [not s["stage"] for s in songs])
        write_parquet(finished, songs, heavy, processor, tokens, metadata)
        report = _report(collection, songs, groups, tokens, settings, rules)
        report |= {"vocab_hash": processor.vocab_hash, "config_hash": wanted}
        processor.save_pretrained(finished / "processor")
        write_rejected(finished / "rejected.jsonl", _rejected(collection, songs))
        write_card(finished / "README.md", report, Counter((s["source"], s["licence"]) for s in kept))
        (finished / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        publish(finished, job.out)
    return report


def _archive_mark(path: Path) -> str:
    stat = Path(path).stat()
    return f"{Path(path).resolve()} {stat.st_size} {stat.st_mtime_ns}" if Path(path).is_file() else ""


def _rejected(collection: Collection, songs: Sequence[dict]) -> list[dict]:
    unread = [{"stage": "collect", **r} for r in collection.rejected]
    return sorted([*unread, *(s for s in songs if s["stage"])], key=lambda r: (r["md5"], r["file_name"]))


def _report(collection, songs, groups, tokens, settings, rules) -> dict:
    kept = [s for s in songs if not s["stage"]]
    dropped = Counter(program for s in kept for program in s["dropped_programs"])
    return {
        "stages": [count.as_dict() for count in count_stages(songs, collection)],
        "splits": split_table(kept),
        "genres": genre_table(kept),
        "labels": tokens,
        "groups": groups,
        "collected": {
            "files that are not MIDI": collection.other_files,
            "metadata rows without a file": collection.metadata_unmatched,
            "metadata rows with another MD5": collection.metadata_md5_mismatch,
        },
        "songs with dropped programs": dict(sorted(dropped.items())),
        "settings": dataclasses.asdict(settings) | dataclasses.asdict(rules),
    }
