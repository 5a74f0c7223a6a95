"""The sweep over the KL term: points differ in the objective only; comparison at equal bits by hand."""

import json

import pytest

from partimento.training import rate_distortion
from partimento.training.arguments import load_arguments
from partimento.training.schedules import make_value_schedule


def fake_evaluation(kl_bits, nats, f1=0.5):
    figures = {"accuracy": 0.8, "event_accuracy": 0.6, "no_event_accuracy": 0.9, "onset_pitch_f1": f1}
    modes = ("teacher_forced", "free_argmax_mu", "always_no_event")
    return {
        "tracks": ["melody"],
        "windows": 10,
        "reconstruction": {mode: {"melody": figures} for mode in modes},
        "likelihood": {"nats_per_step": {"melody": nats}},
        "latent": {"kl_bits": kl_bits, "active_by_sigma": 3, "shuffled_nll_gap": 1.0},
        "prior_overlap": {"melody": {"pitches": 0.5, "onsets_per_window": 0.7}},
    }


def test_reference_follows_the_paper():
    point = rate_distortion.reference_point(2000)
    arguments = load_arguments(rate_distortion.RECIPE, [*point.overrides, "train.max_updates=2000"])
    assert (arguments.train.lr_schedule, arguments.train.lr_gamma, arguments.train.warmup_updates) == (
        "exponential", 0.9999, 0,
    )  # fmt: skip
    assert arguments.model.config == {"max_beta": 0.2, "free_bits": 48}
    beta = make_value_schedule("beta", arguments.schedules["beta"])
    assert beta(50_000) / 0.2 == pytest.approx(0.3935, abs=1e-4)
    assert "sampling_probability" not in arguments.schedules
    longer = load_arguments(rate_distortion.RECIPE, rate_distortion.reference_point(50_000).overrides)
    assert make_value_schedule("p", longer.schedules["sampling_probability"])(50_000) > 0.99


def test_points_differ_in_the_objective_only():
    base = load_arguments(rate_distortion.RECIPE)
    point = rate_distortion.make_point(0.5, 96, 64)
    arguments = load_arguments(rate_distortion.RECIPE, point.overrides)
    assert arguments.model.config == {"max_beta": 0.5, "free_bits": 96, "z_size": 64}
    assert arguments.schedules["beta"]["max"] == arguments.validation_values["beta"] == 0.5
    assert (arguments.train, arguments.grids) == (base.train, base.grids)


def test_comparison_at_equal_bits():
    rows = [
        rate_distortion.summarise(rate_distortion.make_point(0.2, 0, None), fake_evaluation(20, 1.0, 0.2)),
        rate_distortion.summarise(rate_distortion.make_point(0.05, 0, None), fake_evaluation(60, 0.5, 0.6)),
        rate_distortion.summarise(rate_distortion.reference_point(100), fake_evaluation(30, 0.9, 0.4)),
    ]
    found = rate_distortion.against_reference(rows)
    assert found["nats_per_step"]["others"] == pytest.approx(0.875)  # a quarter of the way from 20 to 60 bits
    assert found["nats_per_step"]["difference"] == pytest.approx(-0.025)
    assert found["note_f1"]["difference"] == pytest.approx(-0.1)
    rows[-1]["kl_bits"] = 90
    assert rate_distortion.against_reference(rows) is None


def test_sweep_skips_what_is_done_and_reports(tmp_path, monkeypatch, capsys):
    (tmp_path / "grids" / "grids").mkdir(parents=True)
    (tmp_path / "grids" / "grids" / "train-00000-of-00001.parquet").touch()
    done = []

    def run_step(step):
        done.append((step.done.parent.name, step.title))
        step.done.parent.mkdir(parents=True, exist_ok=True)
        bits = {"reference": 30, "beta0.5-free0": 20, "beta0.2-free0": 60}[
            step.done.parents[step.title == "training"].name
        ]
        step.done.write_text(json.dumps(fake_evaluation(bits, 1 / bits)))

    monkeypatch.setattr(rate_distortion, "run_step", run_step)
    arguments = [
        "--corpus",
        str(tmp_path / "grids"),
        "-o",
        str(tmp_path / "out"),
        "--free-bits",
        "0",
        "--updates",
        "400",
    ]
    assert rate_distortion.main([*arguments, "--betas", "0.5"]) == 0
    assert len(done) == 4
    assert rate_distortion.main([*arguments, "--betas", "0.5", "0.2"]) == 0
    assert len(done) == 6  # only the new point
    report = json.loads((tmp_path / "out" / "rate_distortion.json").read_text())
    assert [row["point"] for row in report["rows"]] == ["reference", "beta0.5-free0", "beta0.2-free0"]
    assert report["against_reference"]["kl_bits"] == 30
    assert "At the reference's 30.0 bits" in capsys.readouterr().out
    assert (tmp_path / "out" / "rate_distortion.png").is_file()
    assert rate_distortion.main([*arguments[:-1], "900"]) == 1  # other updates may not be mixed in
    assert "other updates" in capsys.readouterr().err
