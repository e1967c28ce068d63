"""Drafts that wait for their step: are they well formed, and what is left of them after tokens were committed.

One function serves chains, trees and tables of outcomes, early or late. Knows no request and no speculator.
"""

from collections.abc import Sequence

from .plan import Drafts


def is_sound(drafts: Drafts, vocab_size: int) -> bool:
    """Every id inside the logits, every parent before its child. Anything else is a fault of the sender."""
    if drafts.token_ids and (min(drafts.token_ids) < 0 or max(drafts.token_ids) >= vocab_size):
        return False
    parents = drafts.parents
    if parents is None:
        return True
    return len(parents) == len(drafts.token_ids) and all(-1 <= p < i for i, p in enumerate(parents))


def advance(drafts: Drafts, committed: Sequence[int]) -> list[int] | None:
    """The chain that still hangs below ``committed``, the tokens committed since the drafts' ``base_len``.

    A tree is walked along the committed tokens; from the node reached, the first child of each node makes the chain (a
    speculator lists its best child first).

    Returns:
        The drafts to verify next; [] when all are used up; None when the committed tokens left the drafts.
    """
    if drafts.parents is None:
        num = len(committed)
        shared = min(num, len(drafts.token_ids))
        return drafts.token_ids[num:] if drafts.token_ids[:shared] == list(committed[:shared]) else None
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(drafts.parents):
        children.setdefault(parent, []).append(node)
    at = -1
    for token in committed:
        below = children.get(at)
        if below is None:
            return []
        at = next((node for node in below if drafts.token_ids[node] == token), -2)
        if at == -2:
            return None
    chain: list[int] = []
    while at in children:
        at = children[at][0]
        chain.append(drafts.token_ids[at])
    return chain
