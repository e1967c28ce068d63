"""The seam between the runner and a speculator beside the target. Hidden states never leave this process.

The runner knows neither what is done with them nor which method it is. An observer is told of positions only once their
tokens are committed and their KV is computed, in order and without gaps, but for a prefix that was found in the cache:
the first position of a request may be above 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..core.plan import Drafts, NewRequest, StepPlan
from ..types import RequestId


@dataclass(slots=True)
class Seen:
    """What one row of a step made known of its request: n positions, and the token behind them where there is one."""

    request_id: RequestId
    epoch: int
    start: int
    """Position of the first; earlier ones were told before, or came from the prefix cache."""
    token_ids: list[int]
    """The n tokens at positions ``start .. start + n - 1``: committed tokens that were fed, then accepted drafts."""
    next_id: int | None
    """The committed token at position ``start + n``, which has no KV yet. None: the request ends with this prompt."""
    yielded: bool
    """Did the row choose tokens? Then ``start + n + 1`` tokens are committed: ``base_len`` of drafts made now."""
    hidden: torch.Tensor
    """[n, hidden_size], after the final norm, as the LM head reads it; valid until ``propose`` ends."""
    layers: dict[int, torch.Tensor]
    """For each of ``wanted_layers`` the residual stream behind that layer, [n, hidden_size]; valid as long."""


class Observer(Protocol):
    """Called on the runner's thread, between its steps: opened and closed, then ``observe``, then ``propose``."""

    wanted_layers: tuple[int, ...]
    """Layers, from 0, whose outputs it reads besides the last hidden state. Read once, when the runner is made."""

    def opened(self, new: NewRequest) -> None:
        """A request begins, or comes back from preemption with a higher epoch: all its KV will be computed anew."""
        ...

    def closed(self, request_id: RequestId) -> None:
        """It has ended, failed or was preempted. Also told of requests that were never opened here."""
        ...

    def observe(self, seen: Sequence[Seen]) -> None:
        """One step: a ``Seen`` for each of its rows that did not fail, in the order of the plan."""
        ...

    def propose(self, plan: StepPlan) -> list[Drafts]:
        """Drafts to send with the result of ``plan``; [] is a fine answer."""
        ...
