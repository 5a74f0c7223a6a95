"""Every cell against its equations, and the parameter counts of the published models."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM, RecurrentModel

CELLS = ("rnn_tanh", "rnn_relu", "gru", "gru_thesis", "lstm", "lstm_peephole")
TORCH = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
INPUT, HIDDEN, STEPS, ROWS = 5, 4, 9, 3


def make_cell(cell_type, seed=0, **config):
    """A cell in float64 with every parameter, biases and peepholes included, drawn at random."""
    torch.manual_seed(seed)
    settings = {"vocab_size": INPUT, "hidden_size": HIDDEN, "num_hidden_layers": 1, "input_mode": "one_hot", **config}
    model = RecurrentModel(RecurrentConfig(cell_type=cell_type, **settings)).double()
    cell = model.layers[0].cell
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return cell


def draw(cell, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, STEPS, INPUT, dtype=torch.float64, generator=generator)
    states = torch.randn(2, ROWS, HIDDEN, dtype=torch.float64, generator=generator)
    return inputs, tuple(states) if cell.has_memory else (states[0],)


def printed(cell, cell_type, x, state):
    """One step, as the equations are printed: one matrix, bias and row at a time, in NumPy."""

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    weights = {name.rpartition(".")[2].removesuffix("_l0"): p.detach().numpy() for name, p in cell.named_parameters()}
    U, W = np.split(weights["weight_ih"], cell.num_gates), np.split(weights["weight_hh"], cell.num_gates)
    b = np.split(weights["bias_ih"], cell.num_gates)
    d = np.split(weights.get("bias_hh", np.zeros_like(weights["bias_ih"])), cell.num_gates)
    h = state[0]
    if cell_type.startswith("rnn"):
        total = b[0] + d[0] + W[0] @ h + U[0] @ x
        return (np.tanh(total) if cell_type == "rnn_tanh" else np.maximum(0, total),)
    if cell_type.startswith("gru"):
        r = sigmoid(b[0] + d[0] + U[0] @ x + W[0] @ h)
        z = sigmoid(b[1] + d[1] + U[1] @ x + W[1] @ h)
        if cell_type == "gru":
            return ((1 - z) * np.tanh(b[2] + U[2] @ x + r * (W[2] @ h + d[2])) + z * h,)
        return ((1 - z) * h + z * np.tanh(b[2] + U[2] @ x + W[2] @ (r * h)),)
    p = {gate: weights.get(f"peephole_{gate}", 0.0) for gate in ("input", "forget", "output")}
    C = state[1]
    i = sigmoid(b[0] + d[0] + U[0] @ x + W[0] @ h + p["input"] * C)
    f = sigmoid(b[1] + d[1] + U[1] @ x + W[1] @ h + p["forget"] * C)
    g = np.tanh(b[2] + d[2] + U[2] @ x + W[2] @ h)
    C = f * C + i * g
    o = sigmoid(b[3] + d[3] + U[3] @ x + W[3] @ h + p["output"] * C)
    return o * np.tanh(C), C


@pytest.mark.parametrize("cell_type", CELLS)
def test_cell_is_the_printed_equation(cell_type):
    cell = make_cell(cell_type)
    inputs, state = draw(cell)
    outputs, last = cell(inputs, state)
    for row in range(ROWS):
        expected = tuple(s[row].numpy() for s in state)
        for i in range(STEPS):
            expected = printed(cell, cell_type, inputs[row, i].numpy(), expected)
            assert np.abs(outputs[row, i].detach().numpy() - expected[0]).max() < 1e-10
        assert all(np.abs(a[row].detach().numpy() - b).max() < 1e-10 for a, b in zip(last, expected))


@pytest.mark.parametrize("gates", [(), ("input",), ("forget", "output")])
def test_peepholes_can_be_left_out(gates):
    cell = make_cell("lstm_peephole", peephole_gates=gates)
    inputs, state = draw(cell)
    expected = tuple(s[0].numpy() for s in state)
    for i in range(STEPS):
        expected = printed(cell, "lstm_peephole", inputs[0, i].numpy(), expected)
    assert np.abs(cell(inputs, state)[1][1][0].detach().numpy() - expected[1]).max() < 1e-10
    assert {name for name, _ in cell.named_parameters() if "peephole" in name} == {f"peephole_{g}" for g in gates}


@pytest.mark.parametrize("cell_type", CELLS)
def test_scan_equals_sequence_with_gradients(cell_type):
    """Step by step through the explicit equations, and all at once (fused where torch has it)."""
    cell = make_cell(cell_type)
    inputs, state = draw(cell)
    target = torch.randn(ROWS, STEPS, HIDDEN, dtype=torch.float64)
    results = []
    for stepwise in (False, True):
        x, start = inputs.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in state)
        if stepwise:
            outputs, now = [], start
            for i in range(STEPS):
                now = cell.step(cell.project(x[:, i]), now)
                outputs.append(now[0])
            output = torch.stack(outputs, 1)
        else:
            output, now = cell(x, start)
        loss = (output * target).sum() + sum(tensor.square().sum() for tensor in now)
        results.append([output, *now, *torch.autograd.grad(loss, [x, *start, *cell.parameters()])])
    assert len(results[0]) == len(results[1])
    for a, b in zip(*results):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("cell_type", TORCH)
def test_equals_torch(cell_type):
    """Two layers of ours against one torch module of two layers."""
    torch.manual_seed(0)
    config = RecurrentConfig(
        cell_type=cell_type, vocab_size=7, embedding_size=INPUT, hidden_size=HIDDEN, num_hidden_layers=2
    )
    model = RecurrentModel(config).double().eval()
    extra = {"nonlinearity": cell_type[4:]} if cell_type.startswith("rnn") else {}
    reference = TORCH[cell_type](INPUT, HIDDEN, 2, batch_first=True, **extra).double()
    for i, layer in enumerate(model.layers):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer.cell.rnn, f"{kind}_l0").data.copy_(getattr(reference, f"{kind}_l{i}").data)
    x = torch.randn(ROWS, STEPS, INPUT, dtype=torch.float64)
    assert torch.allclose(model(inputs_embeds=x).last_hidden_state, reference(x)[0], atol=1e-12)


def test_one_hot_input_is_the_embedding_of_the_columns():
    for cell_type in CELLS:
        cell = make_cell(cell_type)
        ids = torch.randint(INPUT, (ROWS, STEPS))
        state = draw(cell)[1]
        vectors = nn.functional.one_hot(ids, INPUT).double()
        for steps in (STEPS, 1):
            assert torch.allclose(cell(ids[:, :steps], state)[0], cell(vectors[:, :steps], state)[0], atol=1e-12)


def test_the_two_grus_differ():
    first, second = make_cell("gru"), make_cell("gru_thesis")
    with torch.no_grad():
        second.weight_ih.copy_(first.weight_ih)
        second.weight_hh.copy_(first.weight_hh)
        second.bias_ih.copy_(first.bias_ih)
        first.bias_hh.zero_()
        size = HIDDEN  # `gru` keeps z of the old state, `gru_thesis` replaces u of it
        for weight in (second.weight_ih, second.weight_hh, second.bias_ih):
            weight[size : 2 * size] *= -1
        inputs, state = draw(first)
        (one,), (two,) = (cell.step(cell.project(inputs[:, 0]), state) for cell in (first, second))
        assert (one - two).abs().max() > 1e-3
        first.weight_hh[2 * size :].zero_()  # the reset gate, where they differ, is out of play
        second.weight_hh[2 * size :].zero_()
        (one,), (two,) = (cell.step(cell.project(inputs[:, 0]), state) for cell in (first, second))
        assert torch.allclose(one, two, atol=1e-12)


def test_back_propagation_by_hand():
    """Six steps of a tanh RNN: grad h_t = W^T diag(1 - h_{t+1}^2) grad h_{t+1} + V^T grad o_t, parameters summed."""
    torch.manual_seed(0)
    config = RecurrentConfig(
        cell_type="rnn_tanh", vocab_size=5, hidden_size=4, num_hidden_layers=1, input_mode="one_hot"
    )
    model = RecurrentForCausalLM(config).double()
    ids = torch.tensor([[1, 3, 2, 4, 0, 3, 1]])
    model(input_ids=ids[:, :-1], shift_labels=ids[:, 1:]).loss.backward()
    rnn, head = model.model.layers[0].cell.rnn, model.lm_head
    U, W, V = (p.detach().numpy() for p in (rnn.weight_ih_l0, rnn.weight_hh_l0, head.weight))
    b, c = (rnn.bias_ih_l0 + rnn.bias_hh_l0).detach().numpy(), head.bias.detach().numpy()
    states, errors = [np.zeros(4)], []
    for t in range(6):
        states.append(np.tanh(b + W @ states[-1] + U[:, ids[0, t]]))
        probabilities = np.exp(c + V @ states[-1])
        probabilities /= probabilities.sum()
        probabilities[ids[0, t + 1]] -= 1
        errors.append(probabilities / 6)
    dU, dW, dV, db = np.zeros_like(U), np.zeros_like(W), np.zeros_like(V), np.zeros_like(b)
    gradient = np.zeros(4)
    for t in reversed(range(6)):
        h = states[t + 1]
        gradient = gradient + V.T @ errors[t]
        inner = (1 - h**2) * gradient
        dU[:, ids[0, t]] += inner
        dW += np.outer(inner, states[t])
        db += inner
        dV += np.outer(errors[t], h)
        gradient = W.T @ inner
    pairs = [(rnn.weight_ih_l0, dU), (rnn.weight_hh_l0, dW), (rnn.bias_ih_l0, db), (head.weight, dV)]
    for parameter, expected in pairs:
        assert np.abs(parameter.grad.numpy() - expected).max() < 1e-8


def count(**config):
    with torch.device("meta"):
        return RecurrentForCausalLM(RecurrentConfig(**config)).num_free_parameters()


def test_parameter_counts():
    thesis = {"vocab_size": 80, "hidden_size": 100, "num_hidden_layers": 1, "input_mode": "one_hot"}
    assert [count(cell_type=c, **thesis) for c in ("rnn_tanh", "gru_thesis", "lstm")] == [26_180, 62_380, 80_480]
    assert count(cell_type="lstm", **{**thesis, "vocab_size": 208}) == 144_608
    small = {"vocab_size": 640, "embedding_size": 256, "num_hidden_layers": 2}
    sizes = [("lstm", 512, 4_166_272), ("gru", 600, 4_252_880 + 2 * 600), ("rnn_tanh", 1024, 4_229_760)]
    for cell_type, hidden, expected in sizes:
        assert count(cell_type=cell_type, hidden_size=hidden, **small) == expected
    paper = {"vocab_size": 640, "embedding_size": 512, "num_hidden_layers": 3}
    assert count(cell_type="lstm", hidden_size=832, **paper) == 16_419_200


@pytest.mark.parametrize("cell_type", CELLS)
def test_initial_values(cell_type):
    torch.manual_seed(0)
    config = RecurrentConfig(cell_type=cell_type, vocab_size=30, embedding_size=6, hidden_size=16, forget_gate_bias=2.5)
    model = RecurrentForCausalLM(config)
    cell = model.model.layers[1].cell
    parameters = {name.rpartition(".")[2].removesuffix("_l0"): p.detach() for name, p in cell.named_parameters()}
    bias = parameters["bias_ih"].view(-1, 16)
    if cell.has_memory:
        assert (bias[1] == 2.5).all()
        assert (bias[[0, 2, 3]] == 0).all()
    else:
        assert (bias == 0).all()
    assert all((value == 0).all() for name, value in parameters.items() if name == "bias_hh" or "peephole" in name)
    assert parameters["weight_ih"].abs().max() <= math.sqrt(6 / 32)
    assert parameters["weight_ih"].abs().max() > 0.9 * math.sqrt(6 / 32)
    if cell_type == "rnn_relu":
        assert torch.equal(parameters["weight_hh"], torch.eye(16))
    table = model.model.embed_tokens.weight
    assert (table[0] == 0).all()
    assert 0.07 < table[1:].std() < 0.1
    assert table.abs().max() <= 0.2
