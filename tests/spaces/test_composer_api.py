"""The named endpoints of the Composer Space through gradio_client."""

import base64
import io
import json
import wave
import xml.etree.ElementTree as ET

import pytest
from symusic import Note, Score, Track

pytestmark = pytest.mark.slow


def piece() -> str:
    """Two bars of piano in base64."""
    score, track = Score(480), Track(program=0)
    for beat in range(8):
        track.notes.append(Note(480 * beat, 400, 60 + beat, 80))
    score.tracks.append(track)
    return base64.b64encode(score.dumps_midi()).decode()


PIECE = piece()


def file_of(event: dict) -> bytes:
    """The MIDI file of the last event."""
    return base64.b64decode(next(iter(event["files"].values())))


@pytest.fixture(scope="module")
def client(composer_url):
    from gradio_client import Client

    return Client(composer_url, verbose=False)


@pytest.fixture(scope="module")
def events(client):
    settings = {"seed": 3, "bars": 3, "num_outputs": 2}
    return list(client.submit("jazz with piano, no drums, 64 bars", settings, api_name="/generate"))


def test_describe_and_endpoints(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {
        "/describe", "/parse_prompt", "/generate", "/continue_midi", "/regenerate_bars", "/render_audio",
        "/export_musicxml",
    }  # fmt: skip
    facts = client.predict(api_name="/describe")
    assert "Jazz" in facts["genres"]
    assert facts["max_bars"] == 64


def test_parse_prompt(client):
    parsed = client.predict("slow jaz, no drums, purple", api_name="/parse_prompt")
    assert parsed["request"] == {"genre": "Jazz", "tempo": 72.0, "without": ["drums"]}
    assert parsed["unmatched"] == ["purple"]


def test_generate_streams_bar_by_bar(events):
    for output in (0, 1):
        mine = [event for event in events if event["output"] == output]
        assert [event["bar"] for event in mine] == [1, 2, 3]
        assert [event["state"] for event in mine] == ["running", "running", "done"]
        (name, content), *_ = mine[-1]["files"].items()
        assert name == f"composer_jazz_3_{output + 1}.mid"
        score = Score.from_midi(base64.b64decode(content))
        assert score.note_num() == sum(len(event["new_notes"]) for event in mine)
        assert {track.program for track in score.tracks} == {0}
        assert mine[-1]["report"]["measured"]["bars"] == 3
    assert len({event["run_id"] for event in events}) == 1
    json.dumps(events)


def test_continue_and_render(client, events):
    midi = next(iter(events[-1]["files"].values()))
    continued = list(client.submit(midi, {"bars": 1, "seed": 1}, api_name="/continue_midi"))
    assert continued[-1]["state"] == "done"
    longer = base64.b64decode(next(iter(continued[-1]["files"].values())))
    assert Score.from_midi(longer).note_num() > Score.from_midi(base64.b64decode(midi)).note_num()
    if not client.predict(api_name="/describe")["audio"]:
        pytest.skip("WAV needs fluidsynth and a soundfont")
    data = base64.b64decode(client.predict(midi, api_name="/render_audio")["wav"])
    with wave.open(io.BytesIO(data)) as sound:
        assert any(sound.readframes(sound.getnframes()))
        assert sound.getnframes() / sound.getframerate() > 3


def test_regenerate_bars_and_export(client, make_score):
    midi = make_score(8, num_bars=4, programs=(0, -1), notes_per_bar=3).dumps_midi()
    encoded = base64.b64encode(midi).decode()
    *growing, last = client.submit(encoded, 2, 3, {"seed": 1}, api_name="/regenerate_bars")
    assert {event["bars_total"] for event in [*growing, last]} == {2}
    assert (last["state"], last["bar"]) == ("done", 2)
    score = Score.from_midi(base64.b64decode(next(iter(last["files"].values()))))
    assert score.note_num() == len(last["new_notes"])
    same = list(client.submit(encoded, 2, 3, {"seed": 1}, api_name="/regenerate_bars"))[-1]
    assert same["new_notes"] == last["new_notes"]
    longer = list(client.submit(encoded, {"bars": 1, "after_bar": 2, "seed": 1}, api_name="/continue_midi"))[-1]
    assert (
        max(note.time for track in Score.from_midi(file_of(longer)).to("quarter").tracks for note in track.notes) < 12
    )
    text = client.predict(encoded, "A title", api_name="/export_musicxml")["musicxml"]
    assert len(ET.fromstring(text).findall("part")) == 2


@pytest.mark.parametrize(
    ("endpoint", "arguments", "says"),
    [
        ("/generate", ("piano", {"bars": 64, "num_outputs": 4}), "exceeds the limit of 128 bars"),
        ("/generate", ("piano", {"colour": 1}), "Unknown settings: colour"),
        ("/generate", ("", {"genre": "jaz"}), "nearest: Jazz"),
        ("/generate", ("no piano", {"instruments": ["piano"]}), "contradict"),
        ("/generate", ("", {"bars": "x"}), "bars must be a whole number"),
        ("/continue_midi", ("hello", {}), "base64"),
        ("/continue_midi", (base64.b64encode(b"hello").decode(), {}), "could not be read as MIDI"),
        ("/parse_prompt", ("a" * 6000,), "limit is 5,000"),
        ("/generate", ("", [1]), "must be an object"),
        ("/generate", ("", {"seed": 1.5}), "seed must be a whole number"),
        ("/generate", ("", {"temperature": "hot"}), "temperature must be a number"),
        ("/generate", ("", {"instruments": "piano"}), "instruments must be a list"),
        ("/regenerate_bars", (PIECE, 0, 1, {}), "bars 1 to"),
        ("/regenerate_bars", (PIECE, 1, 9, {}), "bars 1 to"),
        ("/continue_midi", (PIECE, {"after_bar": 99}), "choose a bar"),
        ("/render_audio", ("A" * 3_000_000,), "too large"),
        ("/export_musicxml", (base64.b64encode(Score(480).dumps_midi()).decode(), "x"), "no notes"),
    ],
)
def test_refusals_are_sentences(client, endpoint, arguments, says):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=says) as caught:
        client.predict(*arguments, api_name=endpoint)
    assert "/" not in str(caught.value).replace("4/4", "")
