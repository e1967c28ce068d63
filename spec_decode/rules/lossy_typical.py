"""Typical acceptance (Medusa, arXiv 2401.10774 section 2.3.1): a draft stands while the target finds it likely enough.

**Lossy**: what comes out is not the target's law, it leans towards what speculators propose, and a seed's text changes
with them. So it is used only where a server's config names it, and no lossless claim covers it. At temperature 0 a
draft stands only if it is the mode: then the text is the greedy one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ...engine.execution.acceptance import Accepted, VerifyBatch

LOSSLESS = False
MOST = 0.09
"""A draft of this chance stands whatever the others are (the paper's epsilon)."""
SCALE = 0.3
"""A draft stands from SCALE * exp(-entropy) on: less is asked of it where the target is unsure (the paper's delta)."""


class Typical:
    """Stateless; the next token is drawn as in plain decoding."""

    def accept(self, batch: "VerifyBatch") -> "list[Accepted]":
        """The longest run of typical drafts (of a tree: the deepest path, the first of equals), and a next token."""
        from ...engine.execution.acceptance import Accepted
        from ...kernels import ops

        drawn = ops.sample(batch.logits, batch.temperatures, batch.seeds, batch.positions).tolist()
        answers: list[Accepted] = []
        for row, (start, drafts) in enumerate(zip(batch.starts, batch.draft_ids, strict=False)):
            given = batch.parents[row] if batch.parents else None
            parents = list(range(-1, len(drafts) - 1)) if given is None else given
            path = _deepest(parents, _typical(batch, start, drafts, parents))
            next_token = drawn[start + (path[-1] + 1 if path else 0)]
            tokens = [*(drafts[node] for node in path), next_token]
            answers.append(Accepted(tokens, len(path), None if given is None else path))
        return answers


def _typical(batch: "VerifyBatch", start: int, drafts: list[int], parents: list[int]) -> list[bool]:
    """Of each draft, judged by the law behind its parent: is it likely enough?"""
    import torch

    if not drafts:
        return []
    places = torch.tensor(parents, device=batch.logits.device) + (start + 1)
    ids = torch.tensor(drafts, device=batch.logits.device).unsqueeze(1)
    logits = batch.logits[places]
    is_mode = logits.argmax(-1) == ids[:, 0]
    laws = logits.softmax(-1)
    likely = laws.gather(1, ids)[:, 0] > _least(laws)
    return torch.where(batch.temperatures[places] > 0, likely, is_mode).tolist()


def _least(laws: "torch.Tensor") -> "torch.Tensor":
    """The chance [n] above which a draft stands, for laws [n, V]."""
    import torch

    return (SCALE * torch.exp(-torch.special.entr(laws).sum(-1))).clamp(max=MOST)


def _deepest(parents: list[int], stands: list[bool]) -> list[int]:
    """The longest path of nodes that all stand."""
    depths: list[int] = []
    for node, parent in enumerate(parents):
        above = depths[parent] if parent >= 0 else 0
        depths.append(above + 1 if stands[node] and (parent < 0 or above) else 0)
    depth = max(depths, default=0)
    path: list[int] = []
    at = depths.index(depth) if depth else -1
    while at >= 0:
        path.insert(0, at)
        at = parents[at]
    return path


def build(config: Any = None) -> Typical:
    """The rule takes no settings: its thresholds are the paper's."""
    return Typical()
