"""The parts of the Composer Space that need no browser and no Gradio: versions, files, limits, error sentences."""

import io
import sys
import zipfile
from pathlib import Path

import pytest
from symusic import Score

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
        "measured": [{}], "seconds": 1.0, "complete": True,
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
    for _ in range(30):
        version(session)
    assert len(session.versions) == MAX_VERSIONS


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


def test_a_reader_that_leaves_stops_the_model(composer):
    import threading

    stop = threading.Event()
    running = composer.compose({"bars": 60, "num_outputs": 1, "seed": 1}, stop)
    next(running)
    running.close()
    assert stop.is_set()
    assert composer.model_lock.acquire(timeout=30), "the thread has ended"
    composer.model_lock.release()


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
