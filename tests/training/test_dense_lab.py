"""The latent laboratory: training that resumes, held-out figures, classifiers, damage, bounds, and every command."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch

from partimento.modeling import DenseVAEConfig, DenseVAEModel, MusicVAEConfig, MusicVAEModel
from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.grid_songs import GridPart, GridSong, read_grid_song
from partimento.tokenization.melody_lines import Notes
from partimento.training import latent_bounds, latent_explorer, latent_lab
from partimento.training import latent_classify as classes
from partimento.training.grid_songs_store import StoredSong, write_songs
from partimento.training.latent_damage import cell_f1, damage, hidden_cost, hidden_mask
from partimento.training.latent_data import LabData, LabItems, common_labels, drawn
from partimento.training.latent_explorer import Explorer
from partimento.training.latent_models import DenseLatents, principal_axes
from partimento.training.latent_training import Fit, FitSettings, held_out, independent_cells

STYLES = ("rock", "jazz")


def bars(count, seed, shape=(16, 9)):
    """Bars of drums in two styles: each has its own pattern, of which every hit is left out with chance 0.2."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((len(STYLES), *shape)) < 0.25
    labels = rng.integers(0, len(STYLES), count)
    values = patterns[labels] & (rng.random((count, *shape)) > 0.2)
    return LabItems(values.astype(np.uint8), labels.astype(np.int64))


@pytest.fixture(scope="module")
def data():
    splits = {
        name: bars(count, seed)
        for seed, (name, count) in enumerate([("train", 400), ("validation", 100), ("test", 100)])
    }
    return LabData("bars", splits, list(STYLES))


SMALL = FitSettings(latent_size=2, epochs=6, hidden_sizes=(20,), batch_size=50)


# Training


def test_ten_epochs_beat_independent_cells(data, tmp_path):
    settings = FitSettings(latent_size=4, epochs=10, hidden_sizes=(64, 64), batch_size=50)
    fit = Fit(data, settings, tmp_path / "run")
    record = fit.run()
    baseline = independent_cells(data, "test")
    found = held_out(fit.model(), data.splits["test"])
    assert record.validation[0]["elbo"] < baseline < found["elbo"]
    assert found["active_units"] >= 1
    assert found["kl_bits"] == pytest.approx(found["kl"] / math.log(2))
    assert found["elbo"] == pytest.approx(-found["recon"] - found["kl"])
    assert found["kl"] > 0.5 * math.log(2)  # the code tells the styles apart


def test_independent_cells_by_hand(data):
    train = LabItems(np.array([[[1, 0]], [[1, 0]], [[1, 1]]], np.uint8), np.zeros(3, int))
    items = LabItems(np.array([[[1, 1]], [[0, 0]]], np.uint8), np.zeros(2, int))
    toy = LabData("toy", {"train": train, "validation": items, "test": items})
    p, q = 3.5 / 4, 1.5 / 4
    expected = (math.log(p) + math.log(q) + math.log(1 - p) + math.log(1 - q)) / 2
    assert independent_cells(toy) == pytest.approx(expected)
    one_hot = LabData(
        "toy",
        {
            "train": LabItems(train.values[:2], train.labels[:2]),
            "validation": LabItems(items.values[:1] * [[[1, 0]]], items.labels[:1]),
        },
        likelihood="categorical",
    )
    assert independent_cells(one_hot) == pytest.approx(math.log(2.5 / 3))


