"""Tokens that a grammar leaves no choice about, as drafts: they cost nothing to find and are all but certain. No torch.

Verified like any other draft, so that a request whose masks say otherwise (``allowed_token_ids`` may) loses a row and
nothing else. Pure functions over what the proposer keeps; where an output stands in its grammar is in
``grammar_drafts.py``.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from ..engine.core.plan import Drafts
from ..engine.types import RequestId
from .live import Live
from .tree import descend

FORCED = "grammar"
"""The source of forced tokens, as metrics name it."""


class Forcing(Protocol):
    """Who knows what grammars force."""

    def forced(self, request_id: RequestId, length: int, most: int) -> list[int]:
        """The only tokens that can follow the ``length`` committed ones, ``most`` at most."""
        ...


def forced_drafts(grammars: Forcing, lives: Iterable[Live]) -> list[Drafts]:
    """Those of ``lives``; none where they are no more than the tokens of steps that run already."""
    found: list[Drafts] = []
    for live in lives:
        ids = grammars.forced(live.request_id, live.length, min(live.most, live.num_left - 1))
        if len(ids) > live.in_flight:
            found.append(Drafts(live.request_id, live.epoch, live.length, ids, source=FORCED))
    return found


def unless_forced(drafts: Drafts, live: Live) -> Drafts:
    """``drafts`` of a method for a request; none where forced tokens wait for it, unless they go on behind these.

    Those that come with the law they were drawn from give way whatever they are: the rules that need it allow no choice
    by a draft's value.
    """
    if live.source != FORCED or not live.waiting:
        return drafts
    if drafts.draft_q is None and drafts.base_len == live.length:
        agreed, behind, _ = descend(drafts.token_ids, drafts.parents, live.waiting)
        if agreed == len(live.waiting) and behind:
            return drafts
    return msgspec.structs.replace(drafts, token_ids=[], parents=None, confidence=None, draft_q=None)
