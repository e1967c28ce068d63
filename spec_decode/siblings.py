"""Verify the children of tree nodes whose drafts were sampled without replacement (arXiv 2402.12374).

Knows single nodes; who walks the tree, and which children to draft, is decided elsewhere.
"""

import torch

from ..kernels import noise, ops


def choose(
    p: torch.Tensor,
    q: torch.Tensor,
    child_ids: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    windows: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which child of each node stands, or -1, and the token committed behind the node; both int64 [N].

    p, q fp64 [N, V]: the target's and the drafter's law there; child_ids int64 [N, n]: drawn from q one after the
    other, none twice, -1 behind the last; the noise keys are int64 [N]. The tokens follow p exactly: each refusal takes
    q out of the target's law, and the child out of q.
    """
    rest, proposal = p, q
    which = torch.full_like(seeds, -1)
    token = torch.zeros_like(seeds)
    for j, child in enumerate(child_ids.unbind(1)):
        at = child.clamp(min=0).unsqueeze(1)
        u = noise.uniforms(seeds, positions, noise.SIBLING + j, windows)
        tested = (which < 0) & (child >= 0)
        stands = tested & (u * proposal.gather(1, at)[:, 0] < rest.gather(1, at)[:, 0])
        which, token = torch.where(stands, j, which), torch.where(stands, child, token)
        refused = (tested & ~stands).unsqueeze(1)
        rest = torch.where(refused, _normalised((rest - proposal).clamp(min=0.0), rest), rest)
        proposal = torch.where(refused, _normalised(proposal.scatter(1, at, 0.0), proposal), proposal)
    keys = noise.keys(seeds, positions, noise.RESIDUAL, windows)
    behind = ops.sample(rest.log().float(), torch.ones_like(rest[:, 0]).float(), keys, positions)
    return which, torch.where(which < 0, behind, token)


def _normalised(weights: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """Weights [N, V] over their sums; a line without any is taken from ``empty``."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total, empty)