def test_same_seed_same_history_and_another_seed_another(data, tmp_path):
    one, two, other = (
        Fit(data, dataclasses.replace(SMALL, seed=seed), tmp_path / name).run()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert (one.train_cost, one.validation) == (two.train_cost, two.validation)
    assert one.train_cost != other.train_cost


def test_interrupted_equals_uninterrupted(data, tmp_path, monkeypatch):
    settings = dataclasses.replace(SMALL, damage="drop", binarize="none")
    whole = Fit(data, settings, tmp_path / "whole")
    whole.run(save_every=2)
    broken = Fit(data, settings, tmp_path / "broken")
    plain = Fit._epoch

    def failing(self, *arguments):
        if self.record.epoch == 5:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_epoch", failing)
        with pytest.raises(KeyboardInterrupt):
            broken.run(save_every=2)
    assert not (tmp_path / "broken" / "record.json").exists()
    resumed = Fit(data, settings, tmp_path / "broken")
    resumed.run(save_every=2)
    assert resumed.record.train_cost == whole.record.train_cost
    assert resumed.record.validation == whole.record.validation
    for a, b in zip(whole.model().parameters(), resumed.model().parameters()):
        assert torch.equal(a, b)
    assert not (tmp_path / "broken" / "checkpoint.pt").exists()
    for name, array in whole.snapshots().items():
        assert np.array_equal(array, resumed.snapshots()[name]), name
    assert whole.snapshots()["epochs"].tolist() == [0, 1, 6]
    with pytest.raises(ValueError, match="other settings or data"):
        Fit(data, dataclasses.replace(settings, latent_size=3), tmp_path / "broken")


def test_the_best_epoch_is_kept(data, tmp_path):
    fit = Fit(data, dataclasses.replace(SMALL, epochs=5), tmp_path / "run")
    record = fit.run(eval_every=1)
    best = max(record.validation, key=lambda entry: entry["elbo"])
    assert record.best_epoch == best["epoch"]
    again = held_out(fit.model(), data.splits["validation"], num_samples=1, seed=SMALL.seed)
    assert again["elbo"] == pytest.approx(best["elbo"], abs=1e-4)


# Classifiers


@pytest.mark.parametrize(
    ("mode", "expected"), [("raw", 7_850), ("frozen", 510), ("fine_tune", 668_560), ("from_scratch", 668_560)]
)
def test_parameters_are_the_published_ones(mode, expected):
    model = DenseVAEModel(DenseVAEConfig(latent_size=50))
    classifier = classes.make_classifier(mode, model.encoder, 10, 0)
    assert sum(p.numel() for p in classifier.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("mode", classes.MODES)
def test_frozen_leaves_the_encoder_bit_identical(data, mode):
    torch.manual_seed(0)
    model = DenseVAEModel(DenseVAEConfig(input_shape=(16, 9), hidden_sizes=(20,), latent_size=4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    classifier = classes.make_classifier(mode, model.encoder, 2, 1)
    start = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    settings = classes.ClassifierSettings(updates=40, batch_size=50)
    classes.train_classifier(classifier, data.splits["train"], settings, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    changed = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, start[name])}
    own = {name.removeprefix("encoder."): tensor for name, tensor in classifier.state_dict().items()}
    kept = [name for name in before if name.startswith("encoder.") and "logvar" not in name]
    same = [torch.equal(own[name.removeprefix("encoder.")], before[name]) for name in kept if mode != "raw"]
    if mode in ("raw", "frozen"):
        assert changed == {"head.weight", "head.bias"}
        assert all(same)
    else:
        assert changed == set(start)
        assert not any(same)
    found = classes.predict(classifier, data.splits["test"]).argmax(1)
    accuracy = classes.scores(data.splits["test"].labels, found, 2)["accuracy"]
    assert accuracy > 0.9 or mode == "frozen"  # codes of random weights say little


def test_scores_by_hand():
    figures = classes.scores(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0]), 4)
    assert figures["accuracy"] == 0.6
    assert figures["macro_f1"] == pytest.approx((0.5 + 0.8 + 0) / 3)  # the fourth label does not occur
    assert figures["confusion"] == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_few_labels_have_one_of_each(data):
    train = data.splits["train"]
    for share in (0.001, 0.05, 1.0):
        some = classes.some_labels(train, share, seed=2)
        assert len(some) == max(2, round(share * len(train)))
        assert set(some.labels) == {0, 1}
        assert np.array_equal(some.values, classes.some_labels(train, share, seed=2).values)
    assert np.array_equal(np.unique(some.values, axis=0), np.unique(train.values, axis=0))


# Damage and missing cells


@pytest.mark.parametrize("kind", ["drop", "jitter", "mask"])
def test_damage_strikes_where_it_says(kind):
    values = bars(200, 5).values
    damaged, struck = damage(values, kind, 0.25, np.random.default_rng(0))
    again, _ = damage(values, kind, 0.25, np.random.default_rng(0))
    assert np.array_equal(damaged, again)
    assert np.array_equal(damaged[~struck], values[~struck])
    assert (damaged != values).any()
    assert set(np.unique(damaged)) == {0, 1}
    if kind == "mask":
        assert (struck.any(2).sum(1) == 4).all()
        assert not damaged[struck].any()
    else:
        hit = struck & (values == 1)
        assert hit.sum() / values.sum() == pytest.approx(0.25, abs=0.05 if kind == "drop" else 0.2)
    if kind == "drop":
        assert not damaged[struck].any()
        assert cell_f1(values, damaged, struck) == 0.0
    with pytest.raises(ValueError, match="drop, jitter, mask"):
        damage(values, "erase", 0.2, np.random.default_rng(0))


def test_hidden_cells_and_their_figures():
    cells = hidden_mask((300, 16, 9), 0.3, "cells", np.random.default_rng(0))
    steps = hidden_mask((300, 16, 9), 0.3, "steps", np.random.default_rng(0))
    assert cells.mean() == pytest.approx(0.3, abs=0.01)
    assert steps.mean() == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(steps.all(2), steps.any(2))
    assert not np.array_equal(cells.all(2), cells.any(2))
    true, guess = np.array([1, 0, 1, 1]), np.array([0.9, 0.6, 0.2, 0.5])
    where = np.array([True, True, True, False])
    assert cell_f1(true, guess, where) == pytest.approx(0.5)
    assert hidden_cost(true, guess, where) == pytest.approx(-(math.log2(0.9) + math.log2(0.4) + math.log2(0.2)) / 3)
    assert cell_f1(np.zeros(3), np.zeros(3)) == 1.0


# Bounds


def test_optimised_bound_lies_between_encoder_and_importance(data, tmp_path):
    fit = Fit(data, dataclasses.replace(SMALL, epochs=3), tmp_path / "run")
    fit.run()
    model = fit.model()
    before = [parameter.clone() for parameter in model.parameters()]
    found = latent_bounds.inference_gap(model, data.splits["test"].values[:40], 200, num_steps=150)
    assert found["amortisation_gap"]["mean"] > 0
    assert found["family_gap"]["mean"] > -0.1
    parts = found["amortisation_gap"]["mean"] + found["family_gap"]["mean"]
    assert found["inference_gap"]["mean"] == pytest.approx(parts)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters()))


