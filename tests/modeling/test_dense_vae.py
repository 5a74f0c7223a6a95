"""Dense VAE: sizes, objective against closed forms, likelihoods by other means, latent space, saving and loading."""

import inspect
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from partimento.modeling import DenseVAEConfig, DenseVAEModel
from partimento.modeling.dense_vae import DenseVAEDecoder, DenseVAEEncoder, latent_dense_vae
from partimento.modeling.dense_vae.latent_dense_vae import kl_to_prior, log_normal
from partimento.modeling.musicvae import latent_musicvae

LN2 = math.log(2)


def make_model(seed=0, **overrides):
    """Small model in float64."""
    torch.manual_seed(seed)
    settings = {"input_shape": (4, 5), "hidden_sizes": (12, 7), "latent_size": 3, **overrides}
    return DenseVAEModel(DenseVAEConfig(**settings)).double().eval()


def binary(*shape, seed=0):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).double()


def one_hot(rows, shape, seed=0):
    ids = torch.randint(shape[-1], (rows, *shape[:-1]), generator=torch.Generator().manual_seed(seed))
    return F.one_hot(ids, shape[-1]).double()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Sizes and configuration


@pytest.mark.parametrize(
    ("shape", "latent_size", "expected"), [((28, 28), 2, 1_289_788), ((16, 90), 20, 1_973_480), ((16, 9), 50, 721_244)]
)
def test_parameters_follow_the_formula(shape, latent_size, expected):
    config = DenseVAEConfig(input_shape=shape, latent_size=latent_size)
    assert 1001 * math.prod(shape) + 1502 * latent_size + 502_000 == expected
    with torch.device("meta"):
        assert DenseVAEModel(config).num_parameters() == expected


