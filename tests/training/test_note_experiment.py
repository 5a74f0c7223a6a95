"""Note/duration melodies: names, normal order, types, decoding rules, measures by hand, and the whole command."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from symusic import Note, Score, Track

from partimento.training import note_experiment, note_models
from partimento.training.metrics.overfitting import best_correlation, correlation_table
from partimento.training.note_durations import (
    Event,
    decode,
    duration_type,
    encode,
    normal_order,
    note_name,
    note_pitch,
    read_events,
    roll,
    round_trip,
    save_midi,
)
from partimento.training.note_measures import measure_set
from partimento.training.note_models import FORMS

QUARTER = Fraction(1)


def test_names_of_all_pitches_come_back():
    assert [note_name(pitch) for pitch in (60, 54, 75, 12)] == ["C4", "F#3", "E-5", "C0"]
    assert [note_pitch(note_name(pitch)) for pitch in range(12, 128)] == list(range(12, 128))
    with pytest.raises(ValueError, match="have a name"):
        note_name(11)
    for word in ("H4", "C", "quarter", "Db4"):
        with pytest.raises(ValueError, match="no note"):
            note_pitch(word)


@pytest.mark.parametrize(
    ("pitches", "order"),
    [
        ((64, 67), (4, 7)),
        ((60, 64, 67), (0, 4, 7)),
        ((64, 67, 72), (0, 4, 7)),  # an inversion
        ((67, 71, 74, 77), (11, 2, 5, 7)),  # G7: B D F G spans 8 semitones, every other rotation more
        ((60, 64, 68), (0, 4, 8)),  # all rotations alike
        ((60, 67), (7, 0)),  # a fifth is a fourth
    ],
)
def test_normal_order(pitches, order):
    assert normal_order(pitches) == order


@pytest.mark.parametrize(
    ("quarters", "name"),
    [
        (Fraction(4), "whole"), (Fraction(3), "half"), (Fraction(3, 2), "quarter"), (Fraction(7, 4), "quarter"),
        (Fraction(1, 3), "eighth"), (Fraction(1, 4), "16th"), (Fraction(1, 512), "2048th"), (Fraction(0), "zero"),
        (Fraction(1, 513), "2048th"), (Fraction(5, 4), "quarter"), (Fraction(8), "breve"),
    ],
)  # fmt: skip
def test_types_of_durations(quarters, name):
    assert duration_type(quarters) == name


def test_decoding_rules():
    tokens = ["C4", "half", "eighth", "4.7", "E-5", "16th", "G4"]
    assert decode(tokens) == [
        Event(Fraction(0), Fraction(2), (60,)),  # the second duration is left out
        Event(Fraction(2), QUARTER, (64, 67)),  # without a duration: a quarter
        Event(Fraction(3), Fraction(1, 4), (75,)),
        Event(Fraction(13, 4), QUARTER, (67,)),
    ]
    assert decode(["C4", "E4"], missing_duration="eighth")[1].onset == Fraction(1, 2)
    assert decode(["half"]) == []
    assert encode([Event(Fraction(0), QUARTER, (60, 72)), Event(QUARTER, QUARTER, (60, 64))]) == [
        *("C4", "quarter"), *("0.4", "quarter")
    ]  # fmt: skip


def test_a_file_is_read_on_the_grid_and_losses_are_counted(tmp_path):
    score, track = Score(480), Track()
    for onset, length, pitch in ((0, 481, 60), (479, 160, 64), (640, 158, 67), (641, 160, 71), (1920, 720, 60)):
        track.notes.append(Note(onset, length, pitch, 90))
    drums = Track(is_drum=True)
    drums.notes.append(Note(0, 100, 36, 90))
    score.tracks.extend([drums, track])
    score.dump_midi(str(tmp_path / "piece.mid"))
    events = read_events(tmp_path / "piece.mid")
    third = Fraction(1, 3)
    assert events == [
        Event(Fraction(0), QUARTER, (60,)), Event(QUARTER, third, (64,)), Event(4 * third, third, (67, 71)),
        Event(Fraction(4), Fraction(3, 2), (60,)),
    ]  # fmt: skip
    found = round_trip(events)
    assert (found["events"], found["pitches_kept"], found["durations_kept"]) == (4, 1.0, 0.25)  # tuplets, dot: lost
    assert found["length"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 5.5)
    save_midi(decode(encode(events)), tmp_path / "out.mid")
    assert [event.pitches for event in read_events(tmp_path / "out.mid")] == [(60,), (64,), (67, 71), (60,)]
    score.tracks = score.tracks[:1]
    score.dump_midi(str(tmp_path / "drums.mid"))
    with pytest.raises(ValueError, match="no part with pitches"):
        read_events(tmp_path / "drums.mid")


def test_measures_of_a_melody_by_hand():
    symbols = ("C4", "D4", "quarter", "half")
    period = np.array([0, 2, 1, 2] * 10)
    found = measure_set([period], [period[:7], np.array([3, 0, 2, 1])], symbols)
    assert found["entropy"] == pytest.approx(1.5 / 2)  # quarter half of the time, the notes a quarter each; log2 4 = 2
    assert found["conditional"][0] == pytest.approx(0.5 * 0.5, abs=0.01)  # behind `quarter` both notes are as likely
    assert found["conditional"][1] == pytest.approx(0.0, abs=1e-9)  # two tokens say all
    assert (found["alternation"], found["copied_longest"]) == (1.0, 7)


def test_correlation_finds_an_excerpt_and_its_transposition():
    rng = np.random.default_rng(0)
    pieces = [np.zeros((300, 128), np.float32) for _ in range(3)]
    for piece in pieces:
        piece[:, 60:80] = rng.random((300, 20)) < 0.1
    excerpt = pieces[1][40:296]
    assert best_correlation(excerpt, pieces) == pytest.approx(1.0, abs=1e-4)
    assert best_correlation(excerpt, [pieces[0], pieces[2]]) < 0.2
    moved = np.roll(excerpt, 4, axis=1)
    assert best_correlation(moved, pieces) > 0.9
    table = correlation_table(pieces, pieces[:1], {"copy": [excerpt], "new": [pieces[0][::-1]]})
    assert table["sets"]["training, with itself"]["mean"] == pytest.approx(1.0, abs=1e-4)
    assert table["sets"]["training, with the others"]["highest"] < 0.2
    assert table["sets"]["copy"]["mean"] == pytest.approx(1.0, abs=1e-4)
    assert table["sets"]["new"]["highest"] < 0.2
    assert roll([Event(Fraction(1, 2), Fraction(1, 4), (60,))])[:, 60].tolist() == [0, 0, 1, 0]


def test_the_command_reports_all_marks_and_goes_on(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(1)
    for number in range(3):
        pitches = rng.integers(60, 66, 40)
        save_midi(
            [Event(Fraction(i), QUARTER, (int(p),)) for i, p in enumerate(pitches)], tmp_path / f"midi/{number}.mid"
        )
    output = tmp_path / "out"
    options = ["--midi", str(tmp_path / "midi"), "--hidden", "6", "8", "--epochs", "1", "3", "--stride", "5"]
    options += ["--melodies", "2", "--tokens", "20", "--correlate", "2", "-o", str(output)]

    def interrupted(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(note_models.NoteRun, "write_melodies", interrupted)
        with pytest.raises(KeyboardInterrupt):
            note_experiment.main(options)
    assert (output / "runs" / "hidden-6.pt").is_file()
    assert note_experiment.main(options) == 0
    report = json.loads((output / "report.json").read_text())
    assert list(report["sets"]) == [
        "training", "held-out", *(f"{h} units, epoch {e}" for h in (6, 8) for e in (1, 3))
    ]  # fmt: skip
    assert report["sets"]["training"]["copied_longest"] >= 20
    assert all(0 <= found["entropy"] <= 1 for found in report["sets"].values())
    assert {name: len(run["losses"]) for name, run in report["runs"].items()} == {"6 units": 3, "8 units": 3}
    assert report["correlation"]["sets"]["training, with itself"]["mean"] == pytest.approx(1.0, abs=1e-3)
    text = (output / "report.md").read_text()
    assert "published 0.2210" in text
    assert "Entropy falls with the epochs, 8 units" in text
    assert (output / "plot.png").is_file()
    assert read_events(output / "hidden-8-epoch-3.mid")
    before = (output / "runs" / "hidden-6-epoch-3.json").read_text()
    assert note_experiment.main(options) == 0
    assert (output / "runs" / "hidden-6-epoch-3.json").read_text() == before
    capsys.readouterr()
    assert note_experiment.main([*options, "--feedback", "soft"]) == 2
    assert "differ in feedback" in capsys.readouterr().err


def test_soft_feedback_writes_other_melodies(tmp_path):
    melodies = note_models.Melodies(("C4", "D4", "half", "quarter"), [np.array([0, 2, 1, 3] * 30)], [], {})
    drawn = {}
    for feedback in ("sample", "soft"):
        settings = note_models.NoteSettings(stride=5, feedback=feedback)
        run = note_models.NoteRun(8, settings, melodies, tmp_path)
        drawn[feedback] = run.write_melodies(3, 30)
        assert [len(ids) for ids in drawn[feedback]] == [30] * 3
    assert drawn["sample"] != drawn["soft"]


def joined(form, folder, training=(0, 2, 1, 3), **settings):
    melodies = note_models.Melodies(
        ("C4", "D4", "half", "quarter"), [np.array([*training] * 40)], [np.array([*training] * 5)], {}
    )
    settings = note_models.NoteSettings(stride=10, dropout=0.0, learning_rate=0.05, **settings)
    return FORMS[form](8, settings, melodies, folder)


@pytest.mark.parametrize("form", ["fused_two_hot", "two_heads"])
def test_joined_forms_learn_pairs(form, tmp_path):
    run = joined(form, tmp_path)
    assert run.windows.shape[1:] == (26, 2)
    assert run.windows[0, 0].tolist() == [0, 2]
    assert run.vectors(run.windows[0, :1]).tolist() == [[1, 0, 1, 0]]
    run.train_to(12, 100, Progress())
    nats = run.held_out_nats()
    written = np.array(run.write_melodies(4, 41))
    assert written.shape == (4, 41)
    pairs = written[:, 2:40].reshape(-1, 2)  # behind the first pair, which was given
    if form == "two_heads":  # the tune alternates: all is known
        assert nats < 0.1
        assert np.mean([pair in ([0, 2], [1, 3]) for pair in pairs.tolist()]) > 0.9
    else:  # known which note and which duration, but two draws of one softmax find both only half of the time
        assert nats == pytest.approx(math.log(2), abs=0.1)
        assert 0.3 < np.mean([sorted(pair) in ([0, 2], [1, 3]) for pair in pairs.tolist()]) < 0.7
    again = joined(form, tmp_path)
    assert again.losses == run.losses
    assert again.held_out_nats() == pytest.approx(nats)


def test_fused_likelihood_is_that_of_two_draws(tmp_path):
    run = joined("fused_two_hot", tmp_path)
    logits = torch.tensor([0.1, 0.5, -0.2, 0.3])
    p = logits.softmax(0)
    assert run.pair_nats(logits, torch.tensor([1, 2])).item() == pytest.approx(-math.log(2 * p[1] * p[2]))
    heads = joined("two_heads", tmp_path)
    shares = heads.log_probabilities(logits).exp()
    assert (shares[:2].sum().item(), shares[2:].sum().item()) == pytest.approx((1, 1))
    assert (shares[0] / shares[1]).item() == pytest.approx((p[0] / p[1]).item())


def test_the_report_sets_joined_forms_beside_the_series(tmp_path):
    for number in range(2):
        events = [Event(Fraction(i), QUARTER * (1 + i % 2), (60 + i % 3,)) for i in range(40)]
        save_midi(events, tmp_path / f"midi/{number}.mid")
    options = ["--midi", str(tmp_path / "midi"), "--hidden", "6", "--epochs", "1", "--stride", "5", "--melodies", "2"]
    options += ["--tokens", "20", "--correlate", "0", "--forms", "series", "fused_two_hot", "two_heads"]
    assert note_experiment.main([*options, "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["form"] for run in report["runs"].values()] == ["series", "fused_two_hot", "two_heads"]
    assert all(run["held_out_nats"] > 0 for run in report["runs"].values())
    text = (tmp_path / "out" / "report.md").read_text()
    assert "6 units, two_heads: joining note and duration works worse" in text
    assert (tmp_path / "out" / "fused_two_hot-hidden-6-epoch-1.mid").is_file()


class Progress:
    """Where a progress bar is asked for."""

    def update(self, *_):
        pass

    set_postfix_str = update
