"""The named endpoints of the Composer Space through gradio_client."""

import base64
import io
import json
import wave

import pytest
from symusic import Score

pytestmark = pytest.mark.slow


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
    assert set(named) == {"/describe", "/parse_prompt", "/generate", "/continue_midi", "/render_audio"}
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


@pytest.mark.parametrize(
    ("endpoint", "arguments", "says"),
    [
        ("/generate", ("piano", {"bars": 64, "num_outputs": 4}), "exceeds the limit of 128 bars"),
        ("/generate", ("piano", {"colour": 1}), "Unknown settings: colour"),
        ("/generate", ("", {"genre": "jaz"}), "nearest: Jazz"),
        ("/generate", ("no piano", {"instruments": ["piano"]}), "contradict"),
        ("/generate", ("", {"bars": "x"}), "whole numbers"),
        ("/continue_midi", ("hello", {}), "base64"),
        ("/continue_midi", (base64.b64encode(b"hello").decode(), {}), "could not be read as MIDI"),
        ("/parse_prompt", ("a" * 3000,), "limit is 2,000"),
    ],
)
def test_refusals_are_sentences(client, endpoint, arguments, says):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=says) as caught:
        client.predict(*arguments, api_name=endpoint)
    assert "/" not in str(caught.value).replace("4/4", "")
