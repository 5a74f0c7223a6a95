"""Which rows form which micro-batch of which update: a pure function of lengths, seed and epoch.

All processes compute the same plan and take their share, so a position in it (epoch, update) is all that resuming
needs, and the content of an update does not depend on the number of processes.
"""

import numpy as np

LENGTH_STEP = 256  # lengths that differ by less than this count as equal, so that the bar count decides

Update = list[np.ndarray]  # micro-batches, each the row numbers it holds


def plan_epoch(
    lengths: np.ndarray,
    bars: np.ndarray,
    *,
    seed: int,
    epoch: int,
    max_tokens: int,
    max_rows: int = 0,
    batches_per_update: int = 1,
    bucket_rows: int = 512,
) -> list[Update]:
    """Return the updates of one epoch; every row occurs once, but for fewer than `batches_per_update` left over.

    Rows are shuffled, cut into pools of `bucket_rows`, and sorted by length and bar count inside a pool; consecutive
    rows then form micro-batches of at most `max_tokens` = rows x longest row. A row longer than that is alone.

    Args:
        lengths: [rows] tokens of each row.
        bars: [rows] bars of each row.
    """
    rng = np.random.default_rng((seed, epoch, 0))
    order = rng.permutation(len(lengths))
    pools = []
    for number, start in enumerate(range(0, len(order), bucket_rows)):
        pool = order[start : start + bucket_rows]
        pool = pool[np.lexsort((bars[pool], lengths[pool] // LENGTH_STEP))]
        pools.append(pool[::-1] if number % 2 else pool)  # a pool starts with lengths like those that end the last one
    rows = np.concatenate(pools) if pools else order
    batches = cut_batches(rows, lengths, max_tokens, max_rows)
    # Shuffled before they are grouped: an update mixes short and long, sparse and dense rows.
    batches = [batches[i] for i in rng.permutation(len(batches))]
    whole = len(batches) // batches_per_update * batches_per_update
    updates = [batches[i : i + batches_per_update] for i in range(0, whole, batches_per_update)]
    rest = [row for batch in batches[whole:] for row in batch]
    if len(rest) >= batches_per_update:
        updates.append([np.array(part) for part in np.array_split(rest, batches_per_update)])
    return updates


def cut_batches(rows: np.ndarray, lengths: np.ndarray, max_tokens: int, max_rows: int = 0) -> list[np.ndarray]:
    """Cut consecutive rows into batches of at most `max_tokens` padded tokens and `max_rows` rows (0: no limit)."""
    batches, start, longest = [], 0, 0
    for i, length in enumerate(lengths[rows].tolist()):
        grown = max(longest, length)
        count = i - start + 1
        if count > 1 and (grown * count > max_tokens or (max_rows and count > max_rows)):
            batches.append(rows[start:i])
            start, grown = i, length
        longest = grown
    if start < len(rows):
        batches.append(rows[start:])
    return batches
