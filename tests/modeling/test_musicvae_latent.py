"""MusicVAE: generate against decode, paths and neighbours in the latent space, bounds on the likelihood."""

import pytest
import torch
from safetensors.torch import save_file
from transformers.modeling_outputs import BaseModelOutput

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.modeling.musicvae.decoder_musicvae import LatentLinear

TRIO = [
    {"name": "melody", "kind": "categorical", "vocab_size": 90},
    {"name": "bass", "kind": "categorical", "vocab_size": 90},
    {"name": "drums", "kind": "drums", "vocab_size": 512},
]
SMALL = {"z_size": 6, "encoder_hidden_sizes": (8,), "decoder_hidden_sizes": (12, 9), "num_bars": 2}
VARIANTS = {
    "melody": {},
    "gru": {"cell_type": "gru_thesis"},
    "hierarchical": {"decoder_type": "hierarchical", "conductor_hidden_sizes": (9,)},
    "cut_off": {"decoder_type": "hierarchical", "conductor_hidden_sizes": (9,), "carry_last_token": False},
    "trio": {"tracks": TRIO, "decoder_type": "hierarchical", "conductor_hidden_sizes": (9,), "num_bars": 1},
    "flat_trio": {"tracks": TRIO, "num_bars": 1},
}


def make_model(seed=0, **overrides):
    """Small model in float64 whose decoder listens to z and to its own past."""
    torch.manual_seed(seed)
    model = MusicVAEModel(MusicVAEConfig(**{**SMALL, **overrides})).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LatentLinear):
                module.weight.mul_(1000)
        for decoder in model.decoder.segment_decoders:
            decoder.head.weight.mul_(8)
    return model


@pytest.fixture(params=VARIANTS)
def model(request):
    return make_model(**VARIANTS[request.param])


def given(z):
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=z[:, None])}


def random_ids(model, rows=3):
    config = model.config
    tracks = [torch.randint(t["vocab_size"], (rows, config.num_steps)) for t in config.tracks]
    return torch.stack([ids + offset for ids, offset in zip(tracks, config.track_offsets)], -1).flatten(1)


def test_greedy_generate_equals_decode(model):
    z = torch.randn(3, 6).double()
    expected = model.decode(z)
    assert len(set(map(tuple, expected.tolist()))) == 3  # different codes, different music
    for use_cache in (True, False):
        generated = model.generate(**given(z), use_cache=use_cache)
        assert (generated[:, 0] == model.config.decoder_start_token_id).all()
        assert torch.equal(generated[:, 1:], expected)
    assert torch.equal(model.decode(z[1:2]), expected[1:2])


def test_generate_reconstructs(model):
    ids = random_ids(model)
    assert torch.equal(model.generate(ids)[:, 1:], model.decode(model.encode(ids).z))


def test_beams_with_cache_equal_beams_without(model):
    z = torch.randn(2, 6).double()
    settings = {"num_beams": 4, "num_return_sequences": 2, "output_scores": True, "return_dict_in_generate": True}
    cached = model.generate(**given(z), **settings)
    plain = model.generate(**given(z), use_cache=False, **settings)
    assert cached.sequences.shape == (4, model.config.sequence_length + 1)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores)
    nll = model._nll(cached.sequences[:, 1:], z.repeat_interleave(2, 0)).sum(-1).detach()
    torch.testing.assert_close(
        -nll / (model.config.sequence_length + 1), cached.sequences_scores.float(), rtol=0.05, atol=0
    )


def test_several_samples_and_their_places(model):
    torch.manual_seed(0)
    z = torch.randn(2, 6).double()
    ids = model.generate(**given(z), do_sample=True, temperature=2.0, num_return_sequences=3)[:, 1:]
    assert ids.shape == (6, model.config.sequence_length)
    tracks = ids.reshape(6, -1, len(model.config.tracks))
    for i, (track, offset) in enumerate(zip(model.config.tracks, model.config.track_offsets)):
        assert tracks[..., i].min() >= offset
        assert tracks[..., i].max() < offset + track["vocab_size"]
    assert len(set(map(tuple, ids.tolist()))) == 6


