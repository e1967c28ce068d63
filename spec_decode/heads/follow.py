"""What a head beside the target keeps of each request, and what its plans ask: the same for all heads.

Tokens, penalties and filters stand in a ``RequestTable`` like the runner's own, so that drafts are drawn from logits
that were processed as the target's will be. What the target asks stands in the plan, row by row (``StepPlan.asks``).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from ...engine.core.plan import NewRequest, StepPlan
from ...engine.execution.acceptance import VerifyBatch
from ...engine.execution.observe import Seen
from ...engine.execution.sampler import Ask, process
from ...engine.execution.state import Held, RequestTable, RowError
from ...engine.types import RequestId


class Task(NamedTuple):
    """One row's share of a ``propose``."""

    seen: Seen
    held: Held
    depth: int
    """Drafts wanted; 0 = only keep up with the request."""


class Requests:
    """The open requests, and what the last step showed of them."""

    def __init__(self, *, vocab_size: int, max_model_len: int) -> None:
        self._table = RequestTable(num_blocks=1, block_size=1, vocab_size=vocab_size)
        self._max_model_len = max_model_len
        self._held: dict[RequestId, Held] = {}
        self._seen: Sequence[Seen] = ()

    def __len__(self) -> int:
        return len(self._held)

    def open(self, new: NewRequest) -> None:
        """A request begins, or goes on after a preemption."""
        try:
            # The blocks are the target's; a head's table holds tokens only.
            self._held[new.request_id] = self._table.open(msgspec.structs.replace(new, block_ids=[]))
        except RowError:  # the runner refused it too
            self._held.pop(new.request_id, None)

    def close(self, request_id: RequestId) -> None:
        """It has ended; one that is not known is no error."""
        self._held.pop(request_id, None)
        self._table.close(request_id)

    def saw(self, seen: Sequence[Seen]) -> None:
        """Keep what a step showed until ``tasks``; its tokens are committed now."""
        self._seen = seen
        for row in seen:
            held = self._held.get(row.request_id)
            if held is None or row.next_id is None:
                continue
            new = [*row.token_ids, row.next_id][held.length - row.start :]
            if row.yielded and new:
                self._table.commit(held, new)

    def tasks(self, plan: StepPlan) -> Iterator[Task]:
        """What ``plan`` asks for those of its rows that were seen; forgets what was seen."""
        seen, self._seen = {row.request_id: row for row in self._seen}, ()
        for row, asked in zip(plan.rows, plan.asks, strict=False):
            found, held = seen.get(row.request_id), self._held.get(row.request_id)
            if asked < 0 or found is None or held is None:
                continue
            depth = asked if found.yielded else 0
            yield Task(found, held, max(0, min(depth, self._max_model_len - held.length - 1)))

    def tokens(self, held: Held, start: int, end: int) -> list[int]:
        """Committed tokens at positions ``start .. end - 1``."""
        return self._table.context(held)[start:end].tolist()

    def suppose(self, held: Held, token_id: int) -> None:
        """Let a draft stand as if it were committed; ``undo`` before anything else happens."""
        self._table.commit(held, [token_id])

    def undo(self, held: Held, length: int) -> None:
        """Take drafts back: ``length`` tokens are committed."""
        if held.edits is not None:
            held.edits.pop(self._table.tokens[held.line, length : held.length].tolist())
        held.length = length

    def process(self, logits: torch.Tensor, helds: Sequence[Held], behind: Sequence[list[int]]) -> VerifyBatch:
        """Process a head's logits as the target's; they are overwritten.

        logits fp32 [S, vocab_size]: for each request one row behind its committed tokens and one behind each of its
        ``behind``, drafts that stand as if they were committed.
        """
        asks: list[Ask] = []
        for held, ids in zip(helds, behind, strict=True):
            context = self._table.context(held)
            asks.append(Ask(held, ids, np.concatenate((context, np.asarray(ids, np.int32))) if ids else context))
        return process(logits, asks)