# Small things


def test_labels_are_those_that_occur_everywhere():
    genres = {
        "train": np.array(["rock"] * 5 + ["jazz"] * 4 + ["folk"] * 9 + [""] * 9),
        "validation": np.array(["rock"] * 2 + ["jazz"] * 2 + ["folk"]),
        "test": np.array(["rock"] * 2 + ["jazz"] * 3 + ["folk"] * 2),
    }
    assert common_labels(genres, 2) == ["rock", "jazz"]
    assert common_labels(genres, 1) == ["folk", "rock", "jazz"]


def test_greys_are_drawn_with_their_probability():
    greys = np.full((200, 8, 8), 0.3, np.float32)
    values = drawn(greys, np.random.default_rng(0))
    assert values.dtype == np.uint8
    assert values.mean() == pytest.approx(0.3, abs=0.02)


def test_principal_axes_find_a_planted_direction():
    rng = np.random.default_rng(0)
    direction = np.array([0.6, 0.8, 0.0])
    codes = rng.normal(size=(500, 1)) * 3 * direction + 0.1 * rng.normal(size=(500, 3)) + 5
    mean, axes, deviations, shares = principal_axes(codes, 2)
    assert abs(axes[0] @ direction) == pytest.approx(1, abs=1e-3)
    assert mean == pytest.approx([5, 5, 5], abs=0.5)
    assert deviations[0] == pytest.approx(3, rel=0.1)
    assert shares[0] > 0.99


