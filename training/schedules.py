"""Schedules as pure functions of the update number s (the first update is s = 1).

Learning rates, with w warm-up updates and S updates in all:

    inverse_sqrt   peak * min(s / w, sqrt(w / s))                         Vaswani et al. 2017, without the width factor
    cosine         lo + (hi - lo) / 2 * (1 + cos(pi (s - w) / (S - w)))   Loshchilov & Hutter 2017, after a warm-up line
    exponential    lo + (hi - lo) * gamma ** s                            Roberts et al. 2018 (MusicVAE)
    constant       peak, after a linear warm-up

A cool-down multiplies any of them by a line that falls from 1 to 1 / c over the last c updates.

Values handed to the model's forward (`schedules:` of a recipe):

    constant          value
    linear            start + (end - start) * min(s / updates, 1)
    saturating        max * (1 - gamma ** s)                 KL weight of MusicVAE
    cyclical          max * min(phase / ratio, 1)            phase = (s mod period) / period; Fu et al. 2019
    decay             1 - k ** s, k < 1                      scheduled sampling, exponential; Bengio et al. 2015
    inverse_sigmoid   1 - k / (k + exp(s / k))               scheduled sampling, inverse sigmoid; same paper
"""

import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[int], float]


def inverse_sqrt(s: int, peak: float, warmup: int) -> float:
    """Return the learning rate of update s."""
    w = max(1, warmup)
    return peak * min(s / w, math.sqrt(w / s)) if s > 0 else 0.0


def cosine(s: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Return the learning rate of update s; it reaches `floor` at s = total."""
    if s < warmup:
        return peak * s / warmup
    progress = min(1.0, (s - warmup) / max(1, total - warmup))
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress))


def exponential(s: int, peak: float, gamma: float, floor: float = 0.0) -> float:
    """Return the learning rate of update s."""
    return floor + (peak - floor) * gamma**s


def cooldown_factor(s: int, total: int, cooldown: int) -> float:
    """Return the factor of update s: 1 before the last `cooldown` updates, then down to 1 / cooldown at s = total."""
    if cooldown <= 0:
        return 1.0
    return min(1.0, max(0.0, (total - s + 1) / cooldown))


LEARNING_RATE_SCHEDULES = ("inverse_sqrt", "cosine", "exponential", "constant")


def learning_rate(s: int, train: Any, total: int) -> float:
    """Return the learning rate of update s.

    Args:
        s: the update about to be made, from 1.
        train: TrainArguments.
        total: the planned number of updates, which a time limit may have lowered.
    """
    peak, warmup, floor = train.learning_rate, train.warmup_updates, train.final_learning_rate
    if train.lr_schedule == "inverse_sqrt":
        rate = inverse_sqrt(s, peak, warmup)
    elif train.lr_schedule == "cosine":
        rate = cosine(s, peak, warmup, train.max_updates, floor)
    elif train.lr_schedule == "exponential":
        rate = exponential(s, peak, train.lr_gamma, floor)
    else:
        rate = peak * min(1.0, s / max(1, warmup))
    return rate * cooldown_factor(s, total, train.cooldown_updates)


def constant(value: float) -> Schedule:
    return lambda s: value


def linear(start: float, end: float, updates: int) -> Schedule:
    return lambda s: start + (end - start) * min(s / updates, 1.0)


def saturating(max: float, gamma: float) -> Schedule:
    return lambda s: max * (1 - gamma**s)


def cyclical(max: float, period: int, ratio: float = 0.5) -> Schedule:
    return lambda s: max * min(s % period / period / ratio, 1.0)


def decay(k: float) -> Schedule:
    return lambda s: 1 - k**s


def inverse_sigmoid(k: float) -> Schedule:
    # 1 - k / (k + e^x) = 1 / (1 + k e^-x), which cannot overflow
    return lambda s: 1 / (1 + k * math.exp(-s / k))


VALUE_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "saturating": saturating,
    "cyclical": cyclical,
    "decay": decay,
    "inverse_sigmoid": inverse_sigmoid,
}


def make_value_schedule(name: str, description: Any) -> Schedule:
    """Build the schedule of one forward argument from `{kind: ..., <parameters>}`; a bare number is a constant.

    Raises:
        ValueError: unknown kind, or parameters that the kind does not take.
    """
    if isinstance(description, int | float) and not isinstance(description, bool):
        return constant(float(description))
    if not isinstance(description, dict) or "kind" not in description:
        raise ValueError(f"schedules.{name} is {description!r}: expected a number or {{kind: ..., parameters}}")
    parameters = {key: float(value) for key, value in description.items() if key != "kind"}
    kind = description["kind"]
    if kind not in VALUE_SCHEDULES:
        raise ValueError(f"schedules.{name}.kind is {kind!r}: valid: {', '.join(sorted(VALUE_SCHEDULES))}")
    try:
        return VALUE_SCHEDULES[kind](**parameters)
    except TypeError as error:
        raise ValueError(f"schedules.{name}: {error}") from error
