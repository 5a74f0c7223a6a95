"""Schedules against their formulas and printed values."""

import math

import pytest

from partimento.training.arguments import parse_arguments
from partimento.training.schedules import cosine, exponential, inverse_sqrt, learning_rate, make_value_schedule


def test_inverse_square_root():
    assert inverse_sqrt(1, 5e-4, 16000) == pytest.approx(5e-4 / 16000)
    assert inverse_sqrt(16000, 5e-4, 16000) == pytest.approx(5e-4)
    assert inverse_sqrt(64000, 5e-4, 16000) == pytest.approx(2.5e-4)
    assert inverse_sqrt(4, 1.0, 0) == pytest.approx(0.5)


def test_cosine():
    assert cosine(5, 1.0, 10, 110) == pytest.approx(0.5)
    assert cosine(10, 1.0, 10, 110, 0.1) == pytest.approx(1.0)
    assert cosine(60, 1.0, 10, 110, 0.1) == pytest.approx(0.55)
    assert cosine(35, 1.0, 10, 110, 0.1) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert cosine(110, 1.0, 10, 110, 0.1) == pytest.approx(0.1)


def test_exponential_has_the_values_of_musicvae():
    assert exponential(50_000, 1e-3, 0.9999, 1e-5) == pytest.approx(1.667e-5, rel=1e-3)
    assert exponential(100_000, 1e-3, 0.9999, 1e-5) == pytest.approx(1.0045e-5, rel=1e-4)


def test_cooldown_reaches_zero_with_the_last_update():
    settings = {"max_updates": 100, "cooldown_updates": 10, "lr_schedule": "constant", "learning_rate": 1.0}
    train = parse_arguments({"train": settings}).train
    assert learning_rate(91, train, 100) == 1.0
    assert learning_rate(96, train, 100) == pytest.approx(0.5)
    assert learning_rate(100, train, 100) == pytest.approx(0.1)
    assert learning_rate(50, train, 50) == pytest.approx(0.1)  # a time limit shortened the run


@pytest.mark.parametrize(
    ("description", "update", "value"),
    [
        (0.3, 5, 0.3),
        ({"kind": "saturating", "max": 0.2, "gamma": 0.99999}, 0, 0.0),
        ({"kind": "saturating", "max": 0.2, "gamma": 0.99999}, 100_000, 0.2 * (1 - math.exp(-1.000005))),
        ({"kind": "linear", "start": 0, "end": 1, "updates": 10}, 4, 0.4),
        ({"kind": "linear", "start": 0, "end": 1, "updates": 10}, 40, 1.0),
        ({"kind": "cyclical", "max": 2.0, "period": 10}, 12, 0.8),
        ({"kind": "cyclical", "max": 2.0, "period": 10}, 18, 2.0),
        ({"kind": "decay", "k": 0.5}, 2, 0.75),
        ({"kind": "inverse_sigmoid", "k": 1000}, 0, 1 / 1001),
        ({"kind": "inverse_sigmoid", "k": 1000}, 3000, 0.0197),
        ({"kind": "inverse_sigmoid", "k": 1000}, 6900, 0.498),
        ({"kind": "inverse_sigmoid", "k": 1000}, 10_000, 0.9566),
        ({"kind": "inverse_sigmoid", "k": 1}, 10_000, 1.0),
    ],
)
def test_value_schedules(description, update, value):
    assert make_value_schedule("beta", description)(update) == pytest.approx(value, rel=2e-3, abs=1e-12)
