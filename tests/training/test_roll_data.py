"""Grids of ones and zeros through the trainer: windows, batches, transposition, resuming."""

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModel, AutoProcessor

from partimento.modeling import DenseVAEConfig, DenseVAEModel
from partimento.tokenization import DenseVAEProcessor
from partimento.tokenization.grid_songs import GridPart, GridSong
from partimento.tokenization.melody_lines import Notes
from partimento.training.collapse_monitor import latent_figures
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_songs_store import StoredSong, write_songs
from partimento.training.roll_data import RollCorpus, RollData, moved
from partimento.training.run_log import read_log

KINDS = ("drums", "melody", "piano_roll")


def make_song(seed, num_bars=6):
    rng = np.random.default_rng(seed)
    parts = []
    for program in (0, 33, -1):
        starts = np.sort(rng.choice(16 * num_bars, 6 * num_bars, replace=False))
        pitches = rng.choice([36, 38, 42], len(starts)) if program < 0 else rng.integers(50, 74, len(starts))
        parts.append(GridPart(program, "", Notes(starts, starts + rng.integers(1, 4, len(starts)), pitches)))
    return GridSong(f"song-{seed}", 16 * num_bars, np.arange(num_bars) * 16, parts)


@pytest.fixture(scope="module")
def grid_corpus(tmp_path_factory):
    """Eight songs to train on, three to validate, of which one is a song of the training split again."""
    folder = tmp_path_factory.mktemp("grids")
    for split, seeds in (("train", range(8)), ("validation", (20, 21, 3))):
        write_songs(folder, split, [StoredSong(make_song(seed), {"md5": f"{split}-{seed}"}) for seed in seeds])
    return folder


def make_data(folder, kind, **settings):
    arguments = GridArguments(str(folder), roll=kind, **{"rows_per_batch": 8, "min_onsets": 0, **settings})
    return RollData(arguments, DenseVAEProcessor(kind), seed=0, batches_per_update=1)


