"""Grids of ones and zeros: cells by hand, agreement with ids, and back to MIDI."""

import numpy as np
import pytest
from symusic import Note, Score, TimeSignature, Track
from transformers import AutoProcessor

from partimento.tokenization import DenseVAEProcessor, MissingTrackError, MusicVAEProcessor
from partimento.tokenization.drum_classes import DRUM_CLASSES

KINDS = ("drums", "melody", "piano_roll")


def score_of(notes, is_drum=False, program=0, bars=1):
    """A score of (step, length in steps, pitch); a silent time signature at the end keeps its length."""
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, 4, 4))
    track = Track(program=program, is_drum=is_drum)
    track.notes.extend(Note(120 * start, 120 * length, pitch, 80) for start, length, pitch in notes)
    score.tracks.append(track)
    return score


def test_drums_are_one_cell_per_class():
    processor = DenseVAEProcessor("drums")
    found = processor.windows(score_of([(0, 1, 36), (0, 1, 42), (5, 1, 38), (15, 1, 51)], is_drum=True))
    names = list(DRUM_CLASSES)
    expected = np.zeros((1, 16, 9))
    for step, name in ((0, "kick"), (0, "closed_hat"), (5, "snare"), (15, "ride")):
        expected[0, step, names.index(name)] = 1
    assert np.array_equal(found.values, expected)
    assert found.values.dtype == np.uint8


def test_piano_roll_holds_what_sounds():
    processor = DenseVAEProcessor("piano_roll")
    score = score_of([(0, 4, 60), (2, 20, 64), (3, 1, 60), (30, 2, 20)])  # held over the bar line; one below the range
    found = processor.windows(score)
    assert found.values.shape == (2, 16, 88)
    assert found.report == {"notes_out_of_range": 1}
    c, e = 60 - 21, 64 - 21
    assert np.flatnonzero(found.values[0, :, c]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(found.values[0, :, e]).tolist() == list(range(2, 16))
    assert np.flatnonzero(found.values[1, :, e]).tolist() == list(range(6))
    assert found.values.sum() == 4 + 14 + 6
    assert processor.windows(score, min_onsets=1).report == {"notes_out_of_range": 1, "few_onsets": 1}


def test_melody_is_one_hot_of_the_ids(make_score):
    score = make_score(4, programs=(0,))
    ids = MusicVAEProcessor("melody", num_bars=1).windows(score).ids
    processor = DenseVAEProcessor("melody")
    found = processor.windows(score).values
    assert np.array_equal(found.argmax(-1), ids)
    assert (found.sum(-1) == 1).all()
    assert np.array_equal(processor.ids(found), ids)


@pytest.mark.parametrize("num_bars", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_grids_come_back_from_midi(kind, num_bars, sample_files):
    processor = DenseVAEProcessor(kind, num_bars)
    tried = 0
    for path in sample_files[:: max(1, len(sample_files) // 12)]:
        try:
            windows = processor.windows(path, hop=num_bars, min_onsets=1).values[:4]
        except ValueError:
            continue
        for values in windows:
            again = processor.windows(processor.decode(values)).values
            assert np.array_equal(again[0], values), path
            tried += 1
    assert tried > 5


@pytest.mark.parametrize("kind", KINDS)
def test_processor_survives_saving(tmp_path, kind):
    processor = DenseVAEProcessor(kind, 2, pitch_min=30, pitch_max=90)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, DenseVAEProcessor)
    assert loaded.vocab_hash == processor.vocab_hash != DenseVAEProcessor(kind).vocab_hash
    assert loaded.model_config_kwargs() == processor.model_config_kwargs()
    assert processor.model_config_kwargs()["input_shape"] == (32, {"drums": 9, "melody": 63, "piano_roll": 61}[kind])


def test_call_and_files(tmp_path, midi_files):
    processor = DenseVAEProcessor("drums")
    batch = processor(midi_files[:2], return_tensors="pt")["input_values"]
    assert batch.shape[1:] == (16, 9)
    path = processor.save_midi(batch[0], tmp_path / "bar.mid")
    assert np.array_equal(processor.windows(path).values[0], batch[0].numpy())
    assert len(processor.batch_decode(batch[:3])) == 3


def test_what_is_wrong_is_named(make_score):
    with pytest.raises(ValueError, match="drums, melody, piano_roll"):
        DenseVAEProcessor("guitar")
    with pytest.raises(ValueError, match="num_bars"):
        DenseVAEProcessor("drums", num_bars=0)
    with pytest.raises(MissingTrackError, match="only drums"):
        DenseVAEProcessor("piano_roll").windows(make_score(1, programs=(-1,)))
    with pytest.raises(ValueError, match=r"values must be \[steps, 9\], not \[16, 88\]"):
        DenseVAEProcessor("drums").decode(np.zeros((16, 88)))
