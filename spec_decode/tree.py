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


def descend(
    token_ids: Sequence[int], parents: Sequence[int] | None, committed: Sequence[int]
) -> tuple[int, list[int], list[int] | None]:
    """Walk down along ``committed``: how many of them are in the tree, and the tree below, ids and parents.

    ``parents`` None = a chain, which stays one. The tree below is empty where the last one is not in the tree.
    """
    if parents is None:
        num = min(len(token_ids), len(committed))
        agreed = next((place for place in range(num) if token_ids[place] != committed[place]), num)
        return agreed, list(token_ids[agreed:]) if agreed == len(committed) else [], None
    at, agreed = -1, 0
    for node, parent in enumerate(parents):  # parents come before children, so one pass meets the path in order
        if agreed < len(committed) and parent == at and token_ids[node] == committed[agreed]:
            at, agreed = node, agreed + 1
    if agreed < len(committed):
        return agreed, [], []
    places = {at: -1}
    for node, parent in enumerate(parents):
        if parent in places and node not in places:
            places[node] = len(places) - 1
    del places[at]
    return agreed, [token_ids[node] for node in places], [places.get(parents[node], -1) for node in places]
