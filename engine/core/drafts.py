"""Drafts that wait for their step: are they well formed, and what is left of them after tokens were committed.

One function serves chains, trees and tables of outcomes, early or late. Knows no request and no speculator.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .plan import DraftLaw, Drafts, depths, is_law


class Left(NamedTuple):
    """Drafts behind the committed tokens; parents come before their children. Empty = all used up."""

    token_ids: list[int]
    parents: list[int] | None
    """None = a chain; -1 = behind the last committed token."""
    draft_q: list[DraftLaw] | None


def is_sound(drafts: Drafts, vocab_size: int) -> bool:
    """Ids inside the logits, parents before their children, laws that are laws. Else it is a fault of the sender."""
    ids = drafts.token_ids
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        return False
    parents, laws = drafts.parents, drafts.draft_q
    if parents is not None and not (len(parents) == len(ids) and all(-1 <= p < i for i, p in enumerate(parents))):
        return False
    return laws is None or (len(laws) == len(ids) and all(is_law(law, vocab_size) for law in laws))


def advance(drafts: Drafts, committed: Sequence[int], *, trees: bool = True) -> Left | None:
    """What still hangs below ``committed``, the tokens committed since the drafts' ``base_len``.

    Equal siblings are merged. Without ``trees`` the first child of each node makes a chain (a speculator lists its best
    child first).

    Returns:
        The drafts to verify next, under the committed tokens; None when these left the drafts.
    """
    num = len(committed)
    if drafts.parents is None:
        if not num:
            return Left(drafts.token_ids, None, drafts.draft_q)
        shared = min(num, len(drafts.token_ids))
        if drafts.token_ids[:shared] != list(committed[:shared]):
            return None
        return Left(drafts.token_ids[num:], None, None if drafts.draft_q is None else drafts.draft_q[num:])
    children = _children(drafts.token_ids, drafts.parents)
    at = -1
    for token in committed:
        below = children.get(at)
        if below is None:
            return Left([], None, None)
        if token not in below:
            return None
        at = below[token]
    found = {at: -1}  # node -> its index among what is left
    for node in sorted(_below(children, at, only_first=not trees)):
        found[node] = len(found) - 1
    del found[at]
    parent_of = {node: parent for parent, below in children.items() for node in below.values()}
    parents = [found.get(parent_of[node], -1) for node in found]
    is_chain = parents == list(range(-1, len(parents) - 1))
    laws = drafts.draft_q
    return Left(
        [drafts.token_ids[node] for node in found],
        None if is_chain else parents,
        None if laws is None else [laws[node] for node in found],
    )


def cut(left: Left, most: int, deepest: int) -> Left:
    """The first ``most`` drafts of those at most ``deepest`` tokens away; of a tree that is a tree again."""
    ids, parents, laws = left
    if parents is None:
        num = most if most < deepest else deepest
        if num >= len(ids):
            return left
        num = max(num, 0)
        return Left(ids[:num], None, None if laws is None else laws[:num])
    depth = depths(parents)
    kept = [node for node, d in enumerate(depth) if d < deepest][: max(0, most)]
    if len(kept) == len(ids):
        return left
    index = {node: i for i, node in enumerate(kept)}
    return Left(
        [ids[node] for node in kept],
        [index.get(parents[node], -1) for node in kept],
        None if laws is None else [laws[node] for node in kept],
    )


def _children(token_ids: Sequence[int], parents: Sequence[int]) -> dict[int, dict[int, int]]:
    """Node -> token -> child, in order, later equal siblings merged into the first; -1 is the root."""
    children: dict[int, dict[int, int]] = {}
    same: list[int] = []  # each node as what it was merged into
    for node, parent in enumerate(parents):
        below = children.setdefault(-1 if parent < 0 else same[parent], {})
        same.append(below.setdefault(token_ids[node], node))
    return children


def _below(children: dict[int, dict[int, int]], at: int, *, only_first: bool) -> list[int]:
    """All nodes below ``at``, or the chain of first children."""
    found: list[int] = []
    open_nodes = [at]
    while open_nodes:
        below = list(children.get(open_nodes.pop(), {}).values())
        if only_first:
            below = below[:1]
        found += below
        open_nodes += below
    return found
