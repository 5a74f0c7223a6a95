"""The named endpoints of the Loops Space through gradio_client."""

import base64
import io
import json

import pytest
from symusic import Note, Score, Track

pytestmark = pytest.mark.slow


def piece(bars=4) -> str:
    """Quarters of a flute in base64."""
    score, track = Score(480), Track(program=73)
    for beat in range(4 * bars):
        track.notes.append(Note(480 * beat, 480, 60 + beat % 9, 80))
    score.tracks.append(track)
    return base64.b64encode(score.dumps_midi()).decode()


PIECE = piece()
Z = [0.0] * 8


@pytest.fixture(scope="module")
def client(loops_url):
    from gradio_client import Client

    return Client(loops_url, verbose=False)


@pytest.fixture(scope="module")
def encoded(client):
    return client.predict(PIECE, {"bar": 3}, api_name="/encode")


def test_describe_and_endpoints(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {
        "/describe", "/encode", "/decode", "/sample", "/interpolate", "/similar", "/attribute",
    }  # fmt: skip
    facts = client.predict(api_name="/describe")
    assert [model["name"] for model in facts["models"]] == ["mel", "drums", "trio", "mel-16bar", "trio-16bar"]
    assert facts["models"][0]["z_size"] == 8
    assert len({model["fingerprint"] for model in facts["models"]}) == 5
    assert [model["bars"] for model in facts["models"]] == [2, 2, 2, 16, 16]
    assert "/tmp" not in json.dumps(facts)


def test_encode_then_decode(client, encoded):
    assert encoded["remarks"][0].startswith("bars 3-4 of 4")
    assert [note[1] for note in encoded["original"]["notes"]] == [60 + beat % 9 for beat in range(8, 16)]
    one, *rest = client.predict(encoded["z"], {"tempo": 90}, api_name="/decode")
    assert not rest
    assert one["z"] == encoded["z"]
    score = Score.from_midi(base64.b64decode(one["midi"]))
    assert score.note_num() == one["num_notes"] == len(one["notes"])
    assert score.tempos[0].qpm == pytest.approx(90, abs=0.01)
    many = client.predict([encoded["z"], Z], {}, api_name="/decode")
    assert many[0]["notes"] == one["notes"]
    drums = client.predict(Z, {"model": "drums"}, api_name="/decode")[0]
    assert {note[0] for note in drums["notes"]} <= {-1}


def test_walks(client, encoded):
    path = client.predict(encoded["z"], Z, 5, "linear", {}, api_name="/interpolate")
    assert len(path) == 5
    assert (path[0]["z"], path[-1]["z"]) == (encoded["z"], Z)
    assert path[2]["z"] == pytest.approx([value / 2 for value in encoded["z"]], abs=1e-6)
    for endpoint, arguments in (
        ("/sample", (2, {"seed": 5})),
        ("/similar", (encoded["z"], 2, 0.7, {"seed": 5})),
    ):
        first, again = (client.predict(*arguments, api_name=endpoint) for _ in range(2))
        assert len(first) == 2
        assert first == again
        assert first[0]["seed"] == 5
    same = client.predict(encoded["z"], 1, 1.0, {}, api_name="/similar")[0]
    assert same["z"] == encoded["z"]
    name = client.predict(api_name="/describe")["models"][0]["attributes"][0]
    moved = client.predict(encoded["z"], {name: 1.5}, {}, api_name="/attribute")[0]["z"]
    changed = [after - before for after, before in zip(moved, encoded["z"])]
    assert sorted(changed) == pytest.approx([0] * 7 + [1.5], abs=1e-5), "the vector of the test model is a unit vector"


@pytest.mark.parametrize(
    ("endpoint", "arguments", "says"),
    [
        ("/encode", ("hello", {}), "base64"),
        ("/encode", (base64.b64encode(b"hello").decode(), {}), "could not be read as MIDI"),
        ("/encode", (base64.b64encode(Score(480).dumps_midi()).decode(), {}), "no notes"),
        ("/encode", (PIECE, {"bar": 9}), "whole number from 1 to 4"),
        ("/encode", (PIECE, {"bar": "x"}), "whole number from 1 to 4"),
        ("/encode", (PIECE, {"track": "oboe"}), "Choose among: 1 "),
        ("/encode", (PIECE, {"colour": 1}), "Unknown settings: colour"),
        ("/encode", ("A" * 3_000_000, {}), "too large"),
        ("/decode", ([0.0] * 3, {}), "must be 8 numbers"),
        ("/decode", (["x"] * 8, {}), "must be 8 numbers"),
        ("/decode", ([1e300] * 8, {}), "not finite"),
        ("/decode", ([Z] * 33, {}), "at most 32"),
        ("/decode", ([], {}), "must be 8 numbers"),
        ("/decode", (Z, {"temperature": "hot"}), "Choose a temperature"),
        ("/decode", (Z, {"tempo": "fast"}), "Choose a tempo"),
        ("/decode", (Z, {"model": "other"}), "no such model"),
        ("/decode", (Z, [1]), "must be an object"),
        ("/sample", (0, {}), "whole number from 1 to 16"),
        ("/interpolate", (Z, Z, 2.5, "linear", {}), "whole number from 2 to 32"),
        ("/interpolate", (Z, Z, 999, "linear", {}), "whole number from 2 to 32"),
        ("/interpolate", (Z, Z, 4, "cubic", {}), "linear, slerp"),
        ("/similar", (Z, 4, 2.0, {}), "similarity from 0 to 1"),
        ("/attribute", (Z, {"colour": 1.0}, {}), "unknown"),
        ("/attribute", (Z, {}, {}), "must be an object"),
        ("/sample", (1, {"seed": "x"}), "Choose a seed"),
    ],
)
def test_refusals_are_sentences(client, endpoint, arguments, says):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=says) as caught:
        client.predict(*arguments, api_name=endpoint)
    assert "/" not in str(caught.value).replace("4/4", "")
    assert "Traceback" not in str(caught.value)


def test_midi_of_a_path_parses(client):
    """Each loop is a file of its own, silent ones too."""
    for loop in client.predict(Z, [1.0] * 8, 3, "slerp", {}, api_name="/interpolate"):
        data = base64.b64decode(loop["midi"])
        assert io.BytesIO(data).read(4) == b"MThd"
        assert Score.from_midi(data).note_num() == loop["num_notes"]
