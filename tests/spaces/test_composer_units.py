"""The parts of the Composer Space that need no browser and no Gradio: versions, files, limits, error sentences."""

import io
import re
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from symusic import Score, Tempo

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "composer"
if not SPACE.is_dir():
    pytest.skip("runs outside the checkout: spaces/ is not there", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def space_on_path():
    """As when app.py is started: its folder comes first."""
    sys.path.insert(0, str(SPACE))
    yield
    sys.path.remove(str(SPACE))


@pytest.fixture(scope="module")
def composer():
    from composer_engine import load_composer

    composer, banner = load_composer()
    assert "museformer-small" in banner
    return composer


def version(session, **facts):
    needed = {
        "action": "generated", "prompt": "", "request": {}, "seed": 1, "model": "m", "midi": [b""], "bars": [[[]]],
        "measured": [{}], "seconds": 1.0, "complete": True, "transposed": [0],
    }  # fmt: skip
    return session.add(**(needed | facts))


def test_undo_redo_and_the_twenty_versions():
    from composer_sessions import MAX_VERSIONS, Session

    session = Session()
    session.undo()
    session.redo()
    assert session.shown is None
    first, second = version(session), version(session)
    assert second.parent == first.number
    session.undo()
    assert session.shown is first
    session.undo()
    assert session.shown is first
    third = version(session)
    session.undo()
    session.redo()
    assert session.shown is third
    session.pin()
    for _ in range(30):
        version(session)
    assert len(session.versions) == MAX_VERSIONS
    assert third.number in session.versions, "pinned"
    assert second.number not in session.versions
    assert session.shown.number == session.made


def test_an_opened_file_keeps_its_tempo(composer, make_score):
    score = make_score(4, num_bars=4)
    score.tempos = [Tempo(0, 120)]
    opened = composer.open(score.dumps_midi())
    assert "at 120 bpm" in opened.facts
    assert opened.measured["tempo"] == 120
    for midi in (opened.midi, composer.excerpt(opened.midi, 2, 3).midi):
        assert [tempo.qpm for tempo in Score.from_midi(midi).tempos] == [120]
    stop = threading.Event()
    for runs in (
        composer.proceed(opened.midi, {"bars": 1, "num_outputs": 1, "seed": 1}, stop),
        composer.rewrite(opened.midi, 2, 2, {"seed": 1}, threading.Event()),
    ):
        (piece,) = list(runs)[-1].pieces
        assert [tempo.qpm for tempo in piece.score.tempos] == [120]


def test_an_excerpt_keeps_the_notes_of_its_bars(composer, make_score):
    midi = make_score(4, num_bars=6, programs=(0, 33, -1), notes_per_bar=5).dumps_midi()
    whole = composer.open(midi)
    shifted = [[[p, pitch, round(start - 8, 4), v] for p, pitch, start, _, v in bar] for bar in whole.bars[2:5]]
    part = composer.excerpt(midi, 3, 5)
    assert [[[p, pitch, start, v] for p, pitch, start, _, v in bar] for bar in part.bars] == shifted
    assert max(start + length for bar in part.bars for _, _, start, length, _ in bar) <= 12
    tempos = [tempo.qpm for tempo in Score.from_midi(whole.midi).to("quarter").tempos if tempo.time <= 8]
    assert Score.from_midi(part.midi).tempos[0].qpm == pytest.approx(tempos[-1])
    drums = composer.excerpt(midi, 3, 5, ["drums"])
    assert [note[:3] for bar in drums.bars for note in bar] == [
        note[:3] for bar in shifted for note in bar if note[0] == -1
    ]
    for first, last, tracks, says in (
        (0, 2, [], "bars 1 to 6"),
        (3, 7, [], "bars 1 to 6"),
        (1, 6, ["organ"], "no notes"),
        (1, 6, ["oboa"], "nearest"),
    ):
        with pytest.raises(ValueError, match=says):
            composer.excerpt(midi, first, last, tracks)


def test_a_copy_and_two_versions_in_turn():
    from composer_sessions import Session

    session = Session()
    assert not session.swap()
    session.duplicate()
    assert session.shown is None
    first = version(session)
    assert not session.swap()
    session.duplicate()
    copy = session.shown
    assert (copy.parent, copy.midi, copy.action) == (first.number, first.midi, f"copy of {first.number}")
    copy.midi.append(b"another")
    assert len(first.midi) == 1, "what is done to the copy does not reach the first"
    for shown in (first, copy, first):
        assert session.swap()
        assert session.shown is shown


@pytest.mark.parametrize(
    ("genre", "name"),
    [("Pop-Rock", "composer_pop-rock_7_1.mid"), (None, "composer_any_7_1.mid"), ("../x y", "composer_x-y_7_1.mid")],
)
def test_file_names(genre, name):
    from composer_files import file_name

    assert file_name(genre, 7, 1, "mid") == name


def test_stems_hold_each_track_once(make_score):
    from composer_files import stems

    score = make_score(1, programs=(0, 33, -1))
    midi = score.dumps_midi()
    with zipfile.ZipFile(io.BytesIO(stems(midi, "piece"))) as archive:
        parts = [Score.from_midi(archive.read(name)) for name in archive.namelist()]
    assert len(parts) == 3
    assert sum(part.note_num() for part in parts) == Score.from_midi(midi).note_num()
    assert all(len(part.tempos) == len(Score.from_midi(midi).tempos) for part in parts)


def test_notes_come_bar_by_bar_and_are_the_piece(composer):
    import threading

    from composer_engine import notes_by_bar

    runs = []
    for run in composer.compose({"bars": 3, "num_outputs": 1, "seed": 1}, threading.Event()):
        runs.append((len(run.bars[0]), [list(bar) for bar in run.bars[0]]))
    piece = run.pieces[0]
    assert [count for count, _ in runs] == sorted(count for count, _ in runs)
    assert runs[-1][0] == 3
    assert runs[-1][1] == notes_by_bar(piece.score, 3)
    assert sum(map(len, runs[-1][1])) == piece.score.note_num()


def test_the_growing_roll_lies_where_the_finished_piece_will(composer):
    """The notes so far are drawn moved by what the finished piece would be moved by; at the end that is the same."""
    import threading

    from composer_engine import shift_towards

    request = {"bars": 4, "num_outputs": 1, "seed": 2, "key": "E-minor", "instruments": ["piano", "bass"]}
    *_, last = composer.compose(request, threading.Event())
    piece = last.pieces[0]
    as_written = [[[p, pitch - piece.transposed, *rest] for p, pitch, *rest in bar] for bar in last.bars[0]]
    assert shift_towards(as_written, "E-minor") == piece.transposed
    assert shift_towards(as_written, None) == 0
    assert shift_towards([[[-1, 36, 0.0, 0.25, 80]]], "E-minor") == 0, "drums have no key"


def test_rewriting_changes_one_range_and_stopping_nothing(composer, make_score):
    import threading

    from composer_engine import RequestError, notes_by_bar

    midi = make_score(4, num_bars=4, programs=(0, -1), notes_per_bar=3).dumps_midi()
    before = composer.open(midi)
    *growing, last = composer.rewrite(midi, 2, 2, {"seed": 1, "candidates": 2}, threading.Event())
    assert [bar for index, bar in enumerate(last.bars[0]) if index != 1] == [before.bars[0], *before.bars[2:]]
    assert last.bars[0][1] != before.bars[1]
    assert all(run.kind == "Candidate" and run.total == 1 for run in growing)
    assert last.bars[0] == notes_by_bar(last.pieces[0].score, 4)
    stop = threading.Event()
    stop.set()
    with pytest.raises(RequestError, match="as they were"):
        list(composer.rewrite(midi, 2, 2, {"seed": 1}, stop))
    with pytest.raises(RequestError, match="bars 1 to 4"):
        list(composer.rewrite(midi, 3, 5, {}, threading.Event()))


def test_an_opened_file_says_what_it_is(composer, make_score):
    opened = composer.open(make_score(4, num_bars=3, programs=(0, -1)).dumps_midi())
    assert opened.facts.startswith("3 bars in 4/4")
    assert "Acoustic Grand Piano, Drums" in opened.facts
    assert sum(map(len, opened.bars)) == Score.from_midi(opened.midi).note_num()
    assert composer.open(opened.midi).bars == opened.bars, "opening what was opened changes nothing"


def test_files_on_the_shelf_are_found_by_their_name_alone_and_go():
    from composer_components import Shelf
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    shelf = Shelf(max_bytes=100)
    client = TestClient(Starlette(routes=shelf.routes()))
    first = shelf.put("a.wav", "audio/wav", b"x" * 80)
    answer = client.get(f"/{first}")
    assert answer.content == b"x" * 80
    assert answer.headers["content-disposition"] == 'attachment; filename="a.wav"'
    assert len(first.split("/")[1]) >= 32
    second = shelf.put("b.wav", "audio/wav", b"y" * 80)
    assert client.get(f"/{first}").status_code == 404, "no room for both"
    assert client.get(f"/{second}").status_code == 200
    shelf.max_seconds = 0
    assert client.get(f"/{second}").status_code == 404
    assert client.get("/composer-static/vendor/midi-player.min.js").status_code == 200
    assert client.get("/composer-static/../app.py").status_code == 404


def test_fuzzed_uploads_are_read_or_refused_in_a_sentence(composer, make_score):
    """Bytes of a real file flipped and cut: either a piece or a sentence without path or name of a class."""
    import random

    from composer_engine import RequestError

    def refusal(data: bytes) -> str | None:
        try:
            composer.open(data)
        except RequestError as error:
            return str(error)
        return None

    whole, chance, said = make_score(6, num_bars=3).dumps_midi(), random.Random(0), []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 4, 40))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        said.append(refusal(bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data)))
    sentences = {text for text in said if text}
    assert None in said
    assert sentences
    for text in sentences:
        assert not re.search(r"/(?!\d)|Error|Traceback", text), text


