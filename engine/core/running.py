"""Requests that hold blocks, the unanswered plans they stand in, and what the target must be told to forget.

The twin of ``waiting.py``. Decides nothing.
"""

from ..types import RequestId
from . import policy
from .limits import CoreConfig
from .plan import Row
from .request import Request, State
from .tables import BlockTables


class OpenPlan:
    """An unanswered plan, and the blocks of ended or preempted requests that stay with it until its result."""

    __slots__ = ("parked", "requests", "rows")

    def __init__(self, rows: list[Row], requests: list[Request]) -> None:
        self.rows = rows
        self.requests = requests
        self.parked: list[int] = []


class Running:
    """Who runs, in rank order, and which plans are open, oldest first."""

    __slots__ = ("closed", "decoding", "open", "prefilling", "tables")

    def __init__(self, config: CoreConfig) -> None:
        self.tables = BlockTables(config)
        self.prefilling: list[Request] = []
        self.decoding: list[Request] = []
        self.open: dict[int, OpenPlan] = {}
        self.closed: list[RequestId] = []
        """Held by the target and no longer running: goes out with the next plan."""

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def everyone(self) -> list[Request]:
        """A new list of all who run."""
        return self.prefilling + self.decoding

    def enter(self, request: Request, shared: list[int]) -> None:
        """Seat a request, whose table begins with ``shared`` blocks."""
        request.enter(State.PREFILLING)
        self.tables.open(request, shared)
        policy.insert(self.prefilling, request)
        request.is_open = True

    def start_decoding(self, request: Request) -> None:
        """All its known tokens are planned."""
        policy.remove(self.prefilling, request)
        request.enter(State.DECODING)
        policy.insert(self.decoding, request)

    def leave(self, request: Request) -> None:
        """Unseat a request, before its state changes. Its blocks stay with the last open plan that writes to them."""
        policy.remove(self.prefilling if request.state is State.PREFILLING else self.decoding, request)
        blocks = self.tables.close(request)
        opened = self.open.get(request.last_step)
        if opened is not None:
            opened.parked += blocks
        else:
            self.tables.pool.release(blocks)
        request.is_open = False
        self.closed.append(request.request_id)

    def has_parked(self) -> bool:
        """Will blocks come free with the result of an unanswered plan?"""
        return any(plan.parked for plan in self.open.values())

    def in_flight(self) -> list[Request]:
        """Who stands in an unanswered plan and has not ended, each once."""
        found = {id(r): r for plan in self.open.values() for r in plan.requests if r.state is not State.ENDED}
        return list(found.values())

    def void_plans(self) -> None:
        """No unanswered plan will be answered."""
        for plan in self.open.values():
            self.tables.pool.release(plan.parked)
        self.open.clear()

    def check(self, requests: dict[RequestId, Request]) -> None:
        """Compare with all live ``requests``.

        Raises:
            AssertionError: naming the request and the numbers.
        """
        for state, listed in ((State.PREFILLING, self.prefilling), (State.DECODING, self.decoding)):
            there = sorted((r for r in requests.values() if r.state is state), key=policy.rank_of)
            if there != listed:
                raise AssertionError(f"{len(listed)} {state.value} listed, {len(there)} there, or out of order")
        self.tables.check(self.everyone(), [block for plan in self.open.values() for block in plan.parked])
