"""MusicVAE: sizes, equivalences of its ways to compute the same, objective, initialisation, overfitting."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.modeling.musicvae.decoder_musicvae import LatentLinear, StepDecoder
from partimento.modeling.musicvae.latent_musicvae import kl_to_prior, softplus_and_log
from partimento.modeling.musicvae.recurrent_musicvae import LSTMLayer, RecurrentStack, StepRunner, ThesisGRU

PARAMETERS = {
    "mel_2bar_tiny": 531_354,
    "mel_2bar_small": 4_429_914,
    "mel_2bar_big": 134_612_058,
    "drums_2bar_tiny": 719_936,
    "drums_2bar_small": 4_642_816,
    "mel_16bar_tiny": 878_554,
    "flat-mel_16bar": 235_308_122,
    "hierdec-mel_16bar": 176_110_682,
    "hierdec-mel_16bar_proj512": 172_441_178,
    "hierdec-drums_16bar": 176_961_024,
    "trio_16bar_tiny": 2_541_364,
    "flat-trio_16bar": 251_336_372,
    "hierdec-trio_16bar": 231_040_692,
}
SMALL = {"z_size": 6, "encoder_hidden_sizes": (8,), "decoder_hidden_sizes": (10, 7)}
TRIO = [
    {"name": "melody", "kind": "categorical", "vocab_size": 90},
    {"name": "bass", "kind": "categorical", "vocab_size": 90},
    {"name": "drums", "kind": "drums", "vocab_size": 512},
]
VARIANTS = {
    "melody": {},
    "drums": {"tracks": TRIO[2:]},
    "gru": {"cell_type": "gru_thesis"},
    "hierarchical": {"decoder_type": "hierarchical", "conductor_hidden_sizes": (5, 9), "num_bars": 3},
    "projected": {
        "decoder_type": "hierarchical",
        "conductor_hidden_sizes": (9,),
        "conductor_output_size": 4,
        "carry_last_token": False,
        "encoder_type": "hierarchical_bilstm",
        "encoder_hidden_sizes": (8, 6, 5),
        "cell_type": "gru_thesis",
    },
    "trio": {"tracks": TRIO, "decoder_type": "hierarchical", "conductor_hidden_sizes": (9,)},
    "flat_trio": {"tracks": TRIO},
    "controlled": {"control_size": 3},
}


def make_model(seed=0, scale=6.0, **overrides):
    """Small model in float64 with weights large enough that latent vectors matter."""
    torch.manual_seed(seed)
    model = MusicVAEModel(MusicVAEConfig(**{**SMALL, **overrides})).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LatentLinear):
                module.weight.mul_(scale * 100)
    return model


def random_ids(config, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tracks = [
        torch.randint(track["vocab_size"], (rows, config.num_steps), generator=generator) + offset
        for track, offset in zip(config.tracks, config.track_offsets)
    ]
    return torch.stack(tracks, -1).flatten(1)


def random_control(config, rows=4):
    return torch.randn(rows, config.num_steps, config.control_size).double() if config.control_size else None


@pytest.fixture(params=VARIANTS)
def model(request):
    return make_model(**VARIANTS[request.param])


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameter_counts(preset):
    with torch.device("meta"):
        model = MusicVAEModel(MusicVAEConfig.from_preset(preset))
    assert model.num_parameters() == PARAMETERS[preset]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_stack_of_layers_equals_the_library(bidirectional):
    """Equal sizes and equal numbers as one nn.LSTM of several layers."""
    ours = RecurrentStack(5, (4, 4, 4), "lstm", bidirectional=bidirectional).double()
    theirs = nn.LSTM(5, 4, 3, batch_first=True, bidirectional=bidirectional).double()
    for i, layer in enumerate(ours.layers):
        for name, parameter in layer.named_parameters():
            getattr(theirs, name.replace("l0", f"l{i}")).data.copy_(parameter)
    x = torch.randn(3, 7, 5).double()
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def test_thesis_gru_by_hand():
    cell = ThesisGRU(2, 1).double()
    values = {"weight_ih_l0": [[0.3, -0.2], [0.5, 0.1], [-0.4, 0.7]], "weight_hh_l0": [[0.6], [-0.3], [0.9]]}
    with torch.no_grad():
        for name, value in values.items():
            getattr(cell, name).copy_(torch.tensor(value))
        cell.bias_ih_l0.copy_(torch.tensor([0.1, -0.1, 0.2]))
    h = 0.0
    outputs = []
    for x in ([1.0, 2.0], [-1.0, 0.5]):
        r = 1 / (1 + math.exp(-(0.3 * x[0] - 0.2 * x[1] + 0.1 + 0.6 * h)))
        u = 1 / (1 + math.exp(-(0.5 * x[0] + 0.1 * x[1] - 0.1 - 0.3 * h)))
        c = math.tanh(-0.4 * x[0] + 0.7 * x[1] + 0.2 + 0.9 * (r * h))
        h = (1 - u) * h + u * c
        outputs.append(h)
    result, (state,) = cell(torch.tensor([[[1.0, 2.0], [-1.0, 0.5]]]).double())
    torch.testing.assert_close(result[0, :, 0], torch.tensor(outputs).double())
    assert float(state[0, 0]) == pytest.approx(h)


def test_thesis_gru_reads_both_directions():
    cell = ThesisGRU(3, 4, bidirectional=True)
    nn.init.normal_(cell.bias_ih_l0)
    for parameter in cell.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 3)
    outputs, _ = cell(x)
    swapped = ThesisGRU(3, 4)
    swapped.load_state_dict({name: getattr(cell, f"{name}_reverse") for name in swapped.state_dict()})
    torch.testing.assert_close(outputs[..., 4:], swapped(x.flip(1))[0].flip(1))


@pytest.mark.parametrize("cell_type", ["lstm", "gru_thesis"])
def test_explicit_cell_equals_the_layer(cell_type):
    stack = RecurrentStack(9 + 3, (6, 4), cell_type).double()
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids, constant = torch.randint(9, (5, 11)), torch.randn(5, 3).double()
    x = torch.cat([nn.functional.one_hot(ids, 9).double(), constant[:, None].expand(-1, 11, -1)], -1)
    state = tuple(torch.randn(5, size).double() for size in stack.state_sizes)
    expected, last = stack(x, state)
    runner, outputs = StepRunner(stack, 9, constant), []
    for column in ids.unbind(1):
        output, state = runner.step(column[:, None], state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, 1), expected)
    for ours, theirs in zip(state, last):
        torch.testing.assert_close(ours, theirs)


def test_folded_equals_looped(model):
    """Teacher forcing with bars in the batch gives what decoding step by step gives for the same ids."""
    ids, control = random_ids(model.config), random_control(model.config)
    latents = model.decoder.segment_latents(torch.randn(4, model.config.z_size).double())
    sequences = ids.reshape(4, model.config.num_steps, -1)
    folded = model.decoder(sequences, latents, control)
    steps, looped = StepDecoder(model.decoder, latents, control), []
    for step in sequences.unbind(1):
        looped.append(steps.logits())
        steps.push(step)
    torch.testing.assert_close(torch.stack(looped, 1), folded)
    with pytest.raises(ValueError, match=r"all \d+ steps of a sequence are decoded already"):
        steps.logits()


def test_gradients_of_folded_and_looped_are_equal():
    grads = []
    for probability in (0.0, 1e-12):  # the second takes the way of scheduled sampling, but always reads the true ids
        model = make_model(**VARIANTS["hierarchical"]).train()
        ids = random_ids(model.config)
        torch.manual_seed(1)
        model(ids, labels=ids, sampling_probability=probability).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)
        silent = name == "decoder.conductor.layers.0.weight_ih_l0"  # its input is a constant zero
        assert bool(grad.abs().sum() > 0) != silent, name


def test_scheduled_sampling_feeds_samples():
    model = make_model().train()
    ids = random_ids(model.config)
    fed = []
    push = StepDecoder.push
    try:
        StepDecoder.push = lambda self, step: (fed.append(step), push(self, step))[1]
        model(ids, labels=ids, sampling_probability=0.5)
    finally:
        StepDecoder.push = push
    agreement = (torch.cat(fed, 1) == ids).double().mean()
    assert 0.3 < float(agreement) < 0.7
    fed.clear()
    model.eval()
    model(ids, labels=ids, sampling_probability=0.5)  # never in evaluation
    assert not fed


def test_segments_are_independent_without_the_carried_token():
    model = make_model(num_bars=4, decoder_type="hierarchical", conductor_hidden_sizes=(9,), carry_last_token=False)
    ids = random_ids(model.config).reshape(4, 64, 1)
    latents = torch.randn(4, 4, 9).double()
    changed = latents.clone()
    changed[:, 2] += 1
    before, after = (model.decoder(ids, x).reshape(4, 4, 16, -1) for x in (latents, changed))
    assert torch.equal(before[:, [0, 1, 3]], after[:, [0, 1, 3]])
    assert not torch.isclose(before[:, 2], after[:, 2]).all(-1).any()


@pytest.mark.parametrize("carry", [True, False])
def test_what_crosses_a_bar_line(carry):
    model = make_model(num_bars=2, decoder_type="hierarchical", conductor_hidden_sizes=(9,), carry_last_token=carry)
    ids = random_ids(model.config).reshape(4, 32, 1)
    previous = model.decoder.previous_ids(ids)
    assert (previous[:, 0] == 90).all()
    assert torch.equal(previous[:, 16], ids[:, 15] if carry else torch.full((4, 1), 90))
    latents = torch.randn(4, 2, 9).double()
    steps = StepDecoder(model.decoder, latents)
    for step in ids.unbind(1)[:16]:
        steps.logits()
        steps.push(step)
    steps.logits()
    assert torch.equal(steps.previous, previous[:, 16])
    other = ids.clone()
    other[:, :15] = 5  # all of bar 0 but its last id: nothing of it may reach bar 1
    assert torch.equal(model.decoder(ids, latents)[:, 16:], model.decoder(other, latents)[:, 16:])


def test_trio_losses_add_up_and_tracks_do_not_hear_each_other():
    model = make_model(**VARIANTS["trio"])
    ids = random_ids(model.config)
    steps = ids.reshape(4, 32, 3)
    latents = model.decoder.segment_latents(torch.randn(4, 6).double())
    logits = model.decoder(steps, latents)
    per_track = model.track_nll(logits, steps)
    by_hand = [
        nn.functional.cross_entropy(part.float().flatten(0, 1), (steps[..., i] - offset).flatten(), reduction="sum")
        for i, (part, offset) in enumerate(zip(logits.split([90, 90, 512], -1), (0, 90, 180)))
    ]
    torch.testing.assert_close(per_track.sum(0), torch.stack(by_hand))
    torch.manual_seed(3)
    output = model(ids, labels=ids, beta=0.0)
    nll = model.track_nll(output.logits, steps)
    torch.testing.assert_close(output.loss.float(), nll.sum(-1).mean())
    changed = steps.clone()
    changed[..., 1] = 90  # another bass
    after = model.decoder(changed, latents)
    assert torch.equal(after[..., :90], logits[..., :90])
    assert torch.equal(after[..., 180:], logits[..., 180:])
    assert not torch.equal(after[..., 90:180], logits[..., 90:180])


def test_tracks_of_a_step_do_not_condition_each_other():
    model = make_model(**VARIANTS["flat_trio"])
    steps = random_ids(model.config).reshape(4, 32, 3)
    latents = model.decoder.segment_latents(torch.randn(4, 6).double())
    changed = steps.clone()
    changed[:, 20] = torch.tensor([3, 93, 200])
    before, after = model.decoder(steps, latents), model.decoder(changed, latents)
    assert torch.equal(before[:, :21], after[:, :21])
    assert not torch.equal(before[:, 21], after[:, 21])  # one state for all tracks


def test_kl():
    mu, sigma = torch.randn(5, 7).double(), torch.rand(5, 7).double() + 0.1
    kl = kl_to_prior(mu, sigma)
    posterior, prior = torch.distributions.Normal(mu, sigma), torch.distributions.Normal(0.0, torch.ones(()).double())
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(posterior, prior))
    assert (kl >= 0).all()
    assert torch.equal(kl_to_prior(torch.zeros(3), torch.ones(3)), torch.zeros(3))
    torch.manual_seed(0)
    draws = mu + sigma * torch.randn(20000, 5, 7).double()
    ratio = posterior.log_prob(draws) - prior.log_prob(draws)
    assert ((ratio.mean(0) - kl).abs() < 4 * ratio.std(0) / 20000**0.5).all()


def test_log_of_softplus_is_stable():
    x = torch.tensor([-200.0, -40.0, -16.0, -14.0, 0.0, 30.0], requires_grad=True)
    value, log = softplus_and_log(x)
    expected = torch.log(nn.functional.softplus(x.detach().double()))
    torch.testing.assert_close(log.double(), expected, rtol=1e-6, atol=1e-6)
    log.sum().backward()
    torch.testing.assert_close(x.grad[:2], torch.ones(2))
    assert torch.isfinite(x.grad).all()
    assert value[-1] == 30


@pytest.mark.parametrize("mode", ["total", "per_dim"])
def test_objective_by_hand(mode):
    model = make_model(free_bits=3.0, free_bits_mode=mode, max_beta=0.7)
    ids = random_ids(model.config)
    torch.manual_seed(5)
    output = model(ids, labels=ids, beta=0.25)
    kl = 0.5 * (output.mu**2 + output.sigma**2 - 1 - 2 * output.sigma.log())
    free = 3 * math.log(2)
    penalty = (kl.sum(1) - free).clamp(min=0) if mode == "total" else (kl - free).clamp(min=0).sum(1)
    torch.testing.assert_close(output.loss, output.reconstruction_loss + 0.25 * penalty.mean(), check_dtype=False)
    torch.testing.assert_close(output.kl, kl.sum(1).mean())
    torch.testing.assert_close(output.kl_per_dim, kl.mean(0))
    torch.manual_seed(5)
    torch.testing.assert_close(
        model(ids, labels=ids).loss, output.reconstruction_loss + 0.7 * penalty.mean(), check_dtype=False
    )
    masked = ids.clone()
    masked[:, 5:] = -100
    assert 0 < float(model(ids, labels=masked).reconstruction_loss) < float(output.reconstruction_loss)


def test_without_labels_z_is_the_mean():
    model = make_model()
    ids = random_ids(model.config)
    output = model(ids)
    assert output.loss is None
    assert torch.equal(output.z, output.mu)
    assert output.logits.shape == (4, 32, 90)


def test_drum_encoder_reads_a_roll():
    model = make_model(**VARIANTS["drums"])
    assert model.encoder.rnn.layers[0].input_size == 10
    roll = model.encoder.inputs(torch.tensor([[[0], [0b100000101]]]))
    assert roll[0].tolist() == [[0] * 9 + [1], [1, 0, 1, 0, 0, 0, 0, 0, 1, 0]]


def test_initialisation():
    torch.manual_seed(0)
    model = MusicVAEModel(MusicVAEConfig.from_preset("mel_2bar_small"))
    for module in model.modules():
        if isinstance(module, LatentLinear):
            assert float(module.weight.std()) == pytest.approx(1e-3, rel=0.02)
            assert not module.bias.any()
        if isinstance(module, LSTMLayer):
            size = module.hidden_size
            summed = module.bias_ih_l0 + module.bias_hh_l0
            assert torch.equal(summed, torch.cat([torch.zeros(size), torch.ones(size), torch.zeros(2 * size)]))
            bound = math.sqrt(6 / sum(module.weight_hh_l0.shape))
            assert float(module.weight_hh_l0.abs().max()) == pytest.approx(bound, rel=0.01)


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert isinstance(loaded, MusicVAEModel)
        assert loaded.dtype == torch.float64
        for name, parameter in model.state_dict().items():
            assert torch.equal(parameter, loaded.state_dict()[name]), name
        assert (
            loaded.config.to_dict()
            == model.config.to_dict()
            | {name: loaded.config.to_dict()[name] for name in ("architectures", "dtype", "_name_or_path") if name}
            or loaded.config.tracks == model.config.tracks
        )
        z = torch.randn(2, 6).double()
        control = random_control(model.config, 2)
        assert torch.equal(model.decode(z, control=control), loaded.eval().decode(z, control=control))


def test_missing_keys_are_initialised_and_loaded_ones_kept(tmp_path):
    from safetensors.torch import load_file, save_file

    model = MusicVAEModel(MusicVAEConfig(**SMALL))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = "encoder.rnn.layers.0.weight_hh_l0"
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = MusicVAEModel.from_pretrained(tmp_path)
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert float(state[missing].abs().max()) <= math.sqrt(6 / 40)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"encoder_type": "cnn"}, "encoder_type='cnn' is unknown"),
        ({"decoder_type": "hierarchical"}, "a hierarchical decoder has a conductor"),
        ({"conductor_hidden_sizes": (4,)}, "a flat one has none"),
        ({"conductor_output_size": 4}, "needs a conductor"),
        ({"decoder_type": "hierarchical", "conductor_hidden_sizes": (4,), "segment_length": 5}, "must divide"),
        ({"encoder_type": "hierarchical_bilstm"}, "needs two encoder_hidden_sizes"),
        ({"pitch_max": 100}, "pitches 21 ... 100 have 82"),
        ({"tracks": []}, "tracks is empty"),
        ({"tracks": [{"name": "melody", "kind": "organ", "vocab_size": 90}]}, "a kind among"),
        ({"pad_token_id": 0}, "must be the id behind all tracks, 90"),
        ({"z_size": 0}, "z_size=0 must be positive"),
        ({"z_size": "many"}, "z_size"),
        ({"free_bits": -1}, "must not be negative"),
        ({"zsize": 4}, "did you mean `z_size`"),
    ],
)
def test_bad_configurations(overrides, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        MusicVAEConfig(**{**SMALL, **overrides})


def test_presets_are_checked():
    with pytest.raises(ValueError, match="unknown preset 'mel'"):
        MusicVAEConfig.from_preset("mel")
    with pytest.raises(ValueError, match="not among the fields"):
        MusicVAEConfig.from_preset("mel_2bar_tiny", zsize=3)


def test_bfloat16_is_finite():
    model = make_model(**VARIANTS["trio"]).bfloat16()
    ids = random_ids(model.config)
    output = model(ids, labels=ids)
    assert torch.isfinite(output.loss)
    assert output.mu.dtype == torch.float32
    assert model.decode(torch.randn(2, 6)).shape == (2, 96)


def test_overfits_and_needs_its_latent_vectors():
    """At a small beta the tiny preset learns 64 windows by heart; another window's code then costs more."""
    torch.manual_seed(0)
    model = MusicVAEModel(MusicVAEConfig.from_preset("mel_2bar_tiny", num_bars=1)).train()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(30, 60, (64, 16), generator=generator)
    ids[torch.rand(64, 16, generator=generator) < 0.6] = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))
    for _ in range(400):
        output = model(ids, labels=ids, beta=1e-4)
        output.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        if float(output.reconstruction_loss.detach()) < 0.3:
            break
    model.eval()
    accuracy = (model(ids).logits.argmax(-1) == ids).double().mean()
    assert float(accuracy) >= 0.99
    z = model.encode(ids).z
    gap = model._nll(ids, z.roll(1, 0)) - model._nll(ids, z)
    assert float(gap.detach().mean()) > 5