def test_weights_have_the_deviation_of_their_fan_in():
    torch.manual_seed(0)
    model = DenseVAEModel(DenseVAEConfig(latent_size=50, bias_init="thesis"))
    first, back = model.encoder.body.layers[0], model.decoder.body.layers[0]
    assert first.weight.std().item() == pytest.approx(784**-0.5, rel=0.02)
    assert back.weight.std().item() == pytest.approx(50**-0.5, rel=0.02)  # the decoder's own fan-in
    assert model.decoder.to_logits.bias.std().item() == pytest.approx(784**-0.5, rel=0.15)
    assert not make_model().encoder.to_mu.bias.any()
    assert make_model(likelihood="gaussian").decoder.scale.item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"likelihood": "poisson"}, "bernoulli, categorical, gaussian"),
        ({"input_shape": ()}, "input_shape"),
        ({"input_shape": (9,), "likelihood": "categorical"}, "rows and choices"),
        ({"latent_size": 0}, "latent_size"),
        ({"variational": False, "free_bits": 1.0}, "variational"),
        ({"latent_sizes": 3}, "did you mean `latent_size`"),
        ({"activation": "swish"}, "activation"),
    ],
)
def test_configuration_names_what_is_wrong(change, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        DenseVAEConfig(**change)


# Kullback-Leibler divergence


def test_kl_equals_torch_distributions():
    mu, logvar = torch.randn(2, 50, 7, generator=generator(), dtype=torch.float64) * 3
    found = kl_to_prior(mu, logvar)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert (found >= 0).all()
    assert kl_to_prior(torch.zeros(3), torch.zeros(3)).eq(0).all()
    assert (kl_to_prior(torch.zeros(999), torch.linspace(-1e-3, 1e-3, 999)) >= 0).all()


def test_kl_agrees_with_monte_carlo():
    mu, logvar = torch.tensor([[0.7, -1.2, 0.0]]).double(), torch.tensor([[-1.0, 0.4, -3.0]]).double()
    z = make_model().reparameterize(mu, logvar, 40_000, generator())
    ratio = log_normal(z, mu, logvar) - log_normal(z, torch.zeros_like(mu), torch.zeros_like(mu))
    error = ratio.std() / math.sqrt(len(z))
    assert abs(ratio.mean() - kl_to_prior(mu, logvar).sum()) < 4 * error


# A toy whose likelihood is known: x = W z + b + noise with orthogonal columns, so that the posterior is diagonal


class Toy:
    noise = 0.4

    def __init__(self, size=6, latent_size=2):
        random = generator(3)
        basis, _ = torch.linalg.qr(torch.randn(size, latent_size, generator=random, dtype=torch.float64))
        self.weight = basis * torch.tensor([1.5, 0.6]).double()
        self.bias = torch.randn(size, generator=random, dtype=torch.float64)
        z = torch.randn(200, latent_size, generator=random, dtype=torch.float64)
        noise = torch.randn(200, size, generator=random, dtype=torch.float64)
        self.x = z @ self.weight.T + self.bias + self.noise * noise
        self.variance = 1 / (1 + self.weight.square().sum(0) / self.noise**2)
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(size).double()
        self.log_p = MultivariateNormal(self.bias, covariance).log_prob(self.x)

    def model(self, shift=0.0, stretch=1.0):
        """The true decoder, and the true posterior moved by `shift` with its variance times `stretch`."""
        size, latent_size = self.weight.shape
        model = make_model(input_shape=(size,), hidden_sizes=(), latent_size=latent_size, likelihood="gaussian")
        to_mu = self.variance[:, None] * self.weight.T / self.noise**2
        scale = math.log(math.expm1(self.noise - model.config.min_scale))
        with torch.no_grad():
            model.decoder.to_logits.weight.copy_(self.weight)
            model.decoder.to_logits.bias.copy_(self.bias)
            model.decoder.raw_scale.fill_(scale)
            model.encoder.to_mu.weight.copy_(to_mu)
            model.encoder.to_mu.bias.copy_(shift - to_mu @ self.bias)
            model.encoder.to_logvar.weight.zero_()
            model.encoder.to_logvar.bias.copy_((stretch * self.variance).log())
        return model

    def exact_elbo(self, model):
        """The expectation over z in closed form: noise of z adds var_j |w_j|^2 to the squared error."""
        mu, logvar = model.encode(self.x)
        spread = (logvar.exp() * self.weight.square().sum(0)).sum(-1) / self.noise**2
        recon = model.log_likelihood(model.decode(mu), self.x) - spread / 2
        return (recon - kl_to_prior(mu, logvar).sum(-1)).detach()


def test_bound_is_tight_at_the_true_posterior():
    toy = Toy()
    model = toy.model()
    torch.testing.assert_close(toy.exact_elbo(model), toy.log_p, atol=1e-10, rtol=0)
    for num_samples in (1, 5):  # every weight p(x, z) / q(z | x) is p(x)
        torch.testing.assert_close(model.iwae(toy.x, num_samples, generator()), toy.log_p, atol=1e-10, rtol=0)
    draws = torch.stack([model.elbo(toy.x, 1, generator(seed)) for seed in range(200)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - toy.log_p).abs() < 5 * error).all()


def test_gap_of_the_bound_is_the_divergence_of_the_posteriors():
    toy = Toy()
    model = toy.model(shift=0.5, stretch=1.8)
    mu, logvar = model.encode(toy.x)
    true_mu, _ = toy.model().encode(toy.x)
    gap = kl_divergence(
        Independent(Normal(mu, (logvar / 2).exp()), 1),
        Independent(Normal(true_mu, toy.variance.sqrt().expand_as(true_mu)), 1),
    ).detach()
    bound = toy.exact_elbo(model)
    assert (bound <= toy.log_p).all()
    torch.testing.assert_close(toy.log_p - bound, gap, atol=1e-10, rtol=0)


def test_importance_weights_climb_from_the_bound_to_the_likelihood():
    toy = Toy()
    model = toy.model(shift=0.5, stretch=1.8)
    levels = [toy.exact_elbo(model).mean()]
    for num_samples in (1, 4, 32, 1000):
        draws = torch.stack([model.iwae(toy.x, num_samples, generator(seed)) for seed in range(6)])
        levels.append(draws.mean())
        if num_samples == 1:
            error = float(draws.std() / math.sqrt(draws.numel()))
    elbo, one, four, many, most = (float(level - toy.log_p.mean()) for level in levels)
    assert abs(one - elbo) < 4 * error
    assert one < four < many < most < 0.01
    assert most > -0.01
    in_parts = model.iwae(toy.x, 7, generator(), samples_per_call=7)
    torch.testing.assert_close(in_parts, model.iwae(toy.x, 7, generator(), samples_per_call=3))


@pytest.mark.parametrize("method", ["chain", "optimise"])
def test_restoring_finds_the_conditional_mean(method):
    toy = Toy()
    model, seen = toy.model(), torch.tensor([True, True, False, True, False, True]).expand_as(toy.x)
    weight = toy.weight[seen[0]]
    precision = torch.eye(2).double() + weight.T @ weight / toy.noise**2
    mean = torch.linalg.solve(precision, weight.T @ (toy.x - toy.bias)[:, seen[0]].T / toy.noise**2).T
    expected = torch.where(seen, toy.x, mean @ toy.weight.T + toy.bias)
    damaged = toy.x.masked_fill(~seen, math.nan)
    found = model.restore(damaged, seen, method, num_steps=400)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert torch.equal(found[seen], toy.x[seen])
    assert model.decoder.raw_scale.grad is None


# Likelihoods


def test_bernoulli_equals_cross_entropy_and_stays_finite():
    model = make_model()
    x, logits = binary(9, 4, 5), 3 * torch.randn(9, 4, 5, generator=generator(), dtype=torch.float64)
    p = logits.sigmoid().clamp(1e-12, 1 - 1e-12)
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2))
    torch.testing.assert_close(model.log_likelihood(logits, x), expected, atol=1e-9, rtol=1e-9)
    extreme = torch.full((1, 4, 5), 100.0, requires_grad=True)
    for sign in (1, -1):
        for value in (0.0, 1.0):
            result = model.log_likelihood(sign * extreme, torch.full((1, 4, 5), value))
            assert float(result.detach()) == pytest.approx(0.0 if (sign > 0) == bool(value) else -2000.0, abs=1e-6)
            result.backward()
    assert extreme.grad.isfinite().all()


