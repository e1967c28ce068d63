"""Rejection rules in plain torch, row by row over dense laws in fp64 (token: arXiv 2211.17192, block: 2403.10444)."""

import torch

from .. import noise
from ..sample import reference as sample


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
    decided: list[list[int]] = []
    start = 0
    for end in (torch.nonzero(draft_ids < 0).flatten() + 1).tolist():
        row = slice(start, end)
        p = target_laws(logits[row], temperature[row])
        q = draft_laws(q_ids[row][:-1], q_weights[row][:-1], logits.shape[1])
        windows = positions[start].expand(end - start)
        u = noise.uniforms(seeds[row], positions[row], noise.ACCEPT, windows)
        num, rest = judge(p, q, draft_ids[row][:-1], u[:-1], rule)
        at = slice(start + num, start + num + 1)
        scores, seed = logits[at], seeds[at]
        if rest is not None:
            scores, seed = rest.log().unsqueeze(0), noise.keys(seed, positions[at], noise.RESIDUAL, windows[:1])
        token = sample.run(scores, temperature[at], seed, positions[at])
        decided.append([num, int(token)])
        start = end
    return torch.tensor(decided, dtype=torch.int64, device=logits.device).reshape(-1, 2)


def target_laws(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """The target's laws fp64 [n, V]: softmax, or all on the lowest of the largest where temperature is 0."""
    greedy = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[1])
    return torch.where((temperature > 0).unsqueeze(1), logits.double().softmax(-1), greedy.double())


def draft_laws(q_ids: torch.Tensor, q_weights: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The drafter's laws fp64 [n, V] from sparse weights [n, M]."""
    q = torch.zeros(len(q_ids), vocab_size, dtype=torch.float64, device=q_ids.device)
    q.scatter_add_(1, q_ids, q_weights.double())
    return q / q.sum(-1, keepdim=True)


def judge(
    p: torch.Tensor, q: torch.Tensor, drafts: torch.Tensor, u: torch.Tensor, rule: str
) -> tuple[int, torch.Tensor | None]:
    """How many of k drafts stand, and the weights [V] of the next token: None = the law p of its own position.

    p [k + 1, V] and q [k, V] laws, drafts [k] ids, u [k] in (0, 1).
    """
    ids = drafts.unsqueeze(1)
    p_draft, q_draft = p[:-1].gather(1, ids)[:, 0], q.gather(1, ids)[:, 0]
    ratio = torch.where(q_draft > 0, p_draft / q_draft, 0.0)  # a draft that its drafter could not have said is refused
    if rule == "token":
        num = int((u < ratio).long().cumprod(0).sum())
        scale = ratio.new_tensor(1.0)
    else:
        rho = [ratio.new_tensor(1.0)]
        for r in ratio:
            rho.append((rho[-1] * r).clamp(max=1.0))
        num = max((i + 1 for i in range(len(u)) if u[i] <= _block_chance(p, q, rho, i + 1)), default=0)
        scale = rho[num]
    if num == len(drafts):
        return num, None
    rest = (scale * p[num] - q[num]).clamp(min=0.0)
    return num, rest if rest.sum() > 0 else p[num]


def _block_chance(p: torch.Tensor, q: torch.Tensor, rho: list[torch.Tensor], i: int) -> torch.Tensor:
    """h_i: the chance that draft i passes, for i = 1..k."""
    if i == len(q):
        return rho[i]
    mass = (rho[i] * p[i] - q[i]).clamp(min=0.0).sum()
    below = mass + 1 - rho[i]
    return mass / below if below > 0 else torch.ones_like(mass)
