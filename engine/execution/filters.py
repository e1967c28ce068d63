"""Which tokens stay possible: top_k, then top_p, then min_p, as one lowest logit per row.

A filter keeps every id whose logit reaches the cut, so ids of equal logit stay or go together and the outcome does not
depend on how anything was sorted. top_p keeps the fewest most likely tokens that reach its mass, counted over what
top_k left; min_p keeps what is at least min_p times as likely as the most likely token.

The vocabulary is not sorted: the cut is sought among the 64 largest logits first. Where they cannot tell (a flat
distribution, a wide top_k, ties at the edge) more are taken, at last all.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..types import SamplingParams

_NARROW = 64
_WIDE = 4096


def apply(logits: torch.Tensor, places: Sequence[int], params: Sequence[SamplingParams]) -> None:
    """Mask rows ``places`` of logits fp32 [S, V], already divided by temperature, with -inf in place."""
    all_rows = len(places) == len(logits)
    index = torch.tensor(places, device=logits.device)
    rows = logits if all_rows else logits[index]
    size = rows.shape[1]
    masses = _masses(rows, params)
    values, ids = torch.topk(rows, min(_NARROW, size))
    found = values.cpu().numpy()
    floors = np.full((len(places), 1), np.inf, np.float32)
    told: list[int] = []
    for i, wanted in enumerate(params):
        floor = cut(found[i], masses[i], wanted, complete=size <= _NARROW)
        if floor is None:
            _apply_wide(rows[i], masses[i], wanted)
        else:
            floors[i] = floor
            told.append(i)
    if told:
        values.masked_fill_(values < torch.from_numpy(floors).to(values.device), -torch.inf)
        if len(told) == len(places):
            rows.fill_(-torch.inf).scatter_(1, ids, values)
        else:
            some = torch.tensor(told, device=rows.device)
            rows[some] = torch.full_like(rows[some], -torch.inf).scatter_(1, ids[some], values[some])
    if not all_rows:
        logits[index] = rows


def cut(values: np.ndarray, mass: float, params: SamplingParams, *, complete: bool) -> np.float32 | None:
    """The lowest logit that stays, or None when ``values`` are too few to tell.

    Args:
        values: the largest logits, fp32, falling; ``complete`` when they are all.
        mass: sum of exp(logit - values[0]) over the vocabulary; only top_p without top_k needs it.
    """
    top = values[0]
    if not np.isfinite(top):
        return np.float32(-np.inf)  # nothing is allowed, or the model failed: the runner sees it and says so
    floor = np.float32(-np.inf)
    kept = values
    if params.top_k > 0:
        if params.top_k > len(values) and not complete:
            return None
        floor = values[min(params.top_k, len(values)) - 1]
        if values[-1] >= floor and not complete:
            return None
        kept = values[values >= floor]
    if params.top_p < 1:
        reached = np.cumsum(np.exp(kept.astype(np.float64) - top))
        whole = reached[-1] if params.top_k > 0 or complete else mass
        last = int(np.searchsorted(reached, params.top_p * whole))
        if last == len(kept):
            return None
        floor = max(floor, kept[last])
    if params.min_p > 0:
        floor = max(floor, np.float32(top + np.log(params.min_p)))
    return None if values[-1] >= floor and not complete else floor


def _masses(rows: torch.Tensor, params: Sequence[SamplingParams]) -> list[float]:
    """Sum of exp(logit - largest) of each row whose top_p needs it, else 0. softmax reduces each row by itself."""
    masses = [0.0] * len(params)
    need = [i for i, wanted in enumerate(params) if wanted.top_p < 1 and not wanted.top_k]
    if need:
        chosen = rows if len(need) == len(rows) else rows[torch.tensor(need, device=rows.device)]
        for i, largest in zip(need, torch.softmax(chosen, -1).amax(-1).tolist(), strict=True):
            masses[i] = 1.0 / largest
    return masses


def _apply_wide(row: torch.Tensor, mass: float, params: SamplingParams) -> None:
    if not params.top_k and params.top_p >= 1:
        floor = float(np.float32(float(row.max()) + np.log(params.min_p)))
    else:
        size = len(row)
        found = torch.topk(row, min(_WIDE, size)).values.cpu().numpy()
        floor = cut(found, mass, params, complete=size <= _WIDE)
        if floor is None:
            floor = cut(torch.sort(row, descending=True).values.cpu().numpy(), mass, params, complete=True)
        assert floor is not None, f"a complete row of {size} logits has no cut for {params}"
    row.masked_fill_(row < float(floor), -torch.inf)
