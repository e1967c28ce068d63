"""What is left of drafts that were made early, once more tokens are committed. No torch, no messages.

Drafts made while the target verified begin at the length of their stamp. Walking them along what was committed since
leads to a node; the chain below it is the next proposal. A table of outcomes, keyed (accepted drafts, next token), is
such a tree: the drafts in flight are its trunk, each possible next token a child of the trunk's node, and what was
drafted for that outcome hangs below.
"""

from collections.abc import Sequence

import msgspec

from ..engine.core.plan import Drafts


def is_whole(drafts: Drafts) -> bool:
    """Do all lists fit, and does every parent come before its child?"""
    num, parents = len(drafts.token_ids), drafts.parents
    if any(len(others) != num for others in (drafts.confidence, drafts.draft_q) if others is not None):
        return False
    return parents is None or (len(parents) == num and all(-1 <= p < i for i, p in enumerate(parents)))


def behind(drafts: Drafts, committed: Sequence[int]) -> Drafts | None:
    """The chain that goes on behind ``committed``, the tokens since the drafts' ``base_len``, under its own stamp.

    From the node reached, the first child of each node makes the chain. ``drafts`` must be whole.

    Returns:
        None where the committed tokens left the drafts, or used them up.
    """
    nodes = _chain(drafts, committed) if drafts.parents is None else _path(drafts, drafts.parents, committed)
    if not nodes:
        return None
    confidence, laws = drafts.confidence, drafts.draft_q
    return msgspec.structs.replace(
        drafts,
        base_len=drafts.base_len + len(committed),
        token_ids=[drafts.token_ids[i] for i in nodes],
        parents=None,
        confidence=None if confidence is None else [confidence[i] for i in nodes],
        draft_q=None if laws is None else [laws[i] for i in nodes],
    )


def _chain(drafts: Drafts, committed: Sequence[int]) -> Sequence[int]:
    num = len(committed)
    return range(num, len(drafts.token_ids)) if drafts.token_ids[:num] == list(committed) else ()


def _path(drafts: Drafts, parents: list[int], committed: Sequence[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    at = -1
    for token in committed:
        at = next((node for node in children.get(at, ()) if drafts.token_ids[node] == token), -2)
        if at == -2:
            return []
    nodes: list[int] = []
    while at in children:
        at = children[at][0]
        nodes.append(at)
    return nodes


def cut(chain: Drafts, depth: int) -> Drafts:
    """The first ``depth`` drafts of a chain."""
    if len(chain.token_ids) <= depth:
        return chain
    confidence, laws = chain.confidence, chain.draft_q
    return msgspec.structs.replace(
        chain,
        token_ids=chain.token_ids[:depth],
        confidence=None if confidence is None else confidence[:depth],
        draft_q=None if laws is None else laws[:depth],
    )