def test_categorical_scores_one_choice_per_row():
    model, x = make_model(likelihood="categorical"), one_hot(6, (4, 5))
    logits = torch.randn(6, 4, 5, generator=generator(), dtype=torch.float64)
    expected = -F.cross_entropy(logits.flatten(0, 1), x.argmax(-1).flatten(), reduction="none").view(6, 4).sum(1)
    torch.testing.assert_close(model.log_likelihood(logits, x), expected)


def test_gaussian_equals_torch_distributions():
    model, x = make_model(likelihood="gaussian"), torch.rand(6, 4, 5, generator=generator()).double()
    with torch.no_grad():
        model.decoder.raw_scale.fill_(-40.0)
    assert model.decoder.scale.item() == pytest.approx(1e-3)  # the floor keeps constant data finite
    with torch.no_grad():
        model.decoder.raw_scale.fill_(-0.3)
    logits = torch.randn(6, 4, 5, generator=generator(1), dtype=torch.float64)
    expected = Normal(logits, model.decoder.scale).log_prob(x).sum((1, 2))
    torch.testing.assert_close(model.log_likelihood(logits, x), expected)
    model(x).loss.backward()
    assert model.decoder.raw_scale.grad.abs() > 0


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "gaussian"])
def test_draws_follow_their_distribution(likelihood):
    model = make_model(likelihood=likelihood, input_shape=(2, 3))
    logits = torch.randn(2, 3, generator=generator(), dtype=torch.float64)
    draws = model.draw(logits.expand(20_000, 2, 3), generator=generator())
    spread = {"gaussian": 1.0}.get(likelihood, 0.5)
    assert (draws.mean(0) - model.expected(logits)).abs().max() < 4 * spread / math.sqrt(20_000)
    likeliest = model.draw(logits[None], temperature=0)
    best = model.log_likelihood(logits[None], likeliest)
    assert (best >= model.log_likelihood(logits[None], draws[:50]) - 1e-12).all()
    with pytest.raises(ValueError, match="temperature"):
        model.draw(logits, -1.0)


