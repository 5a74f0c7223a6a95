"""The comparison without a page: equal bars, measures that agree with the evaluation's, and columns that fail alone."""

import io
import json
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from symusic import Score

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "composer"
if not SPACE.is_dir():
    pytest.skip("runs outside the checkout: spaces/ is not there", allow_module_level=True)


@pytest.fixture(scope="module")
def comparer(small_models):
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "path", [str(SPACE), *sys.path])
    for name, value in small_models.items():
        patch.setenv(name, value)
    from composer_compare import Comparer
    from composer_engine import load_composer

    yield Comparer(load_composer()[0])
    patch.undo()


def run(comparer, primer=None, primer_bars=2, bars=2, temperature=1.0, seed=1, blind=False, stop=None):
    return list(comparer.run(primer, primer_bars, bars, temperature, seed, blind, stop or threading.Event()))[-1]


def test_all_write_the_same_bars_behind_the_same_primer(comparer, make_score):
    midi = make_score(2, num_bars=4, programs=(0, -1), notes_per_bar=4).dumps_midi()
    done = run(comparer, midi, primer_bars=3)
    assert [column.error for column in done.columns] == ["", "", ""]
    heads = [column.bars[:3] for column in done.columns]
    assert heads[0] == heads[1] == heads[2]
    for column in done.columns:
        score = Score.from_midi(column.midi)
        assert score.note_num() == sum(map(len, column.bars))
        assert len(column.bars) == 5
        assert {round(tempo.qpm, 1) for tempo in score.tempos} == {round(done.tempo, 1)}
    assert done.columns[1].what.startswith("varies bars 2 to 3")


def test_without_a_primer_and_the_same_seed_again(comparer):
    from composer_compare import archive

    first, again = run(comparer), run(comparer)
    assert [column.midi for column in first.columns] == [column.midi for column in again.columns]
    assert first.columns[0].midi != run(comparer, seed=2).columns[0].midi
    with zipfile.ZipFile(io.BytesIO(archive(first))) as packed:
        assert len(packed.namelist()) == 4
        assert json.loads(packed.read("settings.json"))["seed"] == 1


def test_blind_mode_shuffles_by_seed_and_hides_names(comparer):
    orders = {
        tuple(column.title for column in run(comparer, blind=True, bars=1, seed=seed).columns) for seed in range(3)
    }
    assert len(orders) > 1
    assert run(comparer, blind=True, bars=1).label(0) == "Piece A"


def test_a_model_that_fails_leaves_the_others(comparer, monkeypatch):
    monkeypatch.setattr(comparer, "loaded", {})
    monkeypatch.setenv("COMPARE_MUSICVAE", "no-such-model")
    done = run(comparer, bars=1)
    assert [bool(column.midi) for column in done.columns] == [True, False, True]
    assert done.columns[1].error == "The model of this column could not be loaded (COMPARE_MUSICVAE)."

    def broken(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(comparer, "_load", lambda title: comparer.composer.generator)
    monkeypatch.setattr(comparer, "_vary", broken)
    done = run(comparer, bars=1)
    assert done.columns[1].error == "Something went wrong on our side. Please try again."
    assert done.columns[2].midi


def test_stop_and_limits(comparer):
    from composer_engine import RequestError

    stop = threading.Event()
    stop.set()
    assert [column.error for column in run(comparer, stop=stop).columns] == ["Stopped."] * 3
    for wrong in ({"bars": 17}, {"bars": 0}, {"seed": -2}, {"primer_bars": 0}):
        with pytest.raises(RequestError):
            run(comparer, **wrong)


def test_measures_agree_with_the_evaluation(comparer, make_score):
    from composer_compare import measures
    from composer_engine import notes_by_bar

    from partimento.training.metrics.descriptors import groove_consistency, pitch_class_entropy
    from partimento.training.metrics.notes import Notes

    processor = comparer.composer.processor
    piece = processor.load_piece(make_score(3, num_bars=6))
    found = measures(notes_by_bar(piece.to_score(), piece.num_bars))
    notes = Notes.from_piece(piece)
    assert found["pitch-class entropy (bits)"] == pytest.approx(pitch_class_entropy(notes))
    assert found["groove consistency"] == pytest.approx(groove_consistency(notes))
    assert found["notes per bar"] == pytest.approx(piece.num_notes / piece.num_bars)
    assert measures([[]]) == {"notes per bar": 0, "pitch-class entropy (bits)": None, "groove consistency": None}
