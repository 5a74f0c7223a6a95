"""Recurrent models as a whole: padding, chunks, carried states, losses, bidirectional encoders, saving."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM

from partimento.modeling import RecurrentCache, RecurrentConfig, RecurrentForCausalLM, RecurrentModel

CELLS = ("rnn_tanh", "rnn_relu", "gru", "gru_thesis", "lstm", "lstm_peephole")
VOCAB = 23


def tiny_config(**overrides):
    settings = {"vocab_size": VOCAB, "hidden_size": 12, "embedding_size": 6, "num_hidden_layers": 2, **overrides}
    return RecurrentConfig(**settings)


def tiny_model(seed=0, model_class=RecurrentForCausalLM, **overrides):
    """A model whose states change strongly from step to step."""
    torch.manual_seed(seed)
    model = model_class(tiny_config(initializer_range=1.0, **overrides)).double().eval()
    for name, parameter in model.named_parameters():
        if "bias" in name or "peephole" in name:
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def draw_ids(rows, steps, seed=0):
    return torch.randint(3, VOCAB, (rows, steps), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[(cell, mode) for cell in CELLS for mode in ("embedding", "one_hot")], ids="-".join)
def model(request):
    return tiny_model(cell_type=request.param[0], input_mode=request.param[1])


def padded(ids, lengths, side):
    """Mask of rows with the given lengths; `both` puts half of the padding on either side, `hole` inside."""
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        pads = ids.shape[1] - length
        start = {"left": pads, "right": 0, "both": pads // 2, "hole": 0}[side]
        mask[row, start : start + length] = 1
        if side == "hole" and 2 <= length < ids.shape[1]:
            mask[row] = 1
            mask[row, 1 : 1 + pads] = 0
    return mask


@pytest.mark.parametrize("side", ["left", "right", "both", "hole"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_padded_batch_equals_single_calls(model, side, use_cache):
    ids, lengths = draw_ids(5, 9), (9, 4, 1, 6, 0)
    mask = padded(ids, lengths, side)
    output = model(ids, attention_mask=mask, use_cache=use_cache)
    for row in range(4):
        real = mask[row].bool()
        single = model(ids[row : row + 1, real], use_cache=True)
        assert torch.allclose(output.logits[row, real], single.logits[0], atol=1e-12)
        if use_cache:
            for ours, theirs in zip(output.past_key_values.states, single.past_key_values.states):
                assert all(torch.allclose(a[row], b[0], atol=1e-12) for a, b in zip(ours, theirs))
    if use_cache:
        assert all((tensor[4] == 0).all() for state in output.past_key_values.states for tensor in state)
    hidden = model.model(ids, attention_mask=mask).last_hidden_state
    assert (hidden[mask == 0] == 0).all()


def test_chunks_equal_the_whole(model):
    ids = draw_ids(4, 13)
    mask = padded(ids, (13, 5, 8, 0), "left")
    whole = model(ids, attention_mask=mask).logits
    cache, parts = None, []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 13)):
        output = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        assert cache.get_seq_length() == end
        parts.append(output.logits)
    real = mask.bool()
    assert torch.allclose(torch.cat(parts, 1)[real], whole[real], atol=1e-12)


def test_no_future_leak(model):
    ids = draw_ids(2, 8)
    other = ids.clone()
    other[:, 5] = (other[:, 5] - 3 + 1) % (VOCAB - 3) + 3
    before, after = model(ids).logits, model(other).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def test_windows_with_the_state_carried_along_give_the_full_gradient(model):
    """Undetached, two windows are the whole sequence; one window that covers it is full back-propagation."""
    ids = draw_ids(3, 11)
    full = gradients(model, model(ids, labels=ids).loss)
    covering = gradients(model, model(ids[:, :-1], shift_labels=ids[:, 1:], use_cache=True).loss)
    first = model(ids[:, :4], shift_labels=ids[:, 1:5], use_cache=True, num_items_in_batch=30)
    carried = first.past_key_values
    second = model(ids[:, 4:-1], shift_labels=ids[:, 5:], past_key_values=carried, num_items_in_batch=30)
    windows = gradients(model, first.loss + second.loss)
    for a, b, c in zip(full, covering, windows):
        assert torch.allclose(a, b, atol=1e-12)
        assert torch.allclose(a, c, atol=1e-12)


def test_a_detached_state_truncates_the_gradient_and_nothing_else(model):
    ids = draw_ids(3, 11)
    losses, parts = [], []
    for detach in (False, True):
        first = model(ids[:, :4], use_cache=True)
        cache = first.past_key_values.detach_() if detach else first.past_key_values
        second = model(ids[:, 4:-1], shift_labels=ids[:, 5:], past_key_values=cache)
        losses.append(second.loss)
        parts.append(gradients(model, second.loss))
    assert torch.equal(*losses)
    state = model(ids[:, :4], use_cache=True).past_key_values.detach_()
    assert not any(tensor.requires_grad for layer in state.states for tensor in layer)
    assert any(not torch.allclose(a, b) for a, b in zip(*parts))


def test_zeroed_rows_start_anew(model):
    ids = draw_ids(3, 12)
    cache = model(ids[:, :5], use_cache=True).past_key_values
    cache.zero_rows_(torch.tensor([False, True, False]))
    output = model(ids[:, 5:], past_key_values=cache).logits
    assert torch.allclose(output[1:2], model(ids[1:2, 5:]).logits, atol=1e-12)
    assert torch.allclose(output[[0, 2]], model(ids).logits[[0, 2], 5:], atol=1e-12)


def test_loss_is_the_cross_entropy(model):
    ids = draw_ids(3, 9)
    labels = ids.clone()
    labels[:, :3] = -100
    output = model(ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, 2:-1].float().flatten(0, 1), ids[:, 3:].flatten())
    assert torch.allclose(output.loss, expected)
    assert torch.allclose(model(ids, labels=labels, num_items_in_batch=5).loss, expected * 18 / 5)
    assert output.past_key_values is None


def test_likelihood_recovers_the_frequencies_of_bigrams(model):
    """Maximum likelihood without regularisation on pairs of tokens: probabilities become relative frequencies."""
    torch.manual_seed(0)
    first = torch.randint(4, (400, 1))
    weights = torch.tensor([[8.0, 1, 1, 1], [2, 2, 2, 2], [1, 1, 1, 9], [1, 5, 1, 4]])
    second = torch.multinomial(weights[first[:, 0]], 1)
    pairs = torch.cat([first, second], 1)
    counts = torch.zeros(4, 4, dtype=torch.double)
    for i, j in pairs.tolist():
        counts[i, j] += 1
    kind = {name: getattr(model.config, name) for name in ("cell_type", "input_mode")}
    fresh = tiny_model(vocab_size=4, bar_token_id=None, **kind).train()
    optimizer = torch.optim.LBFGS(fresh.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = fresh(first, shift_labels=second).loss
        value.backward()
        return value

    optimizer.step(loss)
    predicted = fresh.eval()(torch.arange(4)[:, None]).logits[:, 0].softmax(-1)
    assert (predicted - counts / counts.sum(1, keepdim=True)).abs().max() < 0.02


@pytest.mark.parametrize("cell_type", CELLS)
def test_dropout_and_residual(cell_type):
    model = tiny_model(cell_type=cell_type, residual=True, dropout=0.5)
    ids = draw_ids(2, 6)
    hidden = model.model(ids, output_hidden_states=True).hidden_states
    assert [tuple(h.shape) for h in hidden] == [(2, 6, 6), (2, 6, 12), (2, 6, 12)]
    layer = model.model.layers[1]
    read, _ = layer.cell(hidden[1], layer.cell.initial_state(2, hidden[1]))
    assert torch.allclose(hidden[2], hidden[1] + read, atol=1e-12)
    model.train()
    states = model.model(ids).last_hidden_state
    assert 0.2 < (states == 0).double().mean() < 0.8


@pytest.mark.parametrize("cell_type", CELLS)
def test_bidirectional_encoder(cell_type):
    """The backward half is the same network on the reversed row; padding counts for neither."""
    model = tiny_model(model_class=RecurrentModel, cell_type=cell_type, bidirectional=True, num_hidden_layers=1)
    mirror = tiny_model(model_class=RecurrentModel, cell_type=cell_type, num_hidden_layers=1)
    mirror.embed_tokens.load_state_dict(model.embed_tokens.state_dict())
    mirror.layers[0].cell.load_state_dict(model.layers[0].backward_cell.state_dict())
    ids, lengths = draw_ids(3, 8), (8, 5, 1)
    for side in ("left", "right", "both"):
        mask = padded(ids, lengths, side)
        output = model(ids, attention_mask=mask)
        for row in range(3):
            real = mask[row].bool()
            backward = mirror(ids[row, real].flip(0)[None]).last_hidden_state[0]
            assert torch.allclose(output.last_hidden_state[row, real, 12:], backward.flip(0), atol=1e-12)
            single = model(ids[row : row + 1, real])
            assert torch.allclose(output.last_hidden_state[row, real], single.last_hidden_state[0], atol=1e-12)
            assert torch.allclose(output.pooler_output[row], single.pooler_output[0], atol=1e-12)
            assert torch.allclose(single.pooler_output[0, 12:], backward[-1], atol=1e-12)
            assert torch.equal(single.pooler_output[0, :12], single.last_hidden_state[0, -1, :12])


def test_two_bidirectional_layers_train():
    model = tiny_model(model_class=RecurrentModel, bidirectional=True, residual=True).train()
    ids = draw_ids(3, 8)
    model(ids, attention_mask=padded(ids, (8, 3, 5), "left")).pooler_output.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("head_type", ["bernoulli", "gaussian"])
def test_heads_over_vectors(head_type):
    """Written-out likelihoods of a roll, padding and its targets left out."""
    model = tiny_model(head_type=head_type)
    steps = (torch.rand(2, 7, 6, dtype=torch.float64) > 0.5).double()
    mask = padded(steps[:, :, 0].long(), (7, 4), "left")
    output = model(inputs_embeds=steps, attention_mask=mask, labels=steps)
    total, count = 0.0, 0
    for row, first in ((0, 0), (1, 3)):
        for i in range(first, 6):
            predicted, target = output.logits[row, i], steps[row, i + 1]
            if head_type == "bernoulli":
                on = torch.sigmoid(predicted)
                total -= (target * on.log() + (1 - target) * (1 - on).log()).sum()
            else:
                total += 0.5 * (target - predicted).square().sum()
            count += 1
    assert torch.allclose(output.loss, (total / count).float())
    windowed = model(inputs_embeds=steps[:1, :-1], shift_labels=steps[:1, 1:], num_items_in_batch=9)
    whole = model(inputs_embeds=steps[:1], labels=steps[:1])
    assert torch.allclose(windowed.loss * 9, whole.loss * 6)
    with pytest.raises(ValueError, match="inputs_embeds"):
        model(draw_ids(1, 4))
    with pytest.raises(ValueError, match="predicts vectors"):
        model.generate(draw_ids(1, 4), max_new_tokens=2)


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values())
    assert isinstance(loaded, RecurrentForCausalLM)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    ids = draw_ids(2, 6)
    assert torch.allclose(loaded.eval()(ids).logits, model(ids).logits, atol=1e-12)
    base = AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert isinstance(base, RecurrentModel)
    assert torch.allclose(base(ids).last_hidden_state, model.model(ids).last_hidden_state, atol=1e-12)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()


def test_what_a_checkpoint_lacks_is_initialised(tmp_path):
    model = tiny_model(cell_type="lstm", forget_gate_bias=3.0).float()
    state = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = RecurrentForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())
    fresh = loaded.model.layers[1].cell.rnn
    assert (fresh.bias_ih_l0.view(4, -1)[1] == 3).all()
    assert fresh.weight_hh_l0.abs().max() <= 0.5


def test_tied_weights(tmp_path):
    model = RecurrentForCausalLM(tiny_config(embedding_size=12, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = RecurrentForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    loaded.resize_token_embeddings(VOCAB + 4)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded(draw_ids(1, 3)).logits.shape[-1] == VOCAB + 4


def test_half_precision():
    for cell_type in CELLS:
        model = tiny_model(cell_type=cell_type).float()
        ids = draw_ids(2, 7)
        expected = model(ids).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(ids, attention_mask=padded(ids, (7, 4), "left"), use_cache=True)
            model(ids[:, :1], past_key_values=output.past_key_values)
        assert (output.logits[0].float() - expected[0]).abs().max() < 0.1 * expected.abs().max()
        assert model.to(torch.bfloat16)(ids).logits.isfinite().all()


@pytest.mark.parametrize(
    "overrides",
    [
        {"cell_type": "lstn"},
        {"hiden_size": 8},
        {"hidden_size": 0},
        {"dropout": 1.0},
        {"peephole_gates": ("input", "memory")},
        {"head_type": "bernoulli", "input_mode": "one_hot"},
        {"tie_word_embeddings": True},
        {"pad_token_id": VOCAB},
        {"vocab_size": "many"},
    ],
)
def test_wrong_configurations_are_refused(overrides):
    with pytest.raises(Exception, match=next(iter(overrides)).split("_")[0]):
        tiny_config(**overrides)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="RecurrentModel"):
        RecurrentForCausalLM(tiny_config(bidirectional=True))
    encoder = RecurrentModel(tiny_config(bidirectional=True))
    with pytest.raises(ValueError, match="no cache"):
        encoder(draw_ids(1, 3), past_key_values=RecurrentCache(2))
    model = tiny_model()
    with pytest.raises(ValueError, match="exactly one"):
        model(draw_ids(1, 3), inputs_embeds=torch.zeros(1, 3, 6))
    with pytest.raises(ValueError, match="RecurrentCache"):
        model(draw_ids(1, 3), past_key_values=(torch.zeros(1, 12),))
    with pytest.raises(ValueError, match="cropped"):
        RecurrentCache(1).crop(1)