# Objective


def test_outputs_add_up_and_weights_alter_the_loss_alone():
    model, x = make_model(), binary(8, 4, 5)
    output = model(x, generator=generator())
    torch.testing.assert_close(output.loss, output.recon + output.kl)
    assert output.loss == -output.elbo
    half = model(x, beta=0.5, generator=generator())
    assert half.elbo == output.elbo
    torch.testing.assert_close(half.loss, output.recon + 0.5 * output.kl)
    per_row = kl_to_prior(output.mu, output.logvar).sum(-1)
    free = float(per_row.median().detach()) / LN2  # some rows are above, some below
    saving = make_model(free_bits=free)
    found = saving(x, generator=generator())
    assert found.elbo == output.elbo
    torch.testing.assert_close(found.loss, output.recon + (per_row - free * LN2).clamp(min=0).mean())


def test_several_draws_average():
    model, x = make_model(num_samples=4), binary(5, 4, 5)
    output = model(x, generator=generator(7))
    z = model.reparameterize(output.mu, output.logvar, 4, generator(7))
    single = torch.stack([-model.log_likelihood(model.decode(point), x) for point in z])
    torch.testing.assert_close(output.recon, single.mean())
    assert torch.equal(output.z, z[0])
    assert not torch.equal(z[0], z[1])
    assert torch.equal(output.loss, model(x, generator=generator(7)).loss)
    assert not torch.equal(output.loss, model(x, generator=generator(8)).loss)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "gaussian"])
def test_gradients_reach_every_parameter(likelihood):
    model = make_model(likelihood=likelihood, mask_as_input=True)
    x = one_hot(8, (4, 5)) if likelihood == "categorical" else binary(8, 4, 5)
    model(x, observed_mask=binary(8, 4, 5, seed=2).bool(), num_samples=2).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_silent_output_costs_a_bit_per_cell():
    model, x = make_model(), binary(6, 4, 5)
    with torch.no_grad():
        model.decoder.to_logits.weight.zero_()
    output = model(x)
    assert output.recon.item() == pytest.approx(20 * LN2)
    assert output.loss.item() == pytest.approx(20 * LN2 + output.kl.item())


@pytest.mark.parametrize("mask_as_input", [False, True])
@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "gaussian"])
def test_hidden_cells_have_no_influence(likelihood, mask_as_input):
    model = make_model(likelihood=likelihood, mask_as_input=mask_as_input)
    x = one_hot(8, (4, 5)) if likelihood == "categorical" else binary(8, 4, 5)
    seen = torch.rand(8, 4, 1, generator=generator()).gt(0.4).expand_as(x)
    results = []
    for filling in (0.0, 1.0, math.nan):
        model.zero_grad()
        loss = model(torch.where(seen, x, filling), observed_mask=seen, generator=generator()).loss
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))
    assert results[0][0] < model(x, generator=generator()).loss  # fewer cells to pay for
    everything = model(x, observed_mask=torch.ones_like(x), generator=generator()).loss
    assert torch.equal(everything, model(x, generator=generator()).loss)


def test_a_denoiser_is_scored_on_what_it_should_have_read():
    model, x, damaged = make_model(), binary(6, 4, 5), binary(6, 4, 5, seed=1)
    output = model(damaged, labels=x, generator=generator())
    assert torch.equal(output.mu, model.features(damaged))
    torch.testing.assert_close(output.recon, -model.log_likelihood(output.logits, x).mean())


