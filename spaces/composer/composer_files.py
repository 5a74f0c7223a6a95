"""Files to take home: MIDI, one MIDI per track, JSON with the request, WAV."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from symusic import Score

from partimento.pipelines import GeneratedMidi

SOUNDFONTS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts")
NO_WAV = "WAV needs fluidsynth and a soundfont. The .mid download and browser playback still work."
MAX_SOUND_SECONDS = 600.0  # 106 MB
_RENDER_SECONDS = 60


def file_name(genre: str | None, seed: int, number: int, ending: str) -> str:
    """`composer_<genre>_<seed>_<n>.<ending>`, letters, digits and hyphens only."""
    label = re.sub(r"[^a-z0-9]+", "-", (genre or "any").lower()).strip("-") or "any"
    return f"composer_{label}_{seed}_{number}.{ending}"


def midi_bytes(piece: GeneratedMidi) -> bytes:
    """The piece as a Standard MIDI File."""
    with tempfile.TemporaryDirectory() as folder:
        return piece.save(Path(folder) / "piece.mid").read_bytes()


def data_url(midi: bytes) -> str:
    """A `data:` URL for the player of the page."""
    return "data:audio/midi;base64," + base64.b64encode(midi).decode("ascii")


def stems(midi: bytes, name: str) -> bytes:
    """A zip with one MIDI file per track, tempo and metre in each."""
    whole, archive = Score.from_midi(midi), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for number, track in enumerate(whole.tracks, 1):
            single = whole.copy()
            single.tracks = [track.copy()]
            label = re.sub(r"[^A-Za-z0-9]+", "-", track.name or ("Drums" if track.is_drum else "Track")).strip("-")
            zipped.writestr(f"{name}_{number:02d}_{label}.mid", single.dumps_midi())
    return archive.getvalue()


def settings_json(version: dict) -> bytes:
    """Prompt, conditions, seed and model of a version."""
    names = ("prompt", "action", "request", "seed", "model", "measured", "parent", "id")
    return json.dumps({name: version.get(name) for name in names}, indent=2, ensure_ascii=False).encode()


def soundfont() -> Path | None:
    """`SOUNDFONT`, or the first .sf2 of the system's folders."""
    named = os.environ.get("SOUNDFONT")
    if named:
        return Path(named) if Path(named).is_file() else None
    return next((path for folder in SOUNDFONTS for path in sorted(Path(folder).glob("*.sf2"))), None)


def can_render() -> bool:
    """Whether WAV can be made here."""
    return shutil.which("fluidsynth") is not None and soundfont() is not None


def sounding(midi: bytes) -> tuple[bytes, float]:
    """The file without what comes after its last note and without tempos of no length, and its seconds: a file of a few
    bytes can ask for days of silence."""
    score = Score.from_midi(midi)
    ends = [int((notes["time"] + notes["duration"]).max()) for track in score.tracks if len(track.notes)
            for notes in [track.notes.numpy()]]  # fmt: skip
    score.tempos = [tempo for tempo in score.tempos if tempo.mspq > 0]
    score = score.clip(0, max(ends, default=0))
    return score.dumps_midi(), float(score.to("second").end())


def render_wav(midi: bytes) -> bytes:
    """Sound of a MIDI file, 44.1 kHz stereo.

    Raises:
        OSError: no fluidsynth or soundfont, a piece of more than ten minutes, or it did not finish within a minute.
    """
    program, font = shutil.which("fluidsynth"), soundfont()
    if program is None or font is None:
        raise OSError(NO_WAV)
    midi, seconds = sounding(midi)
    if not seconds <= MAX_SOUND_SECONDS:
        most = f"{MAX_SOUND_SECONDS / 60:.0f} minutes"
        raise OSError(f"The piece lasts {seconds / 60:,.0f} minutes; sound can be made of at most {most}.")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mid", Path(folder) / "out.wav"
        source.write_bytes(midi)
        command = [program, "-ni", "-q", "-r", "44100", "-F", str(target), str(font), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_RENDER_SECONDS)
            return target.read_bytes()
        except (subprocess.SubprocessError, FileNotFoundError):
            raise OSError("The sound could not be rendered.") from None
