"""Trees of drafts as parent lists: node i hangs below ``parents[i] < i``, -1 is the root. No torch here."""

from collections.abc import Sequence


def follow(parents: Sequence[int], token_ids: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """The path of nodes that the target's own choices take from the root.

    ``chosen[0]`` is the target's token behind the root, ``chosen[1 + i]`` the one behind node i. Of equal siblings the
    first is followed.
    """
    path: list[int] = []
    at = -1
    for node, parent in enumerate(parents):  # parents come before children, so one pass meets the path in order
        if parent == at and token_ids[node] == chosen[1 + at]:
            path.append(node)
            at = node
    return path
