"""Raw audio: files, rendering, classes, values and spectra round and round, figures of tones and noise, the command."""

import json
import wave

import numpy as np
import pytest
import torch
from symusic import Note, Score, Tempo, Track

from partimento.training import audio_experiment
from partimento.training.audio_experiment import AudioRun, AudioSettings
from partimento.training.audio_report import describe_signal, verdict
from partimento.training.audio_signals import (
    Classes,
    Vectors,
    peak_autocorrelation,
    read_wav,
    render_midi,
    spectral_flatness,
    strongest_frequency,
    synthesise,
    trim,
    write_wav,
)

RATE = 8000


def two_tones(seconds=1.0):
    time = np.arange(int(seconds * RATE)) / RATE
    return np.rint(6000 * np.sin(2 * np.pi * 440 * time) + 3000 * np.sin(2 * np.pi * 660 * time)).astype(np.int64)


def test_wav_out_and_in(tmp_path):
    values = two_tones(0.1)
    write_wav(values, RATE, tmp_path / "a.wav")
    found, rate = read_wav(tmp_path / "a.wav")
    assert rate == RATE
    assert np.array_equal(found, values)
    write_wav(np.array([40_000, -40_000, 0.6]), RATE, tmp_path / "b.wav")
    assert read_wav(tmp_path / "b.wav")[0].tolist() == [32767, -32768, 1]
    with wave.open(str(tmp_path / "stereo.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.array([[1, 9], [2, 9]], "<i2").tobytes())
    assert read_wav(tmp_path / "stereo.wav")[0].tolist() == [1, 2]  # the first channel
    (tmp_path / "c.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="16 bits"):
        read_wav(tmp_path / "c.wav")


def test_trimming_and_classes():
    values = np.array([0, 299, -299, 300, 0, -650, 299, 0])
    assert trim(values).tolist() == [300, 0, -650]  # inner silence stays
    with pytest.raises(ValueError, match="silent"):
        trim(np.array([10, -10]))
    classes = Classes.of(np.array([-650, 0, 300, 950]))
    assert (classes.lowest, classes.count) == (-2, 6)  # -2 ... 3
    assert classes.encode(np.array([-650, -299, 299, 300, 2000])).tolist() == [0, 2, 2, 3, 5]  # towards zero; cut
    values = two_tones()
    classes = Classes.of(values)
    error = np.abs(classes.decode(classes.encode(values)) - values)
    assert error.max() < 300
    assert classes.encode(values).max() == classes.count - 1


@pytest.mark.parametrize("block", [0, 64])
def test_vectors_come_back(block):
    values = two_tones(0.2)
    vectors = Vectors.of(values, block)
    steps = vectors.encode(values)
    assert steps.shape == ((len(values), 1) if not block else (len(values) // 64, 66))
    assert np.abs(steps.mean(0)).max() < 1e-3
    back = vectors.decode(steps.astype(np.float64))
    assert np.abs(back - values[: len(back)]).max() < 0.5
    assert len(values) - len(back) < max(1, block)


def test_figures_of_tones_and_noise():
    tones, noise = two_tones(), np.random.default_rng(0).normal(0, 3000, RATE)
    assert spectral_flatness(tones) < 0.01 < 0.4 < spectral_flatness(noise)
    assert peak_autocorrelation(tones, RATE) > 0.99
    assert peak_autocorrelation(noise, RATE) < 0.2
    assert peak_autocorrelation(np.ones(1000), RATE) == 0
    assert strongest_frequency(tones, RATE) == pytest.approx(440, abs=RATE / 1024)
    assert verdict(describe_signal(tones, RATE)) == "periodic, a whistle"
    assert verdict(describe_signal(noise, RATE)) == "not periodic"
    assert verdict(describe_signal(np.full(3000, 700), RATE)) == "silence, a constant value"


@pytest.fixture
def midi(tmp_path):
    """A file of one A4 from the second beat on, and a drum."""
    score, track, drums = Score(480), Track(program=0), Track(is_drum=True)
    score.tempos.append(Tempo(0, 120))
    track.notes.append(Note(480, 960, 69, 100))
    drums.notes.append(Note(0, 100, 36, 100))
    score.tracks.extend([drums, track])
    score.dump_midi(str(tmp_path / "a4.mid"))
    return tmp_path / "a4.mid"


def test_rendering(midi):
    values, by = render_midi(midi, RATE, "numpy")
    assert by == "numpy"
    assert np.array_equal(values, synthesise(Score(str(midi)), RATE))
    assert np.abs(values[: int(0.49 * RATE)]).max() == 0  # half a second at 120; drums are left out
    assert strongest_frequency(values[RATE // 2 :], RATE) == pytest.approx(440, abs=RATE / 1024)
    assert np.abs(values).max() == 16384
    rendered, by = render_midi(midi, RATE, "auto")
    assert np.abs(rendered).max() > 300
    assert by == "numpy" or by.startswith("fluidsynth with ")


def test_a_trained_model_of_values_beats_standing_still(tmp_path):
    settings = AudioSettings(epochs=20, hidden_size=16, window=20, lanes=4, learning_rate=0.02)
    run = AudioRun("regression", two_tones(0.2), settings, tmp_path)
    run.train_to_the_end(audio_experiment.tqdm(disable=True))
    assert run.losses[-1] < 0.2 * run.losses[0]
    assert run.held_out_figures()["error"] < 1
    again = AudioRun("regression", two_tones(0.2), settings, tmp_path)  # from its file
    assert again.losses == run.losses
    assert np.array_equal(again.generate("mean", 30), run.generate("mean", 30))


def test_decoders_differ_in_what_is_drawn_and_fed_back(tmp_path):
    run = AudioRun("classes", two_tones(0.1), AudioSettings(epochs=1, hidden_size=8, window=20, lanes=4), tmp_path)
    sounds = {name: run.generate(name, 40) for name in audio_experiment.DECODERS["classes"]}
    assert all(len(sound) == 40 and not (sound % 300).any() for sound in sounds.values())
    assert not np.array_equal(sounds["sample"], sounds["argmax"])
    start = run.call(run.train[None, :20], None, None)
    likeliest = run.form_of.decode(start.logits[:, -1].argmax(-1).numpy())
    assert sounds["argmax"][0] == sounds["soft_feedback"][0] == likeliest[0]
    vectors = torch.nn.functional.one_hot(run.train[None, :20], run.form_of.count).float()
    soft = run.model(inputs_embeds=vectors).logits  # probabilities of one class are that class
    torch.testing.assert_close(soft, start.logits)


def test_the_command_makes_sounds_and_a_report(tmp_path, midi, capsys):
    write_wav(two_tones(0.5), RATE, tmp_path / "tones.wav")
    output = tmp_path / "out"
    options = ["--wav", str(tmp_path / "tones.wav"), "--seconds", "0.4", "--epochs", "1", "--values", "200"]
    options += ["-o", str(output)]
    with pytest.raises(SystemExit):
        audio_experiment.main([*options, "--midi", str(midi)])
    assert audio_experiment.main([*options, "--forms", "fourier"]) == 2  # two blocks are no sequence
    assert "too few" in capsys.readouterr().err
    assert audio_experiment.main([*options, "--forms", "classes", "regression"]) == 0
    report = json.loads((output / "report.json").read_text())
    assert set(report["sounds"]) == {
        *(f"classes, {d}" for d in ("sample", "argmax", "soft_feedback")),
        "regression, mean",
    }
    assert report["signal"]["autocorrelation"] > 0.99
    assert report["runs"]["classes"]["held_out"]["nats"] > 0
    for name in ("source", "classes-sample", "classes-argmax", "classes-soft_feedback", "regression-mean"):
        values, rate = read_wav(output / f"{name}.wav")
        assert rate == RATE
        assert len(values) == (200 if name != "source" else report["signal"]["values"])
    assert (output / "plot.png").is_file()
    assert "a periodic whistle" in (output / "report.md").read_text()
    assert audio_experiment.main([*options, "--epochs", "3"]) == 2
    assert "differ in epochs" in capsys.readouterr().err
    options = ["--midi", str(midi), "--synthesiser", "numpy", "--rate", "2000", "--forms", "regression"]
    assert audio_experiment.main([*options, "--epochs", "1", "--values", "50", "-o", str(tmp_path / "midi-out")]) == 0
    assert "rendered by numpy" in (tmp_path / "midi-out" / "report.md").read_text()