def test_forward_over_a_prefix_equals_its_pieces():
    model = make_model(**VARIANTS["trio"])
    z = torch.randn(3, 6).double()
    prefix = torch.cat([torch.full((3, 1), 692), random_ids(model)[:, :10]], 1)
    whole = model(decoder_input_ids=prefix, use_cache=False, **given(z)).logits
    first = model(decoder_input_ids=prefix[:, :5], use_cache=True, **given(z))
    assert first.past_key_values.get_seq_length() == 5
    second = model(decoder_input_ids=prefix[:, 5:], past_key_values=first.past_key_values, **given(z))
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole)
    due = torch.isfinite(whole).sum(-1)[0].tolist()
    assert due == [90, 90, 512] * 3 + [90, 90]
    cache = second.past_key_values
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache.steps.latents[0], cache.steps.latents[1])
    cache.reset()
    assert cache.get_seq_length() == 0


def test_too_long_a_prefix_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match="has 33 ids, a sequence 32"):
        model(decoder_input_ids=torch.zeros(1, 33, dtype=torch.long), use_cache=False, **given(torch.zeros(1, 6)))
    with pytest.raises(ValueError, match="needs encoder_outputs or input_ids"):
        model(decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"ids must be \[batch, 32\]"):
        model(torch.zeros(1, 31, dtype=torch.long))
    with pytest.raises(ValueError, match="input_ids is missing"):
        model()


def test_sampling_settings():
    model = make_model()
    z = torch.randn(40, 6).double()
    greedy = model.decode(z)
    assert torch.equal(model.decode(z, temperature=1.0, top_k=1), greedy)
    assert torch.equal(model.decode(z, temperature=1.0, top_p=1e-9), greedy)
    assert torch.equal(model.decode(z, temperature=1e-7), greedy)

    def draw(seed):
        return model.sample(5, temperature=1.0, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    same = model.sample(5, temperature=0, same_z=True)
    assert (same == same[0]).all()
    for settings in ({"temperature": -1}, {"top_p": 0.0}, {"top_k": -2}):
        with pytest.raises(ValueError, match="give >= 0"):
            model.decode(z, **settings)
    with pytest.raises(ValueError, match=r"z must be \[batch, 6\]"):
        model.decode(z[:, :5])


def test_frequencies_of_samples_follow_the_logits():
    model = make_model(num_bars=1)
    z = torch.randn(1, 6).double()
    logits = model.decoder(torch.zeros(1, 16, 1, dtype=torch.long), model.decoder.segment_latents(z))[0, 0]
    ids = model.decode(z.expand(4000, -1), temperature=0.7, generator=torch.Generator().manual_seed(0))[:, 0]
    counts = torch.bincount(ids, minlength=90) / 4000
    torch.testing.assert_close(counts, (logits / 0.7).softmax(-1).detach().float(), atol=0.03, rtol=0)


def test_encode_gives_the_mean_unless_asked():
    model = make_model()
    ids = random_ids(model)
    mu, sigma, z = model.encode(ids)
    assert torch.equal(z, mu)
    assert (sigma > 0).all()
    drawn = model.encode(ids, sample=True, generator=torch.Generator().manual_seed(0)).z
    assert not torch.equal(drawn, mu)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_paths_have_exact_ends(method):
    model = make_model()
    z1, z2 = torch.randn(100, 256), torch.randn(100, 256)
    path = model.interpolate(z1, z2, 7, method)
    assert path.shape == (7, 100, 256)
    assert torch.equal(path[0], z1)
    assert torch.equal(path[-1], z2)
    if method == "linear":
        torch.testing.assert_close(path[2], z1 * (4 / 6) + z2 * (2 / 6))
    else:
        unit1, unit2 = (torch.nn.functional.normalize(z.double(), dim=-1) for z in (z1, z2))
        circle = model.interpolate(unit1, unit2, 7, "slerp")
        torch.testing.assert_close((circle[2] * unit1).sum(-1).acos(), (unit1 * unit2).sum(-1).acos() / 3)
        torch.testing.assert_close(circle.norm(dim=-1), torch.ones(7, 100).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_slerp_of_degenerate_pairs_is_the_straight_line(dtype):
    model = make_model()
    z = torch.randn(5, 8).to(dtype)
    for other in (z, -z, torch.zeros_like(z), 2 * z, z + 1e-7):
        path = model.interpolate(z, other, 5, "slerp")
        assert torch.isfinite(path).all()
        torch.testing.assert_close(path, model.interpolate(z, other, 5), atol=2e-3, rtol=2e-3)
    zeros = torch.zeros(1, 8)
    assert torch.equal(model.interpolate(zeros, zeros, 3, "slerp"), torch.zeros(3, 1, 8))


def test_grid_of_four_corners():
    model = make_model()
    corners = torch.randn(4, 6)
    grid = model.interpolate_grid(corners, 4, 3)
    assert grid.shape == (4, 3, 6)
    assert torch.equal(grid[[0, 0, -1, -1], [0, -1, 0, -1]], corners)
    torch.testing.assert_close(grid[:, 1], (grid[:, 0] + grid[:, 2]) / 2)
    with pytest.raises(ValueError, match=r"corners must be \[4, latent size\]"):
        model.interpolate_grid(corners[:3], 4, 3)


def test_bad_paths():
    model = make_model()
    z = torch.randn(2, 6)
    with pytest.raises(ValueError, match="method='cubic' is unknown"):
        model.interpolate(z, z, 3, "cubic")
    with pytest.raises(ValueError, match="give equal ones"):
        model.interpolate(z, z[:1], 3)
    with pytest.raises(ValueError, match="at least its two ends"):
        model.interpolate(z, z, 1)


def test_vary_keeps_the_norm_of_the_prior():
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 64, generator=generator)
    for similarity in (0.0, 0.3, 0.5, 0.9):
        varied = model.vary(z, similarity, 1, generator)[0]
        assert float(varied.square().mean()) == pytest.approx(1.0, abs=0.02)
        assert float((varied * z).mean()) == pytest.approx(similarity, abs=0.02)
    assert torch.equal(model.similar(z, 1.0)[0], z)
    assert model.vary(z[:2], 0.5, 3).shape == (3, 2, 64)
    with pytest.raises(ValueError, match=r"similarity=1.5 must be between 0"):
        model.vary(z, 1.5)


def test_attributes(tmp_path):
    model = make_model()
    z = torch.randn(3, 6).double()
    with pytest.raises(ValueError, match=r"has no attributes\.safetensors"):
        model.apply_attribute(z, "note_density", 1.0)
    vectors = {"note_density": torch.arange(6.0)}
    model.attribute_vectors = vectors
    moved = model.apply_attribute(z, "note_density", -0.5)
    torch.testing.assert_close(moved, z - 0.5 * torch.arange(6.0))
    with pytest.raises(ValueError, match="attribute 'speed' is unknown; this model has note_density"):
        model.apply_attribute(z, "speed", 1.0)
    with pytest.raises(ValueError, match=r"must be \[6\]"):
        model.attribute_vectors = {"note_density": torch.zeros(5)}
    model.save_pretrained(tmp_path)
    save_file(vectors, tmp_path / "attributes.safetensors")
    loaded = MusicVAEModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.apply_attribute(z, "note_density", -0.5), moved)


