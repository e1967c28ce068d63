"""Requests that hold no blocks: the queue in rank order, those that wait for a fork's prompt, and all deadlines.

Knows nothing of blocks and plans.
"""

import heapq

from ..errors import UnavailableError
from ..types import RequestId
from . import policy
from .limits import CoreConfig
from .request import Request, State


class WaitingRoom:
    """The queue and the forks. Both count against the queue's limits."""

    __slots__ = ("_config", "num_forking", "num_tokens", "queue")

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self.queue: list[Request] = []
        """In rank order; the first goes next."""
        self.num_forking = 0
        self.num_tokens = 0
        """Known tokens of everyone in here."""

    def __len__(self) -> int:
        return len(self.queue) + self.num_forking

    def check_space(self, num_tokens: int, num_running: int, step_s: float) -> None:
        """Is there room for a request of ``num_tokens``? Seats that are free now do not count as queueing.

        Raises:
            UnavailableError: ``queue_full``, with an estimate of when to come back.
        """
        config = self._config
        most = config.max_queued_requests + max(0, config.max_num_seqs - num_running)
        if len(self) >= most:
            what = f"{len(self)} requests wait, max_queued_requests is {config.max_queued_requests}"
        elif self.queue and self.num_tokens + num_tokens > config.queued_token_limit:
            what = f"{self.num_tokens} tokens are queued, {num_tokens} more exceed {config.queued_token_limit}"
        else:
            return
        retry_s = policy.retry_after_s(self.num_tokens, config.max_num_batched_tokens, step_s)
        raise UnavailableError(f"{what}; try again in {retry_s:.0f} s", code="queue_full", retry_after_s=retry_s)

    def enter(self, request: Request) -> None:
        """Take in a request whose state is already FORKING or QUEUED."""
        self.num_tokens += len(request.tokens)
        if request.state is State.FORKING:
            self.num_forking += 1
        else:
            policy.insert(self.queue, request)

    def leave(self, request: Request) -> None:
        """Let a request out, before its state changes."""
        self.num_tokens -= len(request.tokens)
        if request.state is State.FORKING:
            self.num_forking -= 1
        else:
            policy.remove(self.queue, request)

    def release_children(self, parent: Request) -> None:
        """Those who waited for ``parent``'s prompt join the queue."""
        for child in parent.children:
            self.num_forking -= 1
            child.enter(State.QUEUED)
            policy.insert(self.queue, child)
        parent.children.clear()

    def check(self, requests: dict[RequestId, Request]) -> None:
        """Compare with all live ``requests``.

        Raises:
            AssertionError: with both numbers.
        """
        queued = sorted((r for r in requests.values() if r.state is State.QUEUED), key=policy.rank_of)
        forking = [r for r in requests.values() if r.state is State.FORKING]
        if queued != self.queue:
            raise AssertionError(f"{len(self.queue)} requests in the queue, {len(queued)} are queued, or out of order")
        if len(forking) != self.num_forking:
            raise AssertionError(f"{self.num_forking} forks counted, {len(forking)} are waiting")
        if (total := sum(len(r.tokens) for r in queued + forking)) != self.num_tokens:
            raise AssertionError(f"{self.num_tokens} queued tokens counted, {total} there")
        for child in forking:
            parent = requests.get(child.fork_of or "")
            if parent is None or child not in parent.children or parent.num_computed >= parent.num_prompt:
                raise AssertionError(f"request {child.request_id} waits for {child.fork_of}, which owes it nothing")


class Deadlines:
    """Which requests end when. Entries of requests that ended by themselves are swept out before they prevail."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestId]] = []

    def add(self, request: Request, requests: dict[RequestId, Request]) -> None:
        """Watch ``request``, one of all live ``requests``."""
        if request.deadline_s is None:
            return
        if len(self._heap) > 2 * len(requests) + 64:
            self._heap = [(r.deadline_s, r.request_id) for r in requests.values() if r.deadline_s is not None]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (request.deadline_s, request.request_id))

    def passed(self, now: float, requests: dict[RequestId, Request]) -> list[Request]:
        """Live requests whose deadline is not after ``now``; each is named once."""
        heap, late = self._heap, list[Request]()
        while heap and heap[0][0] <= now:
            deadline_s, request_id = heapq.heappop(heap)
            request = requests.get(request_id)
            if request is not None and request.deadline_s == deadline_s and request not in late:
                late.append(request)
        return late

    def next_s(self, requests: dict[RequestId, Request]) -> float | None:
        """The earliest deadline of a live request; None = none."""
        while self._heap:
            deadline_s, request_id = self._heap[0]
            request = requests.get(request_id)
            if request is not None and request.deadline_s == deadline_s:
                return deadline_s
            heapq.heappop(self._heap)
        return None
