"""Which outcomes of a verification to prepare for, and the table of what was drafted for them. No torch.

After k drafts an outcome is (drafts accepted, next token), of which a few are likely (Saguaro, arXiv 2603.03251). The
further a place, the less often it is the one where the target goes another way, so its share of the guesses falls
geometrically; the last is reached by all that is accepted, and gets more.
"""

from ..engine.core.plan import Drafts
from .draft_steps import Followed
from .draws import Draw

_ACCEPTED = 0.8
"""Assumed share of drafts that are accepted; the split is flat in it."""
_ROOT = 2.0
"""1 + r, where misses at a place fall as (number of guesses) ** -r, r = 1."""


def fan_out(fanout: int, depth: int) -> list[int]:
    """Guesses at each of the ``depth + 1`` places of the next token, ``fanout`` a place on average, sum kept."""
    weights = [_ACCEPTED ** (i / _ROOT) for i in range(depth + 1)]
    weights[-1] *= (1 - _ACCEPTED) ** (-1 / _ROOT)
    total = fanout * (depth + 1)
    shares = [total * weight / sum(weights) for weight in weights]
    guesses = [int(share) for share in shares]
    by_rest = sorted(range(depth + 1), key=lambda i: guesses[i] - shares[i])
    for i in by_rest[: total - sum(guesses)]:
        guesses[i] += 1
    return guesses


def to_fork(followed: Followed, fanout: int) -> list[tuple[int, int]]:
    """(drafts accepted, next token) to draft behind; the chain itself is the likeliest outcome of the last place."""
    places = zip(fan_out(fanout, followed.num_sent), followed.made, strict=False)
    return [
        (accepted, token)
        for accepted, (guesses, made) in enumerate(places)
        for token in made.rivals[:guesses]
        if token not in followed.ends
    ]


def chain(followed: Followed, source: str, depth: int) -> Drafts:
    """The first ``depth`` drafts of a request's chain."""
    return _drafts(followed, source, followed.made[:depth], None)


def table(followed: Followed, source: str) -> Drafts:
    """A request's whole chain and the chains of its forks, as one tree; a mere chain where there are none."""
    nodes: list[Draw] = list(followed.made)
    parents = list(range(-1, len(nodes) - 1))
    for (accepted, token), fork in followed.forks.items():
        if fork.made:
            at = len(nodes)
            nodes += [Draw(token, 0.0, None, []), *fork.made]
            parents += [accepted - 1, *range(at, at + len(fork.made))]
    return _drafts(followed, source, nodes, parents if len(nodes) > len(followed.made) else None)


def _drafts(followed: Followed, source: str, nodes: list[Draw], parents: list[int] | None) -> Drafts:
    held = followed.held
    laws = None
    if any(one.law is not None for one in nodes):
        laws = [one.law or ([one.token_id], [1.0]) for one in nodes]
    # Where drafts were drawn from a law, no choice may depend on how likely the one drawn was.
    confidence = [one.chance for one in nodes] if laws is None else None
    ids = [one.token_id for one in nodes]
    return Drafts(held.request_id, held.epoch, held.length, ids, parents, source, confidence, laws)
