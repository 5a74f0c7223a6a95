"""Figures of MusicVAE by hand, the whole report, and attribute vectors that find a planted direction."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.grid_songs import GridPart, GridSong
from partimento.tokenization.melody_attributes import measure_attributes
from partimento.tokenization.melody_lines import Notes
from partimento.training import attribute_vectors as attributes
from partimento.training import evaluate_musicvae
from partimento.training.grid_metrics import compare, f1, overlap, statistics
from partimento.training.grid_songs_store import StoredSong, write_songs


def write_corpus(folder):
    for split, seeds in (("train", range(8)), ("validation", range(20, 24))):
        songs = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            starts = np.sort(rng.choice(16 * 8, 60 + seed, replace=False))
            notes = Notes(starts, starts + rng.integers(1, 4, len(starts)), rng.integers(50, 80, len(starts)))
            drums = Notes(starts, starts + 1, rng.choice([36, 38, 42], len(starts)))
            parts = [GridPart(0, "", notes), GridPart(33, "", notes), GridPart(-1, "", drums)]
            songs.append(StoredSong(GridSong(str(seed), 128, np.arange(8) * 16, parts), {"md5": f"{split}{seed}"}))
        write_songs(folder, split, songs)
    return folder


def save_model(folder, **overrides):
    torch.manual_seed(0)
    settings = {"z_size": 8, "encoder_hidden_sizes": (16,), "decoder_hidden_sizes": (16,), **overrides}
    model = MusicVAEModel(MusicVAEConfig(**settings))
    model.save_pretrained(folder)
    MusicVAEProcessor.for_model(model.config).save_pretrained(folder)
    return model


def test_metrics_by_hand():
    true = np.array([[41, 0, 1, 0, 45, 0, 0, 0]])
    found = np.array([[41, 0, 0, 0, 46, 0, 1, 0]])
    result = compare(true, found, is_drums=False)
    assert result["accuracy"] == 5 / 8
    assert result["event_accuracy"] == pytest.approx(1 / 3)
    assert result["no_event_accuracy"] == pytest.approx(4 / 5)
    assert (result["onset_f1"], result["onset_pitch_f1"], result["onset_pitch_duration_f1"]) == (1.0, 0.5, 0.0)
    silent = compare(true, np.zeros_like(true), is_drums=False)
    assert (silent["event_accuracy"], silent["no_event_accuracy"], silent["onset_pitch_f1"]) == (0.0, 1.0, 0.0)
    drums = compare(np.array([[0b101, 0, 0b1]]), np.array([[0b100, 0, 0b1]]), is_drums=True)
    assert drums["hit_f1"] == pytest.approx(2 * 2 / 5)
    assert f1(0, 0, 0) == 1.0


def test_overlap_of_histograms():
    windows = np.array([[41, 0, 43, 0], [41, 41, 41, 41]])
    figures = statistics(windows, is_drums=False)
    assert figures["onsets_per_window"].tolist() == [0, 0, 0.5, 0, 0.5]
    assert figures["steps_between_onsets"].tolist() == [0, 0.75, 0.25, 0]
    assert overlap(figures, figures) == {"onsets_per_window": 1, "steps_between_onsets": 1, "pitches": 1}
    other = overlap(figures, statistics(np.array([[50, 0, 0, 0]]), is_drums=False))
    assert set(other.values()) == {0}
    assert statistics(np.array([[0b11, 0, 0, 1]]), is_drums=True)["drum_classes"].tolist() == [2 / 3, 1 / 3, *[0] * 7]


@pytest.mark.parametrize("kind", ["melody", "trio"])
def test_report(tmp_path, kind):
    corpus = write_corpus(tmp_path / "grids")
    tracks = MusicVAEProcessor(("melody", "bass", "drums")).model_config_kwargs()["tracks"]
    model = save_model(tmp_path / "model", tracks=tracks if kind == "trio" else tracks[:1], num_bars=1)
    output = tmp_path / "report.json"
    arguments = ["--model", str(tmp_path / "model"), "--corpus", str(corpus), "--min-onsets", "1"]
    arguments += ["--importance-samples", "2", "--write-latent-info", "-o", str(output)]
    assert evaluate_musicvae.main(arguments) == 0
    report = json.loads(output.read_text())
    names = ["melody", "bass", "drums"] if kind == "trio" else ["melody"]
    free = {"free_argmax_mu", "free_argmax_z", "free_t1_mu", "free_t1_z"}
    modes = {"always_no_event", "teacher_forced", "reference_sampling", *free}
    assert set(report["reconstruction"]) == modes
    for mode in modes:  # the baseline and the split into events and no events are in every report
        for name in names:
            figures = report["reconstruction"][mode][name]
            assert {"accuracy", "event_accuracy", "no_event_accuracy"} < set(figures)
    for name in names:
        baseline = report["reconstruction"]["always_no_event"][name]
        assert (baseline["event_accuracy"], baseline["no_event_accuracy"]) == (0.0, 1.0)
    likelihood = report["likelihood"]
    assert sum(likelihood["nats_per_step"].values()) * 16 == pytest.approx(likelihood["reconstruction_nats"], rel=1e-5)
    untrained = [math.log(512 if name == "drums" else 90) for name in names]
    assert sum(likelihood["nats_per_step"].values()) == pytest.approx(sum(untrained), rel=0.1)
    assert report["parameters"] == model.num_parameters()
    for method in ("linear", "slerp"):
        path = report["interpolation"][method]
        assert path["ends_exact"]
        assert path["finite"]
        assert path["distance_from_start"][0] == 0
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {f"report_{name}.png" for name in ("latent", "paths", "strips", "reconstructions", "samples")}
    assert "always_no_event" in output.with_suffix(".md").read_text()
    info = json.loads((tmp_path / "model" / "latent_info.json").read_text())
    assert np.shape(info["mu_quantiles"]["values"]) == (5, 8)
    directions = np.array(info["pca"]["directions"])
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-6)
    assert sum(info["pca"]["explained"]) == pytest.approx(1)
    assert sum(info["kl_bits_per_dim"]) == pytest.approx(report["latent"]["kl_bits"], rel=1e-3)


def test_wrong_models_are_refused(tmp_path, capsys):
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "bert")
    arguments = ["--model", str(tmp_path / "bert"), "--corpus", "x", "-o", str(tmp_path / "r.json")]
    assert evaluate_musicvae.main(arguments) == 2
    assert "holds a BertModel, not a MusicVAE" in capsys.readouterr().err


def test_vector_is_the_difference_of_quartile_means():
    codes = torch.arange(32.0).reshape(8, 4)
    values = np.array([3.0, np.nan, 1, 8, 7, 6, 2, 5])
    vectors, facts = attributes.attribute_vectors(codes, {"note_density": values})
    torch.testing.assert_close(vectors["note_density"], codes[3] - codes[2])  # of 7 defined ones a quarter is 1
    assert facts["note_density"]["undefined"] == 1
    with pytest.raises(ValueError, match=r"is 2\.0 in both quartiles"):
        attributes.attribute_vectors(codes, {"x": np.full(8, 2.0)})
    with pytest.raises(ValueError, match="defined for 0 windows only"):
        attributes.attribute_vectors(codes, {"x": np.full(8, np.nan)})


def test_cleaner_directions():
    torch.manual_seed(0)
    vectors = {"a": torch.tensor([2.0, 0, 0, 0]), "b": torch.tensor([1.0, 1.0, 0, 3.0])}
    apart = attributes.orthogonal(vectors)
    assert float(apart["a"] @ apart["b"]) == pytest.approx(0, abs=1e-5)
    for name, vector in vectors.items():
        assert float(apart[name].norm()) == pytest.approx(float(vector.norm()))
        assert torch.cosine_similarity(apart[name], vector, dim=0) > 0.97
    right_angles = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([3.0, 0.0])}
    for name, vector in attributes.orthogonal(right_angles).items():
        torch.testing.assert_close(vector, right_angles[name])
    kept = attributes.only_active(vectors, torch.tensor([[0.5, 0.99, 1.0, 0.9]]))
    assert kept["b"].tolist() == [1, 0, 0, 3]


class PlantedModel:
    """Decodes as many onsets as the first dimension of z says."""

    class config:  # noqa: N801
        z_size = 3

    def decode(self, z):
        wanted = (8 + 2 * z[:, :1]).round().clamp(2, 16)
        return torch.where(torch.arange(16) < wanted, 41, 0)


def test_verification_finds_a_planted_direction():
    vectors = {name: torch.zeros(3) for name in attributes.NAMES}
    vectors["note_density"] = torch.tensor([2.0, 0, 0])
    check = attributes.verify(PlantedModel(), MusicVAEProcessor(num_bars=1), vectors, num_codes=64)
    curve = check["curves"]["note_density"]["note_density"]
    assert check["amounts"] == [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]
    assert curve == sorted(curve)
    assert check["matrix"]["note_density"]["note_density"] == pytest.approx(12 / 16, abs=0.12)
    assert check["monotonic"] == {name: name == "note_density" for name in attributes.NAMES}
    assert check["diagonal_dominance"]["note_density"]
    assert not check["diagonal_dominance"]["c_diatonic"]


def test_vectors_are_written_and_read_by_the_model(tmp_path):
    corpus = write_corpus(tmp_path / "grids")
    save_model(tmp_path / "model")
    arguments = [
        "--model",
        str(tmp_path / "model"),
        "--corpus",
        str(corpus),
        "--codes",
        "8",
        "--max-dropped-share",
        "1",
    ]
    assert attributes.main([*arguments, "--active-only", "--orthogonal", "--output", str(tmp_path / "other")]) == 0
    assert not (tmp_path / "model" / "attributes.safetensors").exists()
    apart = load_file(tmp_path / "other" / "attributes.safetensors")
    assert float(apart["c_diatonic"] @ apart["note_density"]) == pytest.approx(0, abs=1e-6)
    assert attributes.main(arguments) == 0
    model = MusicVAEModel.from_pretrained(tmp_path / "model")
    vectors = load_file(tmp_path / "model" / "attributes.safetensors")
    assert set(vectors) == set(attributes.NAMES) == set(measure_attributes(np.zeros((1, 16), int)))
    z = torch.zeros(1, 8)
    torch.testing.assert_close(model.apply_attribute(z, "c_diatonic", 2.0)[0], 2 * vectors["c_diatonic"])
    report = json.loads((tmp_path / "model" / "attributes.json").read_text())
    assert set(report["verification"]["matrix"]) == set(attributes.NAMES)
    assert "monotonic" in (tmp_path / "model" / "attributes.md").read_text()
