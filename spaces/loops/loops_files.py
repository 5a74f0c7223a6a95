"""Files of loops: MIDI, points of the latent space, names, and the samples that the Space brings along."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from loops_models import RequestError, Variant
from symusic import Note, Score, Tempo, TextMeta, TimeSignature, Track

from partimento.pipelines import Loop, join_loops

MAX_Z_BYTES = 1_000_000
MAX_NAME = 60
_FOREIGN = "This point belongs to another model ({found}); this is {mine}."
_DAMAGED = (ValueError, TypeError, KeyError, IndexError, SyntaxError, TokenError)  # the last two: a header of NumPy
_UNREADABLE = "This file holds no point of the latent space; give a .npy or .json file that was saved here."


def clean_name(text: Any, otherwise: str = "loop") -> str:
    """A name for people: one line of at most 60 characters."""
    return (
        re.sub(r"\s+", " ", "".join(c for c in str(text or "") if c.isprintable() or c == " ")).strip()[:MAX_NAME]
        or otherwise
    )


def file_name(text: Any, ending: str = "mid", otherwise: str = "loops") -> str:
    """A name for a file: letters, digits, dots, hyphens and underscores, with the ending."""
    stem = re.sub(r"\.(mid|midi)$", "", str(text or "").strip(), flags=re.IGNORECASE)
    stem = re.sub(r"[^\w.-]+", "_", stem, flags=re.ASCII).strip("._-")[:MAX_NAME]
    return f"{stem or otherwise}.{ending}"


def midi_of(loops: Sequence[Loop], tempo: float, program: int = 0, names: Sequence[str] = ()) -> bytes:
    """One Standard MIDI File of loops in order, each on whole bars, with a marker at the start of each.

    Args:
        program: General MIDI program of the melody, 0 to 127.
    """
    joined = join_loops(loops)
    score = joined.processor.decode(joined.ids, tempo=tempo)
    for track in score.tracks:
        if track.name == "Melody":
            track.program = program
    length = joined.processor.num_bars * 4 * score.ticks_per_quarter
    for number, name in enumerate(names):
        score.markers.append(TextMeta(number * length, clean_name(name)))
    return score.dumps_midi()


def bars_of(loop: Loop) -> list[list[list[float]]]:
    """Notes by bar: [program (-1 = drums), pitch, start in beats, length in beats, velocity]."""
    score = loop.score
    quarter = score.ticks_per_quarter
    bars: list[list[list[float]]] = [[] for _ in range(loop.processor.num_bars)]
    for track in score.tracks:
        program = -1 if track.is_drum else track.program
        notes = track.notes.numpy()
        for start, length, pitch in zip(notes["time"], notes["duration"], notes["pitch"]):
            bar = int(start) // (4 * quarter)
            bars[bar].append([program, int(pitch), int(start) / quarter, int(length) / quarter, 90])
    return bars


# Points


def z_json(variant: Variant, z: torch.Tensor) -> bytes:
    """A point with the model it belongs to, as JSON."""
    facts = {"model": variant.name, "fingerprint": variant.fingerprint, "z": z.tolist()}
    return json.dumps(facts, allow_nan=False).encode()


def z_npy(variant: Variant, z: torch.Tensor) -> bytes:
    """A point with the model it belongs to, as a NumPy record of `fingerprint` and `z` (no pickle)."""
    kind = np.dtype([("fingerprint", "S16"), ("z", "<f4", (len(z),))])
    out = io.BytesIO()
    np.save(out, np.array((variant.fingerprint.encode(), z.numpy()), kind), allow_pickle=False)
    return out.getvalue()


def read_z(variant: Variant, data: bytes) -> torch.Tensor:
    """The point `[Z]` in a file of `z_json` or `z_npy`.

    Raises:
        RequestError: unreadable, of another model or size, or not finite.
    """
    if len(data) > MAX_Z_BYTES:
        raise RequestError(f"The file has {len(data):,} bytes; the limit is {MAX_Z_BYTES:,}.")
    try:
        fingerprint, values = _read_npy(data) if data.startswith(b"\x93NUMPY") else _read_json(data)
        z = torch.tensor(values, dtype=torch.float32)
    except (*_DAMAGED, RecursionError, OverflowError, EOFError, MemoryError):
        raise RequestError(_UNREADABLE) from None
    if fingerprint != variant.fingerprint:
        raise RequestError(_FOREIGN.format(found=clean_name(fingerprint, "unnamed"), mine=variant.fingerprint))
    return check_z(variant, z)


def check_z(variant: Variant, values: Any) -> torch.Tensor:
    """A point `[Z]` of this model. Raises: RequestError: another size, or not finite."""
    try:
        z = torch.as_tensor(values, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        raise RequestError(f"z must be {variant.z_size} numbers.") from None
    if tuple(z.shape) != (variant.z_size,):
        raise RequestError(f"z must be {variant.z_size} numbers, not {list(z.shape)}.")
    if not torch.isfinite(z).all():
        raise RequestError("z holds values that are not finite.")
    return z


def _read_json(data: bytes) -> tuple[str, Any]:
    facts = json.loads(data)
    return str(facts["fingerprint"]), facts["z"]


def _read_npy(data: bytes) -> tuple[str, Any]:
    record = np.load(io.BytesIO(data), allow_pickle=False)
    if record.dtype.names != ("fingerprint", "z") or record.shape != ():
        raise ValueError
    return bytes(record["fingerprint"]).decode("ascii", "replace"), record["z"].tolist()


# Samples: two bars each, (onset, length, pitch) in quarters; the tunes are traditional or by Beethoven (1824)

_ROCK = [(b, 36) for b in (0, 2, 2.5, 4, 6, 6.5)] + [(b, 38) for b in (1, 3, 5, 7)] + [(b / 2, 42) for b in range(16)]
_WALTZING = [(b, 36) for b in (0, 1.5, 4, 5.5)] + [(b, 38) for b in (2, 6, 7.5)] + [(b, 51) for b in range(8)]
_SAMPLES: dict[str, tuple[float, list, list, list]] = {
    "Ode to Joy": (
        120,
        [(0, 1, 64), (1, 1, 64), (2, 1, 65), (3, 1, 67), (4, 1, 67), (5, 1, 65), (6, 1, 64), (7, 1, 62)],
        [(0, 2, 36), (2, 2, 43), (4, 2, 36), (6, 2, 43)],
        _ROCK,
    ),
    "Frère Jacques": (
        108,
        [(0, 1, 65), (1, 1, 67), (2, 1, 69), (3, 1, 65), (4, 1, 69), (5, 1, 70), (6, 2, 72)],
        [(0, 1, 41), (1, 1, 48), (2, 1, 41), (3, 1, 48), (4, 1, 41), (5, 1, 48), (6, 2, 41)],
        _WALTZING,
    ),
    "Dorian riff": (
        96,
        [(0, 0.5, 62), (0.5, 0.5, 65), (1, 0.5, 69), (1.75, 0.25, 71), (2, 1, 69), (3.5, 0.5, 67), (4, 0.5, 65),
         (4.75, 0.25, 64), (5, 0.5, 62), (6, 0.5, 60), (6.5, 1.5, 62)],
        [(0, 1.5, 38), (1.5, 0.5, 38), (2, 2, 45), (4, 1.5, 38), (5.5, 0.5, 36), (6, 2, 38)],
        _ROCK,
    ),
}  # fmt: skip
SAMPLE_NAMES = tuple(_SAMPLES)


def sample_midi(name: str, num_bars: int = 2) -> bytes:
    """An embedded sample with melody, bass and drums, repeated to fill `num_bars`."""
    tempo, melody, bass, drums = _SAMPLES[name]
    score = Score(480)
    score.tempos.append(Tempo(0, tempo))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    parts = (("Melody", 0, melody), ("Bass", 33, bass), ("Drums", -1, [(at, 0.25, pitch) for at, pitch in drums]))
    for title, program, rows in parts:
        track = Track(name=title, program=max(program, 0), is_drum=program < 0)
        for turn in range((num_bars + 1) // 2):
            for start, length, pitch in rows:
                track.notes.append(Note(int(480 * (start + 8 * turn)), int(480 * length), pitch, 90))
        score.tracks.append(track)
    return score.dumps_midi()
