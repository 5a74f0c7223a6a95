"""Processors of the three presets, built once."""

import pytest

from partimento.tokenization import MidiProcessor

LABELS = {"genres": ("Jazz", "Pop", "Pop_Rock", "New Age"), "artists": ("Scott Joplin",), "moods": ("Q1", "Q2")}


@pytest.fixture(scope="session")
def processors() -> dict[str, MidiProcessor]:
    return {name: MidiProcessor.from_preset(name, **LABELS) for name in ("multitrack", "six_track", "metres")}


@pytest.fixture(scope="session")
def processor(processors) -> MidiProcessor:
    return processors["multitrack"]


@pytest.fixture(scope="session", params=["multitrack", "six_track", "metres"])
def any_processor(request, processors) -> MidiProcessor:
    return processors[request.param]