def test_likelihoods_add_up(model):
    ids = random_ids(model)
    nll = model.reconstruction_nll(ids)
    config = model.config
    torch.testing.assert_close(nll.per_track.sum(-1), nll.per_sequence)
    torch.testing.assert_close(nll.per_step * config.num_steps, nll.per_sequence)
    logits = model(ids).logits.float().log_softmax(-1) if len(config.tracks) == 1 else None
    if logits is not None:
        by_hand = -logits.gather(-1, ids[..., None]).sum((1, 2))
        torch.testing.assert_close(nll.per_sequence, by_hand)


def test_bounds():
    """ELBO and IWAE-1 estimate the same; IWAE rises with the number of samples."""
    model = make_model()
    ids = random_ids(model, rows=4)
    generator = torch.Generator().manual_seed(0)
    many = ids.repeat(500, 1)
    elbo, single, ten = (
        values.reshape(500, 4).mean(0)
        for values in (model.elbo(many, 1, generator), model.iwae(many, 1, generator), model.iwae(many, 10, generator))
    )
    torch.testing.assert_close(single, elbo, atol=0.5, rtol=0.01)
    assert (ten > torch.maximum(elbo, single)).all()
    with pytest.raises(ValueError, match="num_samples=0 must be positive"):
        model.iwae(ids, 0)


def test_control_must_fit():
    with pytest.raises(ValueError, match="control_size=0, but control is given"):
        make_model()(torch.zeros(1, 32, dtype=torch.long), control=torch.zeros(1, 32, 2))
    with pytest.raises(ValueError, match="control_size=2, but control is missing"):
        make_model(control_size=2).decode(torch.zeros(1, 6))