def test_a_reader_that_leaves_stops_the_model(composer):
    import threading

    stop = threading.Event()
    running = composer.compose({"bars": 60, "num_outputs": 1, "seed": 1}, stop)
    next(running)
    running.close()
    assert stop.is_set()
    assert composer.worker.submit(lambda: "free").result(timeout=60) == "free", "the model's thread has ended its work"


def test_limits_and_sentences(composer, make_score):
    import threading

    from composer_engine import MAX_UPLOAD_BYTES, RequestError

    def refusal(midi=None, **request):
        request, stop = {"bars": 8, "num_outputs": 1} | request, threading.Event()
        running = composer.compose(request, stop) if midi is None else composer.proceed(midi, request, stop)
        with pytest.raises(RequestError) as caught:
            list(running)
        return str(caught.value)

    assert refusal(bars=64, num_outputs=4) == "64 bars × 4 outputs exceeds the limit of 128 bars."
    assert refusal(b"hello").startswith("This file could not be read as MIDI.")
    assert refusal(Score(480).dumps_midi()) == "This MIDI contains no notes."
    assert "limit is 2,000,000" in refusal(b"x" * (MAX_UPLOAD_BYTES + 1))
    waltz = make_score(1, time_signatures=((0, 3, 4),)).dumps_midi()
    assert "4/4" in refusal(waltz)
    many = make_score(2, num_bars=200, programs=(0,) * 8, notes_per_bar=20).dumps_midi()
    assert "the limit is 20,000" in refusal(many)
    assert refusal(tempo=900) == "Tempo=900 is out of range; choose 24 to 200 beats per minute."
