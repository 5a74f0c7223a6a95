"""Figures of interpolations by hand, and pictures of melodies, drums and trios."""

import numpy as np
import pytest
import torch

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.tokenization import MusicVAEProcessor
from partimento.training.latent_paths import NGramCost, interpolation_figures, mixture_of_data, path_figures
from partimento.training.musicvae_plots import pitch_range, plot_latent, plot_paths, plot_strips

TRACKS = (("melody",), ("drums",), ("melody", "bass", "drums"))


def random_windows(processor, count, seed=0):
    rng = np.random.default_rng(seed)
    drums = [name == "drums" for name in processor.tracks]
    windows = [
        np.where(rng.random((count, processor.num_steps)) < 0.3, rng.integers(1, 9 if d else 60, (count, 1)), 0)
        for d in drums
    ]
    return np.stack(windows, 1)


def test_path_by_hand():
    processor = MusicVAEProcessor(num_bars=1)
    a, b = np.zeros((1, 1, 16), int), np.zeros((1, 1, 16), int)
    a[..., :4] = 40
    b[..., :8] = 50
    middle = b.copy()
    middle[..., 6:] = 0
    figures = path_figures(np.stack([a, middle, b]), processor, None)
    assert figures["distance_from_start"] == [0, 6 / 16, 8 / 16]
    assert figures["distance_per_step"] == [6 / 16, 2 / 16]
    assert figures["largest_jump"] == 6 / 16
    assert figures["onsets"] == [4, 6, 8]
    assert figures["ngram_nats"] is None


def test_mixture_leaves_one_end_for_the_other():
    first, second = np.zeros((50, 2, 32), int), np.ones((50, 2, 32), int)
    path = mixture_of_data(first, second, 5, seed=0)
    assert (path[0] == first).all()
    assert (path[-1] == second).all()
    assert (np.diff(path, axis=0) >= 0).all()  # a step that has changed stays changed
    assert path[2].mean() == pytest.approx(0.5, abs=0.05)
    assert (path[:, :, 0] == path[:, :, 1]).all()  # all tracks of a step change together


def test_cost_is_lower_for_music_like_the_training_windows():
    processor = MusicVAEProcessor(num_bars=1)
    training = np.tile([41, 0, 45, 0] * 4, (200, 1, 1))
    cost = NGramCost(training, processor)
    usual, unusual = cost(training[:1])[0], cost(np.tile([41, 45, 0, 0] * 4, (1, 1, 1)))[0]
    assert 0 < usual < 1 < 10 < unusual


@pytest.mark.parametrize("tracks", TRACKS)
def test_report_and_pictures(tracks, tmp_path):
    torch.manual_seed(0)
    processor = MusicVAEProcessor(tracks)
    model = MusicVAEModel(
        MusicVAEConfig(
            **processor.model_config_kwargs(), z_size=4, encoder_hidden_sizes=(8,), decoder_hidden_sizes=(8,)
        )
    ).eval()
    training = random_windows(processor, 40)
    report, music = interpolation_figures(
        model, processor, torch.randn(6, 4), torch.randn(6, 4), num_steps=3, cost=NGramCost(training, processor)
    )
    assert music.shape == (3, 6, len(tracks), 32)
    assert report["finite_for_equal_opposite_and_zero"] is True
    for method in ("linear", "slerp"):
        assert report[method]["ends_exact"]
        assert len(report[method]["ngram_nats"]) == 3
    low, high = pitch_range(training, processor)
    assert low < high or tracks == ("drums",)
    written = [
        plot_strips(np.stack([training[:6]] * 3), processor, tmp_path / "strips.png", ["a", "b", "c"]),
        plot_strips(music, processor, tmp_path / "silent.png"),
        plot_paths({**report, "ngram_nats_of_music": 3.0}, tmp_path / "paths.png"),
        plot_latent([0.5, 1.5], tmp_path / "latent.png"),
    ]
    assert all(path.stat().st_size > 5000 for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latent.png", "paths.png", "silent.png", "strips.png"]
