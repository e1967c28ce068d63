"""Verify the children of one node of a tree whose drafts were sampled without replacement (arXiv 2402.12374).

Knows one node; who walks the tree, and which children to draft, is decided elsewhere.
"""

import torch

from ..kernels import noise


def choose(
    p: torch.Tensor,
    q: torch.Tensor,
    child_ids: list[int],
    seed: torch.Tensor,
    position: torch.Tensor,
    window: torch.Tensor,
) -> tuple[int, int]:
    """Which child stands, or -1, and the token committed at the node's next position.

    p, q fp64 [V]: the target's and the drafter's law there; ``child_ids``: drawn from q one after the other, none
    twice; the noise keys are int64 [1]. The token follows p exactly. Each refusal takes q out of the target's law and
    the child out of q.
    """
    rest, proposal = p, q
    for j, child in enumerate(child_ids):
        u = noise.uniforms(seed, position, noise.SIBLING + j, window)
        if u * proposal[child] < rest[child]:
            return j, child
        left = (rest - proposal).clamp(min=0.0)
        if not left.sum() > 0:  # by rounding alone: what refuses a child leaves weight elsewhere
            break
        rest = left / left.sum()
        proposal = proposal.clone()
        proposal[child] = 0.0
        proposal /= proposal.sum().clamp(min=torch.finfo(proposal.dtype).tiny)
    return -1, int(noise.race(rest.unsqueeze(0), seed, position, noise.RESIDUAL, window))
