"""Damaged and incomplete items, for denoising and imputation. Items are `[n, steps, width]` of ones and zeros."""

import numpy as np

DAMAGES = ("drop", "jitter", "mask")
HIDING = ("cells", "steps")


def damage(values: np.ndarray, kind: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Damaged copies, and which cells `[n, steps, width]` the damage struck.

    Args:
        kind: `drop` switches notes off, each with chance `share`; `jitter` moves notes to the cell above or below,
            each with chance `share`; `mask` silences a stretch of `share` of the steps, anywhere.

    Raises:
        ValueError: unknown kind, or a share outside (0, 1].
    """
    if kind not in DAMAGES or not 0 < share <= 1:
        raise ValueError(
            f"damage {kind!r} with share {share}: choose one of {', '.join(DAMAGES)} and a share in (0, 1]"
        )
    result, struck = values.copy(), np.zeros(values.shape, bool)
    if kind == "mask":
        length = max(1, round(share * values.shape[1]))
        starts = rng.integers(0, values.shape[1] - length + 1, len(values))
        steps = np.arange(values.shape[1])
        struck |= ((steps >= starts[:, None]) & (steps < starts[:, None] + length))[:, :, None]
        result[struck] = 0
        return result, struck
    hit = (values > 0) & (rng.random(values.shape, dtype=np.float32) < share)
    result[hit] = 0
    struck |= hit
    if kind == "jitter":
        rows, steps, cells = np.nonzero(hit)
        moved = cells + rng.choice([-1, 1], len(cells))
        inside = (moved >= 0) & (moved < values.shape[2])
        result[rows[inside], steps[inside], moved[inside]] = 1
        struck[rows[inside], steps[inside], moved[inside]] = True
    return result, struck


def hidden_mask(shape: tuple[int, ...], share: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Cells `[n, steps, width]` that are missing: each with chance `share` (`cells`), or whole `steps`.

    Raises:
        ValueError: unknown kind, or a share outside (0, 1).
    """
    if kind not in HIDING or not 0 < share < 1:
        raise ValueError(f"hiding {kind!r} with share {share}: choose one of {', '.join(HIDING)} and a share in (0, 1)")
    drawn_shape = shape if kind == "cells" else (*shape[:2], *[1] * (len(shape) - 2))
    return np.broadcast_to(rng.random(drawn_shape, dtype=np.float32) < share, shape).copy()


def cell_f1(true: np.ndarray, found: np.ndarray, where: np.ndarray | None = None) -> float:
    """F1 of cells that are on (above 1/2), of all cells or of some; 1 where nothing is on in either."""
    first, second = true > 0.5, found > 0.5
    if where is not None:
        first, second = first[where], second[where]
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def hidden_cost(true: np.ndarray, probability: np.ndarray, where: np.ndarray) -> float:
    """Mean cross-entropy of independent cells, in bits per cell, over some cells."""
    p = np.clip(probability[where].astype(np.float64), 1e-6, 1 - 1e-6)
    x = true[where]
    return float(-(x * np.log2(p) + (1 - x) * np.log2(1 - p)).mean())