# Commands


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """A corpus of songs in two genres, each a bar that is played with mistakes, and a melody."""
    folder = tmp_path_factory.mktemp("grids")
    pitches = np.array([36, 38, 42, 46, 49])
    patterns = np.random.default_rng(7).random((2, 16, 5)) < 0.3
    for split, seeds in (("train", range(12)), ("validation", range(20, 26)), ("test", range(30, 36))):
        songs = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            played = np.tile(patterns[seed % 2], (8, 1)) & (rng.random((128, 5)) > 0.2)
            starts, hits = np.nonzero(played)
            drums = Notes(starts, starts + 1, pitches[hits])
            line = np.sort(rng.choice(128, 50, replace=False))
            melody = Notes(line, line + 1, rng.integers(50, 74, len(line)))
            parts = [GridPart(-1, "", drums), GridPart(0, "", melody)]
            metadata = {"md5": f"{split}{seed}", "genre": ("Rock", "hip-hop")[seed % 2]}
            songs.append(StoredSong(GridSong(str(seed), 128, np.arange(8) * 16, parts), metadata))
        write_songs(folder, split, songs)
    return folder


@pytest.fixture
def run_lab(fresh_accelerator, grids, tmp_path):
    """Run a command on the drums with tiny models; return its report."""

    def run(command, *options, output=tmp_path / "lab"):
        fresh_accelerator()
        arguments = [command, "--data", "drums", "--grids", str(grids), "--min-per-label", "5", "-o", str(output)]
        arguments += ["--hidden-sizes", "16", "--epochs", "2", "--batch-size", "32", *map(str, options)]
        assert latent_lab.main(arguments) == 0
        assert (output / f"{command}.md").read_text().startswith("# ")
        return json.loads((output / f"{command}.json").read_text())

    return run


def test_sweep_and_what_reuses_its_models(run_lab, tmp_path):
    report = run_lab("sweep_latent", "--dims", 2, 3, "--seeds", 0, 1)
    assert [row["latent_size"] for row in report["rows"]] == [2, 3]
    assert all(row["seeds"] == 2 and row["elbo_sd"] is not None for row in report["rows"])
    best = max(report["rows"], key=lambda row: row["elbo"])
    assert report["best_latent_size"] == best["latent_size"]
    assert report["data"]["items"]["train"] > 50
    weights = tmp_path / "lab" / "models" / "z2-seed0" / "model" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    drawn_report = run_lab("samples", "--dims", 2, 3, "--count", 4)
    assert set(drawn_report["cells_on"]) == {"2", "3"}
    strip = run_lab("reconstruction_strip", "--latent-size", 2)
    assert strip["epochs"] == [0, 1, 2]
    assert run_lab("sweep_latent", "--dims", 2, 3, "--seeds", 0, 1)["rows"] == report["rows"]
    assert weights.stat().st_mtime_ns == made
    for name in ("sweep_latent", "samples", "reconstruction_strip"):
        assert (tmp_path / "lab" / f"{name}.png").stat().st_size > 1000


def test_classifiers_of_styles(run_lab, tmp_path):
    report = run_lab("classify", "--latent-size", 4, "--seeds", 0, 1, "--shares", 0.1, 1, "--updates", 60)
    assert report["labels"] == ["hiphop", "rock"] or report["labels"] == ["rock", "hiphop"]
    rows = {(row["mode"], row["share"]): row for row in report["summary"]}
    assert set(rows) == {(mode, share) for mode in classes.MODES for share in (0.1, 1.0)}
    assert rows["raw", 1.0]["accuracy"] > 0.9 > report["majority"]
    assert rows["frozen", 1.0]["parameters"] == 4 * 2 + 2
    assert rows["raw", 1.0]["parameters"] == 144 * 2 + 2
    assert np.array(report["confusion"]["raw"]).sum() == 2 * report["test_items"]
    assert (tmp_path / "lab" / "classify.png").is_file()
    heads = torch.load(tmp_path / "lab" / "classifiers.pt", weights_only=True)["heads"]
    assert heads["frozen"]["weight"].shape == (2, 4)


