"""WAV in and out, and the three forms in which a signal is a sequence: classes, values, and blocks of its spectrum."""

import math
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from symusic import Score

CLASS_STEP = 300  # 16-bit values of one class, as published
SOUNDFONTS = (Path("/usr/share/sounds/sf2"), Path("/usr/share/soundfonts"))
PARTIALS = (1.0, 0.5, 0.25, 0.12)  # of the small synthesiser


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """First channel [n] as int16 values in int64, and the rate in Hz.

    Raises:
        ValueError: not a PCM file of 16 bits.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: {error}; give a PCM WAV file of 16 bits") from None
    if width != 2:
        raise ValueError(f"{path}: {8 * width} bits a value; give a PCM WAV file of 16 bits")
    return np.frombuffer(content, "<i2").reshape(-1, channels)[:, 0].astype(np.int64), rate


def write_wav(values: np.ndarray, rate: int, path: str | Path) -> None:
    """Write [n] values as mono PCM of 16 bits; what is beyond its range is cut."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.rint(values), -32768, 32767).astype("<i2").tobytes())


def render_midi(midi: str | Path, rate: int, synthesiser: str = "auto") -> tuple[np.ndarray, str]:
    """A MIDI file as [n] 16-bit values, and by what.

    Args:
        synthesiser: `fluidsynth` (with the first soundfont of the system), `numpy` (sines with four partials, no
            drums), or `auto`: fluidsynth where there is one.
    Raises:
        ValueError: fluidsynth is asked for and cannot be used.
    """
    program = shutil.which("fluidsynth")
    font = next((path for folder in SOUNDFONTS for path in sorted(folder.glob("*.sf2"))), None)
    if synthesiser == "numpy" or (synthesiser == "auto" and not (program and font)):
        return synthesise(Score(str(midi)), rate), "numpy"
    if not (program and font):
        raise ValueError("--synthesiser fluidsynth: neither program nor soundfont may be missing; give numpy")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.wav"
        command = [
            program,
            "-ni",
            "-q",
            "-g",
            "0.6",
            "-r",
            str(rate),
            "-O",
            "s16",
            "-F",
            str(target),
            str(font),
            str(midi),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not target.is_file():
            raise ValueError(f"fluidsynth: {done.stderr.strip() or done.stdout.strip()}")
        return read_wav(target)[0], f"fluidsynth with {font.name}"


def synthesise(score: Score, rate: int) -> np.ndarray:
    """[n] 16-bit values: every note four decaying partials, the loudest place at half of the range."""
    seconds = score.to("second")
    notes = [note for track in seconds.tracks if not track.is_drum for note in track.notes]
    if not notes:
        raise ValueError("the MIDI file has no notes with pitches")
    end = max(note.time + note.duration for note in notes) + 0.2
    signal = np.zeros(math.ceil(end * rate))
    for note in notes:
        length = max(1, int((note.duration + 0.1) * rate))
        start, time = int(note.time * rate), np.arange(length) / rate
        frequency = 440 * 2 ** ((note.pitch - 69) / 12)
        tone = sum(
            weight * np.sin(2 * np.pi * frequency * number * time)
            for number, weight in enumerate(PARTIALS, start=1)
            if frequency * number < rate / 2
        )
        fade = np.minimum(1, np.arange(length)[::-1] / max(1, int(0.05 * rate)))  # no click at the end
        part = signal[start : start + length]
        part += (tone * np.exp(-2 * time) * fade * note.velocity / 127)[: len(part)]
    return np.rint(signal / max(1e-9, np.abs(signal).max()) * 16384).astype(np.int64)


def trim(values: np.ndarray, threshold: int = CLASS_STEP) -> np.ndarray:
    """Without the beginning and end in which every value is below the threshold.

    Raises:
        ValueError: nothing is left.
    """
    loud = np.flatnonzero(np.abs(values) >= threshold)
    if not len(loud):
        raise ValueError(f"the signal is silent: no value reaches {threshold}")
    return values[loud[0] : loud[-1] + 1]


@dataclass(frozen=True)
class Classes:
    """Values divided by a step, their integer part (towards zero), numbered from the lowest."""

    lowest: int
    count: int
    step: int = CLASS_STEP

    @classmethod
    def of(cls, values: np.ndarray, step: int = CLASS_STEP) -> "Classes":
        levels = np.trunc(values / step).astype(np.int64)
        return cls(int(levels.min()), int(levels.max() - levels.min()) + 1, step)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """[n] ids; values beyond those seen get the outermost class."""
        levels = np.trunc(values / self.step).astype(np.int64)
        return np.clip(levels - self.lowest, 0, self.count - 1)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        return (ids + self.lowest) * self.step


@dataclass(frozen=True)
class Vectors:
    """Standardised vectors: single values (`block` 0), or real and imaginary parts of the spectra of blocks."""

    block: int
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, block: int = 0) -> "Vectors":
        """Mean and deviation of the parts of a (training) signal; a part that never changes is left as it is."""
        raw = spectra(values, block)
        deviation = raw.std(0)
        return cls(block, raw.mean(0), np.where(deviation > 1e-9 * (1 + deviation.max()), deviation, 1.0))

    @property
    def size(self) -> int:
        return len(self.mean)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """[steps, size] float32; an incomplete last block is left out."""
        return ((spectra(values, self.block) - self.mean) / self.deviation).astype(np.float32)

    def decode(self, steps: np.ndarray) -> np.ndarray:
        """[n] values."""
        raw = steps * self.deviation + self.mean
        if not self.block:
            return raw[:, 0]
        half = self.block // 2 + 1
        return np.fft.irfft(raw[:, :half] + 1j * raw[:, half:], self.block, axis=1).reshape(-1)


