"""What a speculator beside the target is: an observer of the runner that can be warmed up, and does no harm.

Whatever it does, the text stays the same; so whatever goes wrong in it is not the requests' concern.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ...engine.core.plan import Drafts, NewRequest, Row, StepPlan
from ...engine.execution.observe import Observer, Seen
from ...engine.types import RequestId, SamplingParams

log = logging.getLogger(__name__)

_WIDTHS = (1, 4, 16)
_DEPTH = 2


class Head(Observer, Protocol):
    """A head method at work; one call at a time, on the runner's thread."""

    def check(self) -> None:
        """Every invariant there is, for tests.

        Raises:
            AssertionError: naming the request and the numbers.
        """
        ...


class Guarded:
    """An ``Observer`` that switches its head off when it fails, instead of the step."""

    def __init__(self, head: Observer, name: str) -> None:
        self._head: Observer | None = head
        self._name = name
        self.wanted_layers = head.wanted_layers

    def opened(self, new: NewRequest) -> None:
        """See ``Observer``."""
        self._guard(lambda head: head.opened(new))

    def closed(self, request_id: RequestId) -> None:
        """See ``Observer``."""
        self._guard(lambda head: head.closed(request_id))

    def observe(self, seen: Sequence[Seen]) -> None:
        """See ``Observer``."""
        self._guard(lambda head: head.observe(seen))

    def propose(self, plan: StepPlan) -> list[Drafts]:
        """See ``Observer``; nothing where the head is off."""
        found: list[Drafts] = []
        self._guard(lambda head: found.extend(head.propose(plan)))
        return found

    def _guard(self, call: Callable[[Observer], None]) -> None:
        if self._head is None:
            return
        try:
            call(self._head)
        except Exception:
            log.exception("speculator %s failed and is switched off", self._name)
            self._head = None


@torch.inference_mode()
def measure(head: Observer, *, hidden_size: int, most: int, device: torch.device | str) -> list[tuple[int, float]]:
    """Run every kernel of a head, and measure (requests, seconds of one draft for each), up to ``most`` requests."""
    costs: dict[int, float] = {}
    params = SamplingParams(max_tokens=8, temperature=1.0)
    for width in (1, *sorted({min(width, most) for width in _WIDTHS})):  # the very first one runs cold
        names = [f"warm-up-{place}" for place in range(width)]
        states = torch.zeros((1, hidden_size), device=device)
        layers = dict.fromkeys(head.wanted_layers, states)
        for name in names:
            head.opened(NewRequest(name, 0, [0], 1, [], params))
        began_s = time.perf_counter()
        head.observe([Seen(name, 0, 0, [0], 0, True, states, layers) for name in names])
        rows = [Row(name, 0, 0, 1, 0, [], True) for name in names]
        drafts = head.propose(StepPlan(0, [], [], rows, [_DEPTH] * width))
        num = max((len(found.token_ids) for found in drafts), default=1)
        costs[width] = (time.perf_counter() - began_s) / num
        for name in names:
            head.closed(name)
    return list(costs.items())