@pytest.mark.parametrize("latent_size", [2, 5])
def test_views_of_the_latent_space(run_lab, tmp_path, latent_size):
    report = run_lab("plot_latent", "--latent-size", latent_size)
    assert len(report["coordinates"]) == report["points"] == len(report["labels"])
    assert len(report["coordinates"][0]) == min(3, latent_size)
    report = run_lab("plot_manifold", "--latent-size", latent_size, "--size", 4)
    codes = np.array(report["codes"])
    assert codes.shape == (16, latent_size)
    if latent_size == 2:
        assert codes[0] == pytest.approx([-1.645, 1.645], abs=1e-3)  # top left
    song = read_grid_song(tmp_path / "lab" / "plot_manifold.mid", allow_empty=True)
    assert song.num_steps <= 16 * 16


def test_denoising_and_imputation(run_lab):
    report = run_lab("denoise", "--damage", "drop", "mask")
    rows = {(row["damage"], row["what"]): row for row in report["rows"]}
    assert set(rows) == {(d, w) for d in ("drop", "mask") for w in ("copy", "silence", "VAE", "denoising VAE")}
    assert rows["drop", "copy"]["f1_struck"] == 0
    assert 0.7 < rows["drop", "copy"]["f1_all"] < 1
    report = run_lab("restore", "--passes", 3, "--steps", 5)
    assert len(report["rows"]) == 2 * 6
    assert all(math.isfinite(row["bits_per_cell"]) and 0 <= row["f1"] <= 1 for row in report["rows"])


def test_inference_gap_of_a_given_model(run_lab, tmp_path):
    run_lab("reconstruction_strip", "--latent-size", 2)
    folder = tmp_path / "lab" / "models" / "z2-seed0" / "model"
    options = ("--items", 10, "--importance-samples", 20, "--steps", 5)
    report = run_lab("inference_gap", "--model", folder, *options, output=tmp_path / "other")
    assert report["model"] == str(folder)
    assert not (tmp_path / "other" / "models").exists()
    assert report["bounds"]["importance"]["mean"] > report["bounds"]["amortised"]["mean"] - 0.5


def test_a_musicvae_on_the_same_bench(run_lab, tmp_path):
    torch.manual_seed(0)
    tracks = MusicVAEProcessor(("melody", "drums")).model_config_kwargs()["tracks"]
    model = MusicVAEModel(
        MusicVAEConfig(tracks=tracks, num_bars=1, z_size=4, encoder_hidden_sizes=(8,), decoder_hidden_sizes=(8,))
    )
    model.save_pretrained(tmp_path / "music")
    MusicVAEProcessor.for_model(model.config).save_pretrained(tmp_path / "music")
    given = ("--model", tmp_path / "music")
    assert run_lab("plot_latent", *given)["latent_size"] == 4
    run_lab("plot_manifold", *given, "--size", 3)
    assert (tmp_path / "lab" / "plot_manifold.mid").is_file()
    report = run_lab("classify", *given, "--modes", "raw", "frozen", "--shares", 1, "--updates", 30, "--seeds", 0)
    assert {row["mode"]: row["parameters"] for row in report["summary"]} == {"raw": 16 * 97 * 2 + 2, "frozen": 10}


def test_errors_are_sentences(fresh_accelerator, grids, tmp_path, capsys, monkeypatch):
    def fails(*arguments):
        fresh_accelerator()
        assert latent_lab.main([*map(str, arguments), "-o", str(tmp_path / "lab")]) == 2
        return capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "pip install 'partimento[lab]'" in fails("sweep_latent")
    assert "--grids FOLDER" in fails("sweep_latent", "--data", "drums")
    assert "give digits, drums, melody, piano_roll" in fails("sweep_latent", "--data", "cats")
    assert "x_train" in fails("samples", "--data", tmp_path / "none.npz")
    assert "fewer than two labels" in fails("classify", "--data", "drums", "--grids", grids, "--min-per-label", 9999)


