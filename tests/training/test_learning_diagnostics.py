"""Gradient by lag against a recurrence known by hand, and learning curves on shares of the songs."""

import json
import math

import numpy as np
import pytest
import torch

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
from partimento.training import gradient_by_lag, learning_curves
from partimento.training.gradient_by_lag import draw_rows, gradient_norms, spectral_radii
from partimento.training.token_corpus import TokenCorpus


def small(cell_type, layers=2, **config):
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "hidden_size": 6, "embedding_size": 5, "num_hidden_layers": layers}
    return RecurrentForCausalLM(RecurrentConfig(cell_type=cell_type, **sizes, **config)).eval()


def test_gradient_of_a_linear_recurrence_shrinks_like_its_powers():
    model = small("rnn_relu", layers=1)
    rnn = model.model.layers[0].cell.rnn
    with torch.no_grad():  # h' = 0.5 h + 1, always positive: a linear map
        rnn.weight_hh_l0.copy_(0.5 * torch.eye(6))
        rnn.weight_ih_l0.zero_()
        rnn.bias_ih_l0.fill_(1.0)
    norms = gradient_norms(model, torch.randint(12, (3, 12)), lags=8)[:, 0]
    assert torch.allclose(norms[:, 1:] / norms[:, :-1], torch.tensor(0.5), atol=1e-4)
    assert spectral_radii(model) == [{"h": pytest.approx(0.5)}]


@pytest.mark.parametrize("cell_type", ["lstm", "gru_thesis"])
@pytest.mark.parametrize("number", [0, 1])
def test_gradient_is_the_slope_of_the_loss(cell_type, number):
    model, lags = small(cell_type).double(), 4
    rows = torch.randint(12, (1, 9))
    norms = gradient_norms(model, rows, lags)
    assert norms.shape == (1, 2, lags)
    assert (norms > 0).all()

    def loss(shift):
        cache = model(rows[:, : 9 - 1 - lags], use_cache=True).past_key_values.detach_()
        layer = cache.layers[number]
        layer.state = tuple(part + shift[i] for i, part in enumerate(layer.state))
        logits = model(rows[:, 9 - 1 - lags : -1], past_key_values=cache, use_cache=True).logits[0, -1]
        return torch.nn.functional.cross_entropy(logits[None], rows[0, -1:]).item()

    parts, step = (2 if cell_type == "lstm" else 1), 1e-5
    square = 0.0
    for i in range(parts):
        for unit in range(6):
            shift = torch.zeros(parts, 6, dtype=torch.float64)
            shift[i, unit] = step
            square += ((loss(shift) - loss(-shift)) / (2 * step)) ** 2
    assert norms[0, number, lags - 1].item() == pytest.approx(math.sqrt(square), rel=1e-3)


def test_gates_have_names_and_rows_come_from_long_songs():
    assert list(spectral_radii(small("lstm"))[1]) == ["input", "forget", "memory", "output"]
    songs = [np.arange(5), np.arange(100, 130)]
    rows = draw_rows(songs, 4, 20, seed=0)
    assert rows.shape == (4, 20)
    assert rows.min() >= 100
    with pytest.raises(ValueError, match="no song has 31 tokens"):
        draw_rows(songs, 1, 31, seed=0)


def test_gradient_command(train_corpus, train_processor, tmp_path, capsys, monkeypatch):
    config = RecurrentConfig(**train_processor.model_config_kwargs(), hidden_size=8, embedding_size=4)
    RecurrentForCausalLM(config).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(gradient_by_lag, "read_songs", lambda corpus, split: read_all(corpus, split, train_processor))
    options = ["--corpus", str(train_corpus), "--model", str(tmp_path / "model"), "--lags", "16", "--rows", "2"]
    options += ["--split", "validation"]
    assert gradient_by_lag.main([*options, "-o", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["models"]["trained"]["reach"][-1][0] == 1
    assert {len(reach) for reach in report["models"]["new weights"]["reach"]} == {16}
    assert "spectral radius" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.png").is_file()
    assert gradient_by_lag.main([*options, "--lags", "100000", "-o", str(tmp_path / "x.json")]) == 2
    assert "lower --lags" in capsys.readouterr().err


def read_all(corpus, split, processor):
    """The little corpus has no genres, which `read_songs` wants."""
    tokens = TokenCorpus.from_parquet(corpus, split, processor.vocabulary)
    return [type("Song", (), {"ids": tokens.song(i)}) for i in range(len(tokens))]


def test_songs_spread_over_the_split(train_corpus, train_processor):
    corpus = TokenCorpus.from_parquet(train_corpus, "train", train_processor.vocabulary)
    some = corpus.spread(5)
    assert len(some) == 5
    for i, place in enumerate((0, 10, 20, 29, 39)):
        assert some.names[i] == corpus.names[place]
        assert np.array_equal(some.song(i), corpus.song(place))
    assert len(corpus.spread(1000)) == len(corpus) == 40


def test_learning_curves_of_shares(recipe, train_corpus, tmp_path, capsys):
    model = {"model_type": "music_recurrent", "config": {"hidden_size": 8, "num_hidden_layers": 1, "embedding_size": 4}}
    changes = {
        "train__eval_every": 2,
        "train__log_every": 1,
        "train__max_updates": 1000,
        "train__batches_per_update": 1,
    }
    path = recipe("curves", model=model, bptt={"window": 64, "lanes": 4}, **changes)
    output = tmp_path / "out"
    options = ["--corpus", str(train_corpus), "--recipe", str(path), "--shares", "0.1", "1", "--tokens", "2000"]
    assert learning_curves.main([*options, "-o", str(output)]) == 0
    report = json.loads((output / "learning_curves.json").read_text())
    few, all_songs = report["shares"]
    assert (few["songs"], all_songs["songs"]) == (4, 40)
    assert few["passes"] > all_songs["passes"]
    for row in report["shares"]:
        assert row["gap"] == pytest.approx(row["validation"] - row["train"])
        assert row["best"] == min(row["validation_curve"][1])
        assert row["validation_curve"][0][0] == 0
        assert len(row["train_curve"][0]) == len(row["train_curve"][1]) > 3
    assert (output / "learning_curves.png").is_file()
    assert "| 10% |" in (output / "learning_curves.md").read_text()
    capsys.readouterr()
    assert learning_curves.main([*options, "--shares", "0", "-o", str(output)]) == 2
    assert "must be in (0, 1]" in capsys.readouterr().err
    assert learning_curves.main([*options, "--tokens", "3000", "-o", str(output)]) == 2
    assert "other tokens" in capsys.readouterr().err