@pytest.mark.parametrize("kind", ["drums", "piano_roll"])
def test_windows_are_those_of_the_processor(grid_corpus, kind):
    processor = DenseVAEProcessor(kind)
    corpus = RollCorpus.from_parquet(GridArguments(str(grid_corpus), min_onsets=1), "train", processor)
    values = corpus.values(np.arange(len(corpus)), processor)
    expected = np.concatenate([processor.windows(make_song(seed), min_onsets=1).values for seed in range(8)])
    assert np.array_equal(np.unique(values, axis=0), np.unique(expected, axis=0))
    assert len(values) == len(np.unique(values, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_validation_has_no_window_of_training(grid_corpus, kind):
    data = make_data(grid_corpus, kind)
    train = {row.tobytes() for row in data.train.windows}
    held_out = {row.tobytes() for row in data.validation.windows}
    assert held_out
    assert not train & held_out
    assert data.validation.counts["in_training"] > 0
    rows = torch.cat([batch.inputs["input_values"] for batch in data.validation_batches()])
    assert rows.shape == (len(data.validation), *data.processor.model_config_kwargs()["input_shape"])
    assert set(rows.unique().tolist()) == {0.0, 1.0}


def test_transposition_moves_pitches_alone():
    grid = np.zeros((2, 7), np.uint8)
    grid[0, [0, 3]], grid[1, 4] = 1, 1
    up = moved(grid, 2, fixed=2)
    assert [np.flatnonzero(row).tolist() for row in up] == [[0, 5], [6]]
    assert np.array_equal(moved(grid, 3, fixed=2), grid)  # a note would leave the range
    assert np.array_equal(moved(grid, -2, fixed=2), grid)
    assert np.array_equal(moved(np.zeros((2, 7)), 3), np.zeros((2, 7)))


@pytest.mark.parametrize("kind", KINDS)
def test_transposition_is_fresh_in_every_epoch(grid_corpus, kind):
    data, items = make_data(grid_corpus, kind, transpose=[-5, 5]), np.arange(8)
    first, second, again = (data.batch(items, epoch).inputs["input_values"] for epoch in (0, 1, 0))
    assert torch.equal(first, again)
    assert torch.equal(first, second) == (kind == "drums")
    plain = torch.from_numpy(data.train.values(items, data.processor))
    assert torch.equal(first.sum((1, 2)), plain.sum((1, 2)).float())


def recipe(folder, corpus, **changes):
    content = {
        "model": {
            "model_type": "dense_vae",
            "auto_class": "AutoModel",
            "config": {"hidden_sizes": [16], "latent_size": 3},
        },
        "grids": {"corpus": str(corpus), "roll": "drums", "rows_per_batch": 8, "min_onsets": 0},
        "train": {
            "output": str(folder / "run"),
            "max_updates": 8,
            "learning_rate": 1e-2,
            "lr_schedule": "constant",
            "eval_every": 4,
            "save_every": 4,
            "weight_decay": 0.0,
        },
        "schedules": {"beta": 1.0},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        content[group][name] = value
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_training_end_to_end_and_resumed(grid_corpus, tmp_path, run_training):
    weights = {}
    for name, limits in (("whole", [8]), ("resumed", [4, 8])):
        path = recipe(tmp_path / name, grid_corpus)
        for limit in limits:
            assert run_training(path, "--resume", "auto", "--set", f"train.max_updates={limit}") == 0
        weights[name] = AutoModel.from_pretrained(tmp_path / name / "run" / "final").state_dict()
    assert all(torch.equal(value, weights["resumed"][key]) for key, value in weights["whole"].items())
    log = list(read_log(tmp_path / "whole" / "run" / "log.jsonl"))
    validation = [entry for entry in log if entry["kind"] == "validation"]
    assert validation[-1]["nll"] < validation[0]["nll"]
    for entry in validation:
        assert entry["nll"] == pytest.approx(entry["recon"] + entry["kl"], rel=1e-3)
        assert entry["nll"] == pytest.approx(-entry["elbo"], rel=1e-4)
        assert entry["nll"] == entry["nll_per_bar"]
        assert {"kl_bits", "active_by_variance", "shuffled_nll_gap"} <= set(entry)
    assert all(entry["padding"] == 0 for entry in log if entry["kind"] == "train")
    model, processor = (
        auto.from_pretrained(tmp_path / "whole" / "run" / "best") for auto in (AutoModel, AutoProcessor)
    )
    assert isinstance(processor, DenseVAEProcessor)
    score = processor.decode(model.sample(1, generator=torch.Generator().manual_seed(0))[0])
    assert len(score.tracks) == 1


def test_every_kind_trains_and_a_run_can_start_from_weights(grid_corpus, tmp_path, run_training):
    for kind, shape in (("melody", (16, 90)), ("piano_roll", (16, 88))):
        path = recipe(tmp_path / kind, grid_corpus, grids__roll=kind, train__max_updates=1)
        assert run_training(path) == 0
        model = DenseVAEModel.from_pretrained(tmp_path / kind / "run" / "final")
        assert model.config.input_shape == shape
        assert model.config.likelihood == ("categorical" if kind == "melody" else "bernoulli")
    first = str(tmp_path / "melody" / "run" / "final")
    model = {"model_type": "dense_vae", "auto_class": "AutoModel", "init_from": first}
    again = recipe(tmp_path / "again", grid_corpus, grids__roll="melody", train__max_updates=1)
    again.write_text(yaml.safe_dump(yaml.safe_load(again.read_text()) | {"model": model}))
    assert run_training(again) == 0
    wrong = recipe(tmp_path / "wrong", grid_corpus)
    wrong.write_text(yaml.safe_dump(yaml.safe_load(wrong.read_text()) | {"model": model}))
    assert run_training(wrong) == 2


def test_contradictions_are_named(grid_corpus, tmp_path, run_training, capsys):
    assert run_training(recipe(tmp_path, grid_corpus, grids__roll="")) == 2
    assert "grids.roll is not given" in capsys.readouterr().err
    model = {"model_type": "musicvae", "preset": "mel_2bar_tiny", "auto_class": "AutoModel"}
    path = recipe(tmp_path, grid_corpus)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": model}))
    assert run_training(path) == 2
    assert "musicvae reads no such grids" in capsys.readouterr().err
    assert run_training(recipe(tmp_path, grid_corpus, grids__roll="guitar")) == 2
    assert "grids.roll is 'guitar'" in capsys.readouterr().err


def test_a_code_that_is_used_shows_in_the_figures(grid_corpus):
    data = make_data(grid_corpus, "drums")
    torch.manual_seed(0)
    model = DenseVAEModel(DenseVAEConfig(input_shape=(16, 9), hidden_sizes=(16,), latent_size=3))
    with torch.no_grad():
        for layer in (model.encoder.to_mu, model.encoder.to_logvar):
            layer.weight.zero_()
    figures = latent_figures(model, data.validation_batches())
    assert figures["kl_bits"] == pytest.approx(0, abs=1e-6)
    assert figures["shuffled_nll_gap"] == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        model.encoder.to_mu.weight.normal_(std=3.0)
        model.encoder.to_logvar.bias.fill_(-4.0)
    figures = latent_figures(model, data.validation_batches())
    assert figures["active_by_sigma"] == figures["active_by_variance"] == 3
