"""The lag diagnostic: rows as described, cells that remember, and a gradient that is what it is said to be."""

import json

import pytest
import torch

from partimento.training.lag_recall import BAR, NUM_PAYLOADS, QUERY, draw_rows, gradient_reach, main, make_model, recall


def test_rows():
    rows, payload = draw_rows(5, 200, torch.Generator().manual_seed(0))
    assert rows.shape == (200, 7)
    assert torch.equal(rows[:, 0], payload)
    assert set(rows[:, 0].tolist()) == set(range(NUM_PAYLOADS))
    assert set(rows[:, 1:-1].flatten().tolist()) == set(range(NUM_PAYLOADS, QUERY))
    assert (rows[:, -1] == QUERY).all()


def test_rows_of_bars():
    plain, _ = draw_rows(5, 20, torch.Generator().manual_seed(0))
    rows, payload = draw_rows(5, 20, torch.Generator().manual_seed(0), bars=True)
    assert rows.shape == (20, 14)
    assert (rows[:, ::2] == BAR).all()
    assert torch.equal(rows[:, 1::2], plain)
    assert torch.equal(rows[:, 1], payload)


@pytest.mark.parametrize("cell", ["museformer", "full_attention", "lstm"])
def test_bars_are_recalled(cell):
    result = recall(cell, 2, seed=0, updates=400, bars=True)
    assert result["learned"]
    assert (result["gradient_reach_after"] is None) == (cell != "lstm")


def test_attention_needs_bars():
    with pytest.raises(ValueError, match="add --bars"):
        recall("museformer", 2, seed=0)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gated_cells_recall_over_eight_steps(cell):
    result = recall(cell, 8, seed=0, updates=1000)
    assert result["learned"]
    assert result["updates"] < 1000


def test_gradient_reach_of_a_linear_recurrence():
    """With W = a I, no input and ReLU in its linear range, the gradient shrinks by a in every step."""
    model = make_model("rnn_relu", 1.0, 0).double()
    rnn = model.model.layers[0].cell.rnn
    with torch.no_grad():
        rnn.weight_ih_l0.zero_()
        rnn.weight_hh_l0.copy_(0.8 * torch.eye(64))
        rnn.bias_ih_l0.fill_(1.0)
    rows, payload = draw_rows(6, 16, torch.Generator().manual_seed(0))
    assert gradient_reach(model, rows, payload) == pytest.approx(0.8**7, rel=1e-6)


def test_command(tmp_path, capsys):
    output = tmp_path / "recall.json"
    options = ["--cells", "rnn_tanh", "lstm", "--lags", "2", "--seeds", "0", "--updates", "3", "-o", str(output)]
    assert main(options) == 0
    runs = json.loads(output.read_text())["runs"]
    assert [(run["cell"], run["forget_bias"]) for run in runs] == [("rnn_tanh", None), ("lstm", 1.0), ("lstm", 3.0)]
    assert "never" in output.with_suffix(".md").read_text()
    assert main([*options[:3], "--lags", "-1", "-o", str(output)]) == 2
    assert "lag=-1" in capsys.readouterr().err