def test_linear_autoencoder_spans_the_principal_subspace():
    random = generator(5)
    mixing = torch.randn(6, 6, generator=random, dtype=torch.float64)
    x = torch.randn(300, 6, generator=random, dtype=torch.float64) @ mixing + 2.0
    model = make_model(
        input_shape=(6,), hidden_sizes=(), latent_size=2, likelihood="gaussian", variational=False
    ).train()
    model.decoder.raw_scale.requires_grad_(False)
    optimizer = torch.optim.LBFGS(
        [p for p in model.parameters() if p.requires_grad],
        max_iter=400,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = model(x).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    output = model(x)
    assert output.kl is None
    assert output.elbo is None
    assert output.logvar is None
    _, _, principal = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    spanned, _ = torch.linalg.qr(model.decoder.to_logits.weight.detach())
    cosines = torch.linalg.svdvals(principal[:2] @ spanned).clamp(max=1)
    assert cosines.acos().max() < 1e-3
    for verb in (lambda: model.sample(1), lambda: model.elbo(x), lambda: model.iwae(x, 2)):
        with pytest.raises(ValueError, match="plain autoencoder"):
            verb()


# Latent space


def test_paths_and_neighbours_are_those_of_musicvae():
    for name in ("linear_path", "spherical_path", "interpolate", "interpolate_grid", "vary", "_precision"):
        ours, theirs = getattr(latent_dense_vae, name), getattr(latent_musicvae, name)
        assert inspect.getsource(ours) == inspect.getsource(theirs), name


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_ends_of_a_path_are_exact(method):
    model = make_model()
    z1, z2 = torch.randn(2, 5, 3, generator=generator()).double()
    path = model.interpolate(z1, z2, 7, method)
    assert torch.equal(path[0], z1)
    assert torch.equal(path[-1], z2)
    corners = torch.randn(4, 3, generator=generator()).double()
    grid = model.interpolate_grid(corners, 3, 4)
    assert torch.equal(grid[[0, 0, -1, -1], [0, -1, 0, -1]], corners)


def test_neighbours_and_samples():
    model = make_model()
    z = torch.randn(3, generator=generator()).double()
    assert torch.equal(model.vary(z, 1.0, 4), z.expand(4, 3))
    assert model.vary(z, 0.5, 4).shape == (4, 3)
    first = model.sample(6, generator=generator())
    assert torch.equal(first, model.sample(6, generator=generator()))
    assert set(first.unique().tolist()) <= {0.0, 1.0}
    assert first.shape == (6, 4, 5)


def test_wrong_shapes_are_named():
    model = make_model()
    with pytest.raises(ValueError, match=r"input_values must be \[batch, 4, 5\], not \[2, 20\]"):
        model(torch.zeros(2, 20))
    with pytest.raises(ValueError, match="observed_mask must be"):
        model(torch.zeros(2, 4, 5), observed_mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"z must be \[..., 3\]"):
        model.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="chain, optimise"):
        model.restore(torch.zeros(2, 4, 5), torch.ones(2, 4, 5), method="guess")


# Saving and loading


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_saved_model_is_bit_equal(tmp_path, likelihood):
    model = make_model(likelihood=likelihood, bias_init="thesis").float()
    x = binary(6, 4, 5).float()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert isinstance(loaded, DenseVAEModel)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), DenseVAEConfig)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters()))
    expected, found = (m(x, generator=generator()) for m in (model, loaded.eval()))
    assert torch.equal(expected.loss, found.loss)
    assert torch.equal(model.sample(3, generator=generator()), loaded.sample(3, generator=generator()))


@pytest.mark.parametrize("kind", [DenseVAEEncoder, DenseVAEDecoder])
def test_halves_are_models_of_their_own(tmp_path, kind):
    model = make_model().float()
    model.save_pretrained(tmp_path / "whole")
    half = model.encoder if kind is DenseVAEEncoder else model.decoder
    half.save_pretrained(tmp_path / "half")
    data = binary(6, 4, 5).float() if kind is DenseVAEEncoder else torch.randn(6, 3)
    expected = half(data)[0]
    for folder in ("half", "whole"):
        assert torch.equal(kind.from_pretrained(tmp_path / folder).eval()(data)[0], expected), folder


def test_half_precision_keeps_the_bound_in_single():
    torch.manual_seed(0)
    model = DenseVAEModel(DenseVAEConfig(input_shape=(4, 5), hidden_sizes=(12,), latent_size=3)).bfloat16()
    output = model(binary(6, 4, 5))
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()