def spectra(values: np.ndarray, block: int) -> np.ndarray:
    """[steps, 1] values, or [blocks, block + 2] real and imaginary parts of their discrete Fourier transforms."""
    if not block:
        return values.astype(np.float64)[:, None]
    whole = len(values) // block
    transformed = np.fft.rfft(values[: whole * block].reshape(whole, block).astype(np.float64), axis=1)
    return np.concatenate([transformed.real, transformed.imag], axis=1)


def spectral_flatness(values: np.ndarray, frame: int = 1024) -> float:
    """Geometric over arithmetic mean of the power spectrum, averaged over frames: 0 for a tone, near 1 for noise."""
    power = frame_powers(values, frame) + 1e-12
    return float(np.mean(np.exp(np.log(power).mean(1)) / power.mean(1)))


def strongest_frequency(values: np.ndarray, rate: int, frame: int = 1024) -> float:
    """Hz of the strongest bin of the mean power spectrum."""
    return float(frame_powers(values, frame).mean(0).argmax() * rate / frame)


def frame_powers(values: np.ndarray, frame: int) -> np.ndarray:
    """[frames, frame / 2 + 1] power under Hann windows, the constant part removed; a shorter signal is padded."""
    signal = np.asarray(values, np.float64) - np.mean(values)
    signal = np.pad(signal, (0, max(0, frame - len(signal))))
    frames = signal[: len(signal) // frame * frame].reshape(-1, frame) * np.hanning(frame)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    power[:, 0] = 0
    return power


def peak_autocorrelation(values: np.ndarray, rate: int, low: float = 40.0, high: float = 4000.0) -> float:
    """Highest normalised autocorrelation at a period of `low` to `high` Hz: 1 for what repeats itself exactly.

    Only periods behind the first zero crossing count: every smooth signal is like itself a moment later.
    """
    signal = np.asarray(values, np.float64) - np.mean(values)
    energy = np.concatenate([[0.0], np.cumsum(signal**2)])
    if energy[-1] == 0:
        return 0.0
    n = len(signal)
    size = 1 << (2 * n - 1).bit_length()
    product = np.fft.irfft(np.abs(np.fft.rfft(signal, size)) ** 2, size)[:n]
    lags = np.arange(n)
    norm = np.sqrt(np.maximum(energy[n - lags] * (energy[-1] - energy[lags]), 1e-12))
    scores = product / norm
    crossed = np.flatnonzero(scores <= 0)
    if not len(crossed):
        return 0.0
    first, last = max(crossed[0], int(rate / high)), min(n // 2, int(rate / low))
    return float(scores[first : last + 1].max(initial=0.0))