def test_images_of_an_archive(fresh_accelerator, tmp_path):
    fresh_accelerator()
    rng = np.random.default_rng(0)
    arrays = {
        f"x_{split}": rng.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        for split, count in (("train", 60), ("test", 20))
    }
    arrays |= {f"y_{split}": rng.integers(0, 3, count) for split, count in (("train", 60), ("test", 20))}
    np.savez(tmp_path / "images.npz", **arrays)
    for binarize in ("none", "fixed", "dynamic"):
        output = tmp_path / binarize
        arguments = ["sweep_latent", "--data", str(tmp_path / "images.npz"), "--binarize", binarize, "-o", str(output)]
        assert latent_lab.main([*arguments, "--dims", "2", "--epochs", "1", "--seeds", "0", "--hidden-sizes", "8"]) == 0
        report = json.loads((output / "sweep_latent.json").read_text())
        assert report["data"]["items"] == {"train": 54, "validation": 6, "test": 20}
        assert report["data"]["binarize"] == binarize


def test_digits_of_scikit_learn(fresh_accelerator, tmp_path):
    pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    fresh_accelerator()
    arguments = ["plot_latent", "--data", "digits", "--epochs", "1", "--hidden-sizes", "8", "-o", str(tmp_path)]
    assert latent_lab.main(arguments) == 0
    report = json.loads((tmp_path / "plot_latent.json").read_text())
    assert report["data"]["items"] == {"train": 1078, "validation": 359, "test": 360}
    assert report["label_names"] == [str(i) for i in range(10)]


# The page


def test_untouched_dimensions_keep_full_precision(data):
    latents = DenseLatents(DenseVAEModel(DenseVAEConfig(input_shape=(16, 9), hidden_sizes=(8,), latent_size=5)), None)
    explorer = Explorer(latents, data.splits["test"], data.label_names, num_sliders=3)
    z = explorer.start(7)
    assert np.array_equal(z, latents.codes(data.splits["test"].values)[7])
    moved = explorer.moved(z, explorer.dims[0], 0.5)
    assert moved[explorer.dims[0]] == 0.5
    rest = [dim for dim in range(5) if dim != explorer.dims[0]]
    assert np.array_equal(moved[rest], z[rest])
    assert len(explorer.dims) == 3
    assert explorer.image(z).shape == (16 * 24, 9 * 24)
    assert explorer.sound(z) is None


def test_page_answers_with_grid_sound_and_both_classifiers(run_lab, grids, tmp_path, monkeypatch):
    gradio_client = pytest.importorskip("gradio_client", reason="explore needs the extra `space`")
    run_lab("classify", "--latent-size", 4, "--seeds", 0, "--shares", 1, "--updates", 60)
    pages = []
    build = latent_explorer.build_page
    monkeypatch.setattr(latent_explorer, "build_page", lambda *arguments: pages.append(build(*arguments)) or FakePage())
    options = [
        "--data",
        "drums",
        "--grids",
        str(grids),
        "--min-per-label",
        "5",
        "--hidden-sizes",
        "16",
        "--epochs",
        "2",
    ]
    options += ["--batch-size", "32", "--latent-size", "4", "-o", str(tmp_path / "lab")]
    assert latent_lab.main(["explore", *options]) == 0
    pages[0].launch(prevent_thread_lock=True, quiet=True)
    try:
        client = gradio_client.Client(pages[0].local_url, verbose=False)
        image, sound, midi, *rest = client.predict(3, api_name="/restart")
    finally:
        pages[0].close()
    assert read_grid_song(midi, allow_empty=True).num_steps == 16
    assert sound.endswith(".wav")
    assert image
    labels, positions = rest[:2], rest[2:]
    assert {entry["label"] for label in labels for entry in label["confidences"]} == {"rock", "hiphop"}
    assert all(sum(entry["confidence"] for entry in label["confidences"]) == pytest.approx(1) for label in labels)
    assert len(positions) == 4


class FakePage:
    def launch(self, **options):
        assert options == {"server_name": "127.0.0.1", "server_port": 7860}
