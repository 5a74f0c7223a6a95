"""Damaged and malicious files at the doors of both Spaces: each is read or refused in a sentence of ours."""

import base64
import io
import pickle
import random
import struct
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from symusic import Score

SPACES = Path(__file__).resolve().parents[2] / "spaces"
if not SPACES.is_dir():
    pytest.skip("runs outside the checkout: spaces/ is not there", allow_module_level=True)
pytest.importorskip("gradio", reason="the Spaces need gradio: pip install 'partimento[space]'")
FOREIGN = ("Traceback", "Error", "/home", "/tmp", str(SPACES.parent), "site-packages", "Something went wrong")
END = b"\0\xff\x2f\0"
MUTATIONS = 60


def number(value: int) -> bytes:
    """A quantity of variable length, as MIDI files write it."""
    out = [value & 127]
    while value := value >> 7:
        out.append(128 | value & 127)
    return bytes(reversed(out))


def note(at: int, pitch: int = 60, length: int = 240) -> bytes:
    return number(at) + bytes((0x90, pitch, 80)) + number(length) + bytes((0x80, pitch, 0))


def header(tracks: int = 1, division: int = 480, kind: int = 1) -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6, kind, tracks, division)


def chunk(body: bytes, size: int | None = None) -> bytes:
    return b"MTrk" + struct.pack(">I", len(body) if size is None else size) + body


TUNE = b"".join(note(0, 60 + step) for step in range(12))
PLAIN = header() + chunk(TUNE + END)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("piece.mid", bytes(20_000_000))
    return out.getvalue()


NASTY = {
    "division of 0": header(division=0) + chunk(TUNE + END),
    "SMPTE division": header(division=0xE728) + chunk(TUNE + END),
    "type 2": header(3, kind=2) + 3 * chunk(TUNE + END),
    "tempo 0": header() + chunk(b"\0\xff\x51\x03\0\0\0" + TUNE + END),
    "65,535 tracks": header(65535) + 65534 * chunk(END) + chunk(TUNE + END),
    "65,535 tracks claimed": header(65535) + chunk(TUNE + END),
    "huge deltas": header() + chunk(TUNE + 20 * note(0x0FFFFFFF) + END),
    "number without end": header() + chunk(TUNE + 100_000 * b"\xff" + END),
    "note of months": header(division=1) + chunk(note(0, 60, 0x0FFFFFFF) + TUNE + END),
    "running status of nothing": header() + chunk(bytes(range(128)) * 100 + END),
    "SysEx longer than the file": header() + chunk(b"\0\xf0" + number(0x0FFFFFFF) + b"\x7e" + TUNE + END),
    "SysEx of 1.5 MB": header() + chunk(b"\0\xf0" + number(1_500_000) + 1_500_000 * b"\x01" + TUNE + END),
    "chunk longer than the file": header() + chunk(TUNE + END, 0xFFFFFFFF),
    "2 MB of note-ons": header() + chunk(499_000 * b"\0\x90\x3c\x40" + END),
    "metre of 0": header() + chunk(b"\0\xff\x58\4\0\0\x18\x08" + TUNE + END),
    "metre over 2^255": header() + chunk(b"\0\xff\x58\4\x01\xff\x18\x08" + TUNE + END),
    "markup as a name": header() + chunk(b"\0\xff\x03\x19<script>alert(1)</script>" + TUNE + END),
    "RIFF": b"RIFF" + struct.pack("<I", len(PLAIN) + 12) + b"RMIDdata" + struct.pack("<I", len(PLAIN)) + PLAIN,
    "zip": zipped(),
    "pickle": pickle.dumps(Evil()),
    "pickle with a header": b"MThd" + pickle.dumps(Evil()),
    "nothing": b"",
}


