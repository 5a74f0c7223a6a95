"""Shared fixtures: an offline session with its own cache, small MIDI files written here, real data where present."""

import os
import tarfile
import tempfile
from pathlib import Path

CACHE = tempfile.TemporaryDirectory(prefix="partimento-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = CACHE.name
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import numpy as np  # noqa: E402 - the variables above must be set before the Hub client is imported
import pytest  # noqa: E402
from symusic import Note, Score, Tempo, TimeSignature, Track  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
ARCHIVES = ROOT.parent / "shared" / "data"
UNPACKED = ROOT / "build" / "data"


def unpack(name: str) -> Path:
    """Folder of an unpacked data archive; skips the test if neither folder nor archive is there."""
    folder, archive = UNPACKED / name, ARCHIVES / f"{name}.tar.gz"
    if folder.is_dir():
        return folder
    if not archive.is_file():
        pytest.skip(f"real data absent: {name}.tar.gz is not in ../shared/data")
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED) as scratch, tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
        try:
            (Path(scratch) / name).rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """build/data with the archive `sample` unpacked."""
    return unpack("sample").parent


@pytest.fixture(scope="session")
def train_open_dir() -> Path:
    """build/data/train_open, unpacked on demand."""
    return unpack("train_open")


@pytest.fixture(scope="session")
def sample_files(data_dir) -> list[Path]:
    """All MIDI files of the sample archive."""
    return sorted((data_dir / "sample" / "midi").rglob("*.mid"))


def random_score(
    seed: int,
    num_bars: int = 8,
    programs: tuple[int, ...] = (0, 0, 33, 48, -1),
    division: int = 480,
    notes_per_bar: float = 6.0,
    time_signatures: tuple[tuple[int, int, int], ...] = ((0, 4, 4),),
) -> Score:
    """A random score off the grid, with overlaps, doubled notes, long notes and tempo changes.

    programs: one track each, -1 = drums; time_signatures: (bar in quarters, numerator, denominator).
    """
    rng = np.random.default_rng(seed)
    score, end = Score(division), num_bars * 4 * division
    for program in programs:
        count = max(int(rng.poisson(notes_per_bar * num_bars)), 1)
        time = rng.integers(0, end, count)
        on_grid = rng.random(count) < 0.7
        time[on_grid] = time[on_grid] // (division // 4) * (division // 4)
        duration = np.maximum(rng.exponential(division, count).astype(int), 1)
        duration[rng.random(count) < 0.03] = 20 * division
        columns = {
            "time": time.astype(np.int32),
            "duration": duration.astype(np.int32),
            "pitch": rng.integers(30, 90, count).astype(np.int8),
            "velocity": rng.integers(1, 128, count).astype(np.int8),
        }
        track = Track(program=max(program, 0), is_drum=program < 0)
        track.notes = Note.from_numpy(**columns)
        score.tracks.append(track)
    for tick in sorted({0, *rng.integers(0, end, 3).tolist()}):
        score.tempos.append(Tempo(tick, float(rng.uniform(20, 220))))
    for quarters, numerator, denominator in time_signatures:
        score.time_signatures.append(TimeSignature(quarters * division, numerator, denominator))
    return score


@pytest.fixture(scope="session")
def make_score():
    """The function random_score(seed, num_bars, programs, division, notes_per_bar, time_signatures)."""
    return random_score


@pytest.fixture(scope="session")
def midi_files(tmp_path_factory) -> list[Path]:
    """Twelve small multi-track MIDI files in 4/4 with several time divisions."""
    folder = tmp_path_factory.mktemp("midi")
    files = []
    for seed, division in enumerate([480, 96, 120, 220, 384, 1024] * 2):
        files.append(folder / f"piece-{seed:02d}.mid")
        random_score(seed, num_bars=4 + seed, division=division).dump_midi(files[-1])
    return files
