"""Collecting MIDI files: folders, zip and tar archives, and the metadata tables that lie beside the files."""

import csv
import dataclasses
import functools
import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
METADATA_NAME = "metadata.csv"
WORK_FOLDER = ".work"  # in the output folder: shards and unpacked archives
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LAKH_SOURCE, LAKH_LICENCE = "Lakh MIDI Dataset", "CC-BY-4.0"
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, RuntimeError)
MD5_NAME = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass
class SongFile:
    """One collected file: `name` is stable across machines, `path` is where its bytes lie now."""

    name: str
    path: Path
    md5: str
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Collection:
    """The files sorted by (MD5, name), the files that could not be read, and what was passed over."""

    files: list[SongFile]
    rejected: list[dict]
    other_files: int = 0
    metadata_unmatched: int = 0
    metadata_md5_mismatch: int = 0


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes as 32 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()


def _archive_suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((s for s in (".zip", *sorted(TAR_SUFFIXES, key=len, reverse=True)) if name.endswith(s)), None)


def _wanted(name: str) -> bool:
    return name.lower().endswith(MIDI_SUFFIXES) or PurePosixPath(name).name == METADATA_NAME


def _stream(bundle: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = bundle.extractfile(member)
    assert stream is not None, "asked for a regular member only"
    return stream


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Name and opener of each regular member."""
    if _archive_suffix(archive) == ".zip":
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir():
                    yield info.filename, functools.partial(bundle.open, info)
    else:
        with tarfile.open(archive, "r|*") as bundle:  # one pass: Lakh's tar.gz has 176,581 members
            for member in bundle:
                if member.isfile():
                    yield member.name, functools.partial(_stream, bundle, member)


def extract(archive: Path, folder: Path) -> tuple[list[tuple[str, Path]], int, str | None]:
    """Unpack MIDI files and metadata tables under running numbers, never under names taken from the archive.

    Returns:
        (member name, file) pairs, the number of other members, and an error text if the archive is damaged: what came
        before the damage is kept; of a zip archive, whose members are independent, all that is sound.
    """
    index = folder / "index.json"
    if index.exists():
        stored = json.loads(index.read_text(encoding="utf-8"))
        return [(name, folder / file) for name, file in stored["files"]], stored["other"], stored["error"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files, other, errors = [], 0, []
    try:
        for name, opener in _members(archive):
            if not _wanted(name):
                other += 1
                continue
            target = folder / f"{len(files) // 1000:04d}" / f"{len(files):07d}.mid"
            target.parent.mkdir(exist_ok=True)
            try:
                with opener() as stream, target.open("wb") as out:
                    shutil.copyfileobj(stream, out)
            except DAMAGE as exc:
                if _archive_suffix(archive) != ".zip":
                    raise
                errors.append(f"{name}: {exc}")
                continue
            files.append((name, target.relative_to(folder).as_posix()))
    except DAMAGE as exc:
        errors.append(f"archive damaged after {len(files)} files: {exc}")
    error = "; ".join(errors) or None
    temporary = index.with_suffix(".tmp")
    temporary.write_text(json.dumps({"files": files, "other": other, "error": error}), encoding="utf-8")
    temporary.replace(index)
    return [(name, folder / file) for name, file in files], other, error


def _folder_files(root: Path) -> tuple[list[tuple[str, Path]], int]:
    wanted, other = [], 0
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f != WORK_FOLDER]  # an output folder inside the input
        for name in names:
            path = Path(folder) / name
            if _wanted(name):
                wanted.append((path.relative_to(root).as_posix(), path))
            else:
                other += 1
    return wanted, other


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a metadata table by the value of their column `file` (or `file_name`).

    Raises:
        ValueError: the table has neither column.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
        reader = csv.DictReader(handle)
        column = next((c for c in ("file", "file_name") if c in (reader.fieldnames or ())), None)
        if column is None:
            raise ValueError(f"{path}: no column 'file' or 'file_name' among {reader.fieldnames}; add one")
        return {
            PurePosixPath(row[column]).as_posix(): {k: (v or "").strip() for k, v in row.items() if k}
            for row in reader
            if row[column]
        }


def _lookup(name: str, tables: dict[str, dict[str, dict[str, str]]], used: set[tuple[str, str]]) -> dict[str, str]:
    """The row of the nearest table above the file that lists it."""
    for parent in PurePosixPath(name).parents:
        table = tables.get(parent.as_posix())
        key = PurePosixPath(name).relative_to(parent).as_posix()
        if table is not None and key in table:
            used.add((parent.as_posix(), key))
            return table[key]
    return {}


def _root_names(inputs: list[Path]) -> list[str]:
    """A short name per input, made unique by a running number."""
    names: list[str] = []
    for path in inputs:
        suffix = _archive_suffix(path) if path.is_file() else None
        base = path.resolve().name
        base = base[: -len(suffix)] if suffix else base
        names.append(base if base not in names else f"{base}-{len(names)}")
    return names


def collect(inputs: Iterable[Path], scratch: Path, source: str = "", licence: str = "") -> Collection:
    """List the MIDI files of all inputs with MD5 and metadata, sorted by (MD5, name).

    Args:
        inputs: folders, zip/tar archives, or single MIDI files.
        scratch: folder in which archives are unpacked.
        source, licence: for files whose metadata names none; a file called after its MD5 counts as Lakh.

    Raises:
        FileNotFoundError: an input does not exist.
    """
    inputs = [Path(p) for p in inputs]
    result = Collection([], [])
    for number, (root, path) in enumerate(zip(_root_names(inputs), inputs)):
        if not path.exists():
            raise FileNotFoundError(f"input {path} does not exist; give a folder, an archive or a MIDI file")
        error = None
        if path.is_dir():
            listing, other = _folder_files(path)
        elif _archive_suffix(path):
            listing, other, error = extract(path, scratch / f"archive-{number}")
        else:
            listing, other = [(path.name, path)], 0
        if error:
            result.rejected.append({"file_name": root, "md5": "", "reason": "damaged_archive", "detail": error})
        result.other_files += other
        _add_files(result, root, sorted(listing), source, licence)
    result.files.sort(key=lambda f: (f.md5, f.name))
    return result


def _add_files(result: Collection, root: str, listing: list[tuple[str, Path]], source: str, licence: str) -> None:
    tables = {
        PurePosixPath(name).parent.as_posix(): read_metadata(path)
        for name, path in listing
        if PurePosixPath(name).name == METADATA_NAME
    }
    used: set[tuple[str, str]] = set()
    for name, path in listing:
        if PurePosixPath(name).name == METADATA_NAME:
            continue
        full = f"{root}/{name}"
        try:
            md5 = file_md5(path)
        except OSError as exc:
            detail = exc.strerror or str(exc)
            result.rejected.append({"file_name": full, "md5": "", "reason": "unreadable_file", "detail": detail})
            continue
        row = dict(_lookup(name, tables, used))
        if row.get("md5") and row["md5"].lower() != md5:
            result.metadata_md5_mismatch += 1
        lakh = MD5_NAME.fullmatch(PurePosixPath(name).stem.lower()) is not None and not row
        row["source"] = row.get("source") or source or (LAKH_SOURCE if lakh else root)
        row["licence"] = row.get("licence") or row.get("license") or licence or (LAKH_LICENCE if lakh else "unknown")
        result.files.append(SongFile(full, path, md5, row))
    result.metadata_unmatched += sum(len(t) for t in tables.values()) - len(used)


def collect_md5s(folder: Path) -> list[tuple[str, str]]:
    """(path within the folder, MD5) of every MIDI file of a folder."""
    listing, _ = _folder_files(Path(folder))
    return [(name, file_md5(path)) for name, path in listing if PurePosixPath(name).name != METADATA_NAME]