def mutated(chance: random.Random, data: bytes) -> bytes:
    """A file with bits flipped, bytes inserted or lost, or its end."""
    changed = bytearray(data)
    how, place = chance.randrange(5), chance.randrange(8, len(data))
    if how == 0:
        del changed[place:]
    elif how == 1:
        del changed[place : place + chance.randrange(1, 400)]
    elif how == 2:
        changed[place:place] = chance.randbytes(chance.choice((1, 5, 5000)))
    else:
        for _ in range(chance.choice((1, 10, 100))):
            changed[chance.randrange(8, len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def doors(loops_models):
    """Everything that reads a file of a visitor: name -> function of its bytes."""
    folders = [str(SPACES / name) for name in ("composer", "loops")]
    sys.path[:0] = folders
    from composer_engine import load_composer
    from loops_files import read_z, z_json, z_npy
    from loops_models import open_shop
    from loops_reading import check_upload, plain_words

    composer, _ = load_composer()
    variant = open_shop(loops_models["trio"]).variant()

    def loop(data: bytes) -> None:
        for any_metre in (False, True):
            check_upload(variant.generator, data, any_metre)
            with plain_words():
                variant.generator.read(data, any_metre=any_metre)

    def excerpt(data: bytes) -> None:
        composer.open(composer.excerpt(data, 1, 1).midi)

    def point(data: bytes) -> None:
        read_z(variant, data)

    point.plain = [save(variant, torch.zeros(variant.z_size)) for save in (z_npy, z_json)]
    yield {"composer": composer.open, "excerpt": excerpt, "loops": loop, "point": point}
    for folder in folders:
        sys.path.remove(folder)


def told(door, data) -> str:
    """The sentence with which a file is refused; empty where it is read. What else is raised goes on."""
    begun, sentence = time.monotonic(), None
    try:
        door(data)
    except ValueError as error:
        if type(error).__name__ != "RequestError":
            raise
        sentence = str(error)
    assert time.monotonic() - begun < 10
    assert sentence is None or sentence.strip(), "a refusal says why"
    assert not any(word in (sentence or "") for word in FOREIGN), sentence
    return sentence or ""


def array(header: str, body: bytes = b"") -> bytes:
    """A file of NumPy."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + body


NASTY_POINTS = {
    "header without end": array("{'descr': (((\n"),
    "header of code": array("__import__('os')._exit(1)"),
    "header of brackets": array(5000 * "("),
    "four terabytes": array("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
    "objects": array("{'descr': '|O', 'fortran_order': False, 'shape': (), }\n", pickle.dumps(Evil())),
    "deep": 100_000 * b"[",
    "not finite": b'{"fingerprint": "x", "z": [1e999]}',
    "long number": 999_999 * b"1",
}


@pytest.mark.parametrize("name", NASTY_POINTS)
def test_nasty_points_are_refused(name, doors):
    assert told(doors["point"], NASTY_POINTS[name]).startswith(("This file holds no point", "This point belongs"))


def test_mutated_points_are_read_or_refused(doors):
    plain = doors["point"].plain
    assert [told(doors["point"], data) for data in plain] == ["", ""]
    answers = {bool(told(doors["point"], mutated(random.Random(seed), data))) for seed in range(300) for data in plain}
    assert answers == {True, False}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_are_read_or_refused(name, doors):
    for door in doors.values():
        told(door, NASTY[name])


def test_a_division_of_nothing_is_damage(doors):
    for door in (doors["composer"], doors["loops"]):
        assert told(door, NASTY["division of 0"]).startswith("This file could not be read as MIDI.")


def test_mutated_files_are_read_or_refused(doors, make_score):
    """The same sixty on every machine; the plain file is read by both Spaces."""
    plain = make_score(seed=1, num_bars=4).dumps_midi()
    assert [told(doors[name], plain) for name in ("composer", "excerpt", "loops")] == ["", "", ""]
    answers = set()
    for seed in range(MUTATIONS):
        data = mutated(random.Random(seed), plain)
        answers |= {bool(told(door, data)) for door in doors.values()}
    assert answers == {True, False}


GARBAGE = ("", "é", "not base64!", "AAAA====", "=" * 10, "TVRoZA==" * 400_000, None, 7, ["TVRo"])


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_base64_that_is_none(garbage, doors):
    from composer_api import decoded as composer_decoded
    from loops_api import decoded as loops_decoded

    for decode in (composer_decoded, loops_decoded):
        told(lambda text, decode=decode: doors["composer"](decode(text)), garbage)


def test_sound_ends_with_the_last_note(doors):
    """A file of a hundred bytes may ask for days of silence, or for notes as long."""
    from composer_files import MAX_SOUND_SECONDS, can_render, render_wav, sounding

    late = header() + chunk(TUNE + number(0x0FFFFFFF) + b"\xb0\x07\x40" + END)
    midi, seconds = sounding(late)
    assert seconds == pytest.approx(3, abs=0.01)
    assert Score.from_midi(midi).end() == 12 * 240
    assert sounding(PLAIN) == (midi, seconds)
    slow = header() + chunk(b"\0\xff\x51\x03\xff\xff\xff" + 40 * note(0, 60, 480) + END)
    assert sounding(slow)[1] > MAX_SOUND_SECONDS
    assert sounding(NASTY["tempo 0"]) == (midi, seconds)
    if can_render():
        with pytest.raises(OSError, match=r"The piece lasts 11 minutes; sound can be made of at most 10 minutes\."):
            render_wav(slow)


def test_a_plain_file_goes_through_base64(doors):
    from composer_api import decoded

    assert told(doors["composer"], decoded(base64.b64encode(PLAIN).decode())) == ""
