"""Log-probabilities of the raw model distribution, as a request asked for them. One row at a time, on the host."""

import numpy as np

from ..core.plan import TokenLogprobs


def describe(row: np.ndarray, token_id: int, top: int, only_ids: list[int] | None = None) -> TokenLogprobs:
    """What the raw logits ``row`` fp32 [vocab_size] said of ``token_id`` and of its alternatives.

    Args:
        top: how many of the most likely ids to list, equal ones by lower id; -1 = all.
        only_ids: list these ids instead, in this order.
    """
    largest = row.max()
    total = float(largest) + float(np.log(np.exp(row - largest).sum(dtype=np.float64)))
    ids = np.asarray(only_ids, np.int64) if only_ids is not None else largest_ids(row, top)
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(row[token_id]) - total,
        rank=1 + int(np.count_nonzero(row > row[token_id])),
        top_ids=ids.tolist(),
        top_logprobs=(row[ids].astype(np.float64) - total).tolist(),
    )


def largest_ids(row: np.ndarray, count: int) -> np.ndarray:
    """Ids of the ``count`` largest values (-1 = all), falling, equal ones by lower id."""
    if count < 0 or count >= len(row):
        return np.argsort(-row, kind="stable")
    if count == 0:
        return np.zeros(0, np.int64)
    floor = np.partition(row, len(row) - count)[len(row) - count]
    ids = np.flatnonzero(row >= floor)
    return ids[np.argsort(-row[ids], kind="stable")][:count]
