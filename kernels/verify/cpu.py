"""Rejection rules over all rows at once: q stays sparse, and only rows that refuse a draft get weights and noise.

Outside the support of q everything cancels: [rho p - q] sums to rho less what p and q overlap, and what is left behind
a refusal is p but for at most M ids. So one pass over the logits of a drafted place, and one draw a row.
"""

import torch

from .. import noise
from ..native import load, tensors
from ..sample.cpu import run as sample

why_not = load.why_not
_summarise = load.function("pl_summarise")


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
    logits = tensors.dense(logits)
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
    chosen_by = seeds[at]
    refused = torch.nonzero((at < last) & (temperature[at] > 0)).flatten()  # greedy: what a sure law leaves is that law
    if not len(refused):
        return torch.stack([num, sample(logits[at], temperature[at], chosen_by, positions[at])], dim=1)
    places = at[refused]
    d = torch.searchsorted(drafted, places)  # index among the drafts
    scores = _residual(logits[places], normaliser[d], support[d], p[d], q[d] / scale[refused].unsqueeze(1))
    if len(refused) < len(at):
        scores = logits[at].index_copy_(0, refused, scores)
    chosen_by[refused] = noise.keys(seeds[places], positions[places], noise.RESIDUAL, positions[first[refused]])
    token = sample(scores, temperature[at], chosen_by, positions[at])
    empty = torch.isinf(scores.gather(1, token.unsqueeze(1))[:, 0])
    if empty.any():  # nothing is left but rounding: then of p
        token[empty] = sample(logits[at[empty]], temperature[at[empty]], chosen_by[empty], positions[at[empty]])
    return torch.stack([num, token], dim=1)


def _laws(
    logits: torch.Tensor, temperature: torch.Tensor, drafted: torch.Tensor, support: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's chances fp64 [D, M] of the ids in ``support`` at the D drafted places, and log-sum-exp fp64 [D]."""
    top, normaliser = torch.empty_like(drafted), torch.empty(len(drafted), dtype=torch.float64)
    num_rows, vocab_size = logits.shape
    _summarise(
        tensors.fp32(logits), tensors.fp32(temperature), tensors.int64(drafted), top.data_ptr(), normaliser.data_ptr(),
        len(drafted), num_rows, vocab_size,
    )  # fmt: skip
    p = (logits[drafted.unsqueeze(1), support].double() - normaliser.unsqueeze(1)).exp()
    sure = (support == top.unsqueeze(1)).double()
    return torch.where((temperature[drafted] > 0).unsqueeze(1), p, sure), normaliser


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
    """The logits fp32 [n, V] of [p - q] cut off at 0, made from those of p in place; p, q fp64 [n, M] on support."""
    left = ((p - q).clamp(min=0.0).log() + normaliser.unsqueeze(1)).float()
    return logits.scatter_reduce_(1, support, left, "amin")  # least: unused places repeat an id with q = 0
