"""Rejection rules over all rows at once: q stays sparse, and only rows that refuse a draft get weights and noise.

Outside the support of q everything cancels: [rho p - q] sums to rho less what p and q overlap, and what is left behind
a refusal is p but for at most M ids. So one pass over the logits of a drafted place, and one draw a row.
"""

import torch

from .. import noise
from ..dispatch import backend

_MOST_ELEMENTS = 1 << 16
"""Logits are read in slices of about this many, which stay in a core's cache."""


def why_not(device: str) -> str | None:
    """Why this cannot serve a kind of device, or None."""
    return None if device == "cpu" else f"chosen for cpu, not {device}"


def run(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    draft_ids: torch.Tensor,
    q_ids: torch.Tensor,
    q_weights: torch.Tensor,
    rule: str,
) -> torch.Tensor:
    """See ``ops.verify``."""
    sample = backend("sample", logits)
    last = torch.nonzero(draft_ids < 0).flatten()
    drafted = torch.nonzero(draft_ids >= 0).flatten()
    if not len(drafted):
        token = sample(logits, temperature, seeds, positions)
        return torch.stack([torch.zeros_like(token), token], dim=1)
    first = torch.cat([last.new_zeros(1), last[:-1] + 1])
    windows = positions[first].repeat_interleave(last - first + 1)
    support = q_ids[drafted]
    q = q_weights[drafted].double()
    q /= q.sum(-1, keepdim=True)
    p, normaliser = _laws(logits, temperature, drafted, support)
    hit = support == draft_ids[drafted].unsqueeze(1)
    u = noise.uniforms(seeds[drafted], positions[drafted], noise.ACCEPT, windows[drafted])
    num, scale = _judge(p, q, hit, u, last - first, rule)

    at = first + num
    scores, chosen_by = logits[at], seeds[at]
    refused = torch.nonzero((at < last) & (temperature[at] > 0)).flatten()  # greedy: what a sure law leaves is that law
    if len(refused):
        places = at[refused]
        d = torch.searchsorted(drafted, places)  # index among the drafts
        scale = scale[refused].unsqueeze(1)
        scores[refused] = _residual(scores[refused], normaliser[d], support[d], p[d], q[d] / scale)
        chosen_by[refused] = noise.keys(seeds[places], positions[places], noise.RESIDUAL, positions[first[refused]])
    return torch.stack([num, sample(scores, temperature[at], chosen_by, positions[at])], dim=1)


def _laws(
    logits: torch.Tensor, temperature: torch.Tensor, drafted: torch.Tensor, support: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's chances fp64 [D, M] of the ids in ``support`` at the D drafted places, and log-sum-exp fp64 [D]."""
    p = torch.empty(support.shape, dtype=torch.float64, device=logits.device)
    normaliser = torch.zeros(len(drafted), dtype=torch.float64, device=logits.device)
    sampled = temperature[drafted] > 0
    size = max(1, _MOST_ELEMENTS // logits.shape[1])
    for start in range(0, len(drafted), size):
        part = slice(start, start + size)
        x = logits[drafted[part]] if size > 1 else logits[int(drafted[start])].unsqueeze(0)  # no copy of one row
        ids, is_sampled = support[part], sampled[part]
        if is_sampled.any():
            best = x.amax(-1, keepdim=True)
            normaliser[part] = (x - best).exp_().sum(-1, dtype=torch.float64).log() + best[:, 0]
        p[part] = (x.gather(1, ids).double() - normaliser[part].unsqueeze(1)).exp()
        if not is_sampled.all():
            sure = (ids == x.argmax(-1, keepdim=True)).double()
            p[part] = torch.where(is_sampled.unsqueeze(1), p[part], sure)
    return p, normaliser


def _judge(
    p: torch.Tensor, q: torch.Tensor, hit: torch.Tensor, u: torch.Tensor, depths: torch.Tensor, rule: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many drafts of each row stand, int64 [R], and what p is multiplied by behind them, fp64 [R].

    p, q fp64 [D, M] on the support of q, ``hit`` where it is the draft itself, u fp64 [D], depths int64 [R].
    """
    p_draft, q_draft = p.where(hit, 0.0).amax(-1), q.where(hit, 0.0).sum(-1)
    ratio = torch.where(q_draft > 0, p_draft / q_draft, 0.0)  # a draft that its drafter could not have said is refused
    columns = torch.arange(int(depths.max()), device=u.device)
    present = columns < depths.unsqueeze(1)  # [R, K]
    index = (depths.cumsum(0) - depths).unsqueeze(1) + columns  # [R, K] into the drafts
    index = index.clamp(max=len(u) - 1)
    ratio, u = ratio[index], u[index]
    if rule == "token":
        num = _before_the_first_failure((u < ratio) & present)
        return num, torch.ones_like(depths, dtype=torch.float64)
    rho = [torch.ones_like(depths, dtype=torch.float64)]
    chances = torch.zeros_like(u)
    for j in columns.tolist():
        scale = (rho[-1] * ratio[:, j]).clamp(max=1.0)
        rho.append(scale)
        behind = index[:, min(j + 1, len(columns) - 1)]
        overlap = torch.minimum(scale.unsqueeze(1) * p[behind], q[behind]).sum(-1)
        passing = _pass_chance(scale, (scale - overlap).clamp(min=0.0))
        chances[:, j] = torch.where(j + 1 < depths, passing, scale)
    num = _up_to_the_last_pass((u <= chances) & present)
    return num, torch.stack(rho, dim=1).gather(1, num.unsqueeze(1))[:, 0]


def _before_the_first_failure(passed: torch.Tensor) -> torch.Tensor:
    return passed.long().cumprod(-1).sum(-1)


def _up_to_the_last_pass(passed: torch.Tensor) -> torch.Tensor:
    return (passed * torch.arange(1, passed.shape[1] + 1, device=passed.device)).amax(-1)


def _pass_chance(rho: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """h_i of the block rule: mass / (mass + 1 - rho), where 0 / 0 is 1."""
    below = mass + 1.0 - rho
    return torch.where(below > 0, mass / below, 1.0)


def _residual(
    logits: torch.Tensor, normaliser: torch.Tensor, support: torch.Tensor, p: torch.Tensor, q: torch.Tensor
) -> torch.Tensor:
    """The logits fp32 [n, V] of [p - q] cut off at 0, or of p where nothing is left; p, q fp64 [n, M] on support."""
    left = ((p - q).clamp(min=0.0).log() + normaliser.unsqueeze(1)).float()
    rest = logits.scatter_reduce(1, support, left, "amin")  # least: unused places repeat an id with q = 0
    return torch.where(rest.amax(-1, keepdim=True) > -torch.inf, rest, logits)
