"""What a request's grammar says of its drafts: those it forces, and those it forbids. No torch.

Forced tokens are drafts that cost nothing to find. Forbidden ones are left out before a step is spent on them. The
target masks every position of a draft, so nothing of the text depends on this: a request whose grammar is not compiled
yet, or fails here, gets no forced tokens and keeps its drafts as they are. The matchers are this file's own, fed what
was committed.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from ..engine.core.plan import Drafts
from ..engine.execution.grammar import Constraint, GrammarError, Grammars, step_aside
from ..engine.types import RequestId

log = logging.getLogger(__name__)


class GrammarDrafts:
    """Grammars of open requests. They are compiled on a thread of its own, all else happens on the caller's."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._open: dict[RequestId, _Standing] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.num_cut = 0
        """Drafts that were left out."""

    def open(self, request_id: RequestId, grammar: str, length: int, output_ids: Sequence[int]) -> None:
        """A request begins, ``length`` tokens long, its output so far included."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "grammar", step_aside)
        compiled = self._pool.submit(self._grammars.fault, grammar)
        self._open[request_id] = _Standing(compiled, self._grammars.constraint(grammar, output_ids), length)

    def commit(self, request_id: RequestId, token_ids: Sequence[int]) -> None:
        """These were committed."""
        if (standing := self._open.get(request_id)) is not None:
            standing.constraint.push(token_ids)
            standing.length += len(token_ids)

    def close(self, request_id: RequestId) -> None:
        """The request has ended."""
        self._open.pop(request_id, None)

    def forced(self, request_id: RequestId, length: int, most: int) -> list[int]:
        """The only tokens that can follow the ``length`` committed ones, at most ``most``; [] = a choice."""
        constraint = self._constraint(request_id, length)
        if constraint is None:
            return []
        try:
            return constraint.forced(most)
        except GrammarError as e:
            self._give_up(request_id, e)
            return []

    def shorten(self, drafts: Drafts) -> Drafts:
        """``drafts`` without those that cannot be accepted; as they are where that cannot be told now."""
        constraint = self._constraint(drafts.request_id, drafts.base_len)
        if constraint is None:
            return drafts
        try:
            kept = constraint.allowed(drafts.token_ids, drafts.parents)
        except GrammarError as e:
            self._give_up(drafts.request_id, e)
            return drafts
        if len(kept) == len(drafts.token_ids):
            return drafts
        self.num_cut += len(drafts.token_ids) - len(kept)
        return _only(drafts, kept)

    def _constraint(self, request_id: RequestId, length: int) -> Constraint | None:
        """Where a request stands; None where it is not known here, or not at this length."""
        standing = self._open.get(request_id)
        if standing is None or length != standing.length or not standing.compiled.done():
            return None
        if fault := standing.compiled.result():
            self._give_up(request_id, fault)
            return None
        return standing.constraint

    def _give_up(self, request_id: RequestId, error: GrammarError | str) -> None:
        """The target meets the same error, and tells the client."""
        log.info("drafts of request %s know no grammar: %s", request_id, error)
        self.close(request_id)


class _Standing:
    """One request: is its grammar compiled, where does it stand, how long is it."""

    __slots__ = ("compiled", "constraint", "length")

    def __init__(self, compiled: Future[str], constraint: Constraint, length: int) -> None:
        self.compiled = compiled
        self.constraint = constraint
        self.length = length


def _only(drafts: Drafts, kept: list[int]) -> Drafts:
    """The drafts at the indices ``kept``, which hold every node's parent."""
    places = {-1: -1} | {node: place for place, node in enumerate(kept)}
    return msgspec.structs.replace(
        drafts,
        token_ids=[drafts.token_ids[i] for i in kept],
        parents=None if drafts.parents is None else [places[drafts.parents[i]] for i in kept],
        confidence=None if drafts.confidence is None else [drafts.confidence[i] for i in kept],
    )
