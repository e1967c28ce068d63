"""How a step is put together: one token budget, handed out so that computed tokens catch up with known ones.

First every decoding request gets one token, so that no prompt makes a stream stutter; then waiting drafts, prompts
already begun, and new admissions share the rest. Blocks for the decoding requests are found, by preemption if need be,
before the first row is written: nothing planned is ever taken back.
"""

from ..types import RequestId
from . import policy
from .drafts import Left, advance, cut
from .limits import CoreConfig
from .pace import Pace
from .plan import DraftDepth, NewRequest, Row
from .request import Request, State
from .running import Running
from .stats import Counters
from .tables import NO_BLOCKS
from .waiting import WaitingRoom

_NOTHING = Left([], None, None)


class Step:
    """A plan while it is being made: ``requests`` run parallel to ``rows``."""

    __slots__ = ("budget", "draft_blocks", "draft_budget", "new", "number", "prompt_budget", "requests", "rows")

    def __init__(self, number: int, budget: int) -> None:
        self.number = number
        self.budget = budget
        self.prompt_budget = budget
        self.draft_budget = 0
        self.draft_blocks = 0
        self.new: list[NewRequest] = []
        self.rows: list[Row] = []
        self.requests: list[Request] = []


class Planner:
    """Makes steps from those who run and those who wait. It shares their state with ``Scheduler``, its only caller."""

    __slots__ = ("_config", "_counters", "_pace", "_requests", "_running", "_tables", "_waiting")

    def __init__(
        self,
        config: CoreConfig,
        requests: dict[RequestId, Request],
        waiting: WaitingRoom,
        running: Running,
        counters: Counters,
        pace: Pace,
    ) -> None:
        self._config = config
        self._pace = pace
        self._requests = requests
        self._waiting = waiting
        self._running = running
        self._tables = running.tables
        self._counters = counters

    def plan(self, number: int, now: float, depth: DraftDepth) -> Step:
        """The next step, its blocks taken and its requests marked; without rows when nothing can go now."""
        step = Step(number, self._config.max_num_batched_tokens)
        num_prompts = len(self._running.prefilling) + len(self._waiting.queue)
        if num_prompts:
            least, num_decoding = self._config.block_size, len(self._running.decoding)
            step.prompt_budget = self._pace.prompt_budget(step.budget, least, num_decoding, num_prompts)
        self._make_room()
        if depth:
            running, tables = self._running, self._tables
            prompts_wait = bool(running.prefilling or self._waiting.queue)
            step.draft_budget = policy.draft_budget(step.budget, len(running.decoding), prompts_wait=prompts_wait)
            step.draft_blocks = tables.pool.num_free - tables.num_reserved - len(running.decoding)
        self._plan_decoding(step, depth)
        for request in list(self._running.prefilling):
            self._plan_chunk(step, request)
        self._admit(step, now)
        return step

    def plan_alone(self, number: int, now: float, request: Request) -> Step:
        """A step of ``request`` and nobody else; without rows while any plan is unanswered. See ``suspects.py``."""
        step = Step(number, self._config.max_num_batched_tokens)
        if self._running.open:
            return step
        if request.state is State.QUEUED:
            for other in self._running.everyone():
                self.preempt(other)
            self._seat(step, request, self._tables.find(request, None), now)
        elif request.state is State.PREFILLING:
            self._plan_chunk(step, request)
        return step

    def preempt(self, request: Request) -> None:
        """Back to the queue at its old rank; tokens not yet committed are computed again, and come out the same."""
        self._running.leave(request)
        request.restart()
        request.enter(State.QUEUED)
        self._waiting.enter(request)

    def _make_room(self) -> None:
        """Preempt until every decoding request finds a block for its next token."""
        pool = self._tables.pool
        decoding, size = self._running.decoding, self._config.block_size
        if pool.num_free >= len(decoding):
            return
        needy = {r for r in decoding if len(r.blocks) * size < r.num_known < r.max_len and not r.verifying}
        # Blocks parked with an unanswered plan come free with its result: wait for them before anybody else gives way.
        while len(needy) > pool.num_free and not self._running.has_parked():
            request = policy.victim(self._running.everyone())
            needy.discard(request)
            self.preempt(request)
            self._counters.num_preemptions += 1

    def _plan_decoding(self, step: Step, depth: DraftDepth) -> None:
        rows, requests, tables = step.rows, step.requests, self._tables
        size, number, budget, pool = self._config.block_size, step.number, step.budget, tables.pool
        for request in self._running.decoding:
            known = request.num_known
            if known >= request.max_len or request.verifying:
                continue  # its last token, or the answer to its drafts, is on the way
            if budget <= 0:
                break
            if depth and request.drafts is not None:
                allowed = depth if isinstance(depth, int) else depth.get(request.request_id, 0)
                left = self._drafts_for(request) if allowed > 0 else _NOTHING
                if left is None:
                    continue
                if left.token_ids and (used := self._plan_drafts(step, request, left, allowed)):
                    budget -= used
                    continue
            blocks = request.blocks
            num_blocks = len(blocks)
            new = NO_BLOCKS
            if known > num_blocks * size:
                if not pool.num_free:
                    continue  # until the parked blocks come back
                new = tables.grow(request, known)
            rows.append(Row(request.request_id, request.epoch, known - 1, 1, num_blocks, new, True, request.after))
            requests.append(request)
            request.num_planned = known
            request.num_known = known + 1
            request.after = request.last_step = number
            budget -= 1
        step.budget = budget

    def _drafts_for(self, request: Request) -> Left | None:
        """The drafts that wait, or none; None = wait for the result that tells whether they still fit."""
        drafts = request.drafts
        if drafts is None:
            return _NOTHING
        if request.after >= 0:
            return None
        left = advance(drafts, request.tokens[drafts.base_len :], trees=self._config.draft_trees)
        if left is None or not left.token_ids:
            request.drafts = None
            if left is None:
                self._counters.stale("diverged")
            return _NOTHING
        return left

    def _plan_drafts(self, step: Step, request: Request, left: Left, allowed: int) -> int:
        """A row that verifies as much of ``left`` as is allowed, and budget and blocks can bear; tokens used, 0 = none.

        How much never depends on what the drafts say: rules that weigh sampled drafts would be biased by that.
        """
        known, num_blocks = request.num_known, len(request.blocks)
        base_blocks = self._tables.blocks_for(known)
        slots = (base_blocks + max(0, step.draft_blocks)) * self._config.block_size
        most = min(allowed, step.draft_budget, slots - known)
        ids, parents, laws = cut(left, most, request.max_len - known - 1)
        num = len(ids)
        if not num or (base_blocks > num_blocks and not self._tables.pool.num_free):
            return 0
        new = self._tables.grow(request, known + num)
        step.draft_blocks -= len(request.blocks) - base_blocks
        step.draft_budget -= num
        row = Row(request.request_id, request.epoch, known - 1, 1, num_blocks, new, True, -1, ids, parents, laws)
        step.rows.append(row)
        step.requests.append(request)
        request.num_planned = known + num
        request.verifying = True
        request.last_step = step.number
        return 1 + num

    def _plan_chunk(self, step: Step, request: Request) -> None:
        """As much of the known tokens as budget and free blocks allow."""
        tables, start, known = self._tables, request.num_planned, request.num_known
        num = min(known - start, step.budget, step.prompt_budget, tables.most_slots(request) - start)
        if num <= 0:
            return
        num_blocks, end = len(request.blocks), start + num
        new = tables.grow(request, end)
        yields = end == known < request.max_len
        step.rows.append(Row(request.request_id, request.epoch, start, num, num_blocks, new, yields))
        step.requests.append(request)
        step.budget -= num
        step.prompt_budget -= num
        request.num_planned = end
        request.last_step = step.number
        if end == known:
            if yields:
                request.num_known += 1
                request.after = step.number
            self._running.start_decoding(request)

    def _admit(self, step: Step, now: float) -> None:
        """Requests from the queue, strictly in order: the first that does not fit holds up the rest."""
        tables, queue = self._tables, self._waiting.queue
        while queue and step.budget > 0 and step.prompt_budget > 0 and len(self._running) < self._config.max_num_seqs:
            request = queue[0]
            parent = self._requests.get(request.fork_of) if request.fork_of is not None else None
            shared = tables.find(request, parent)
            margin = policy.admission_margin(len(self._running.decoding))
            if not tables.has_room(request, shared, margin):
                return
            self._seat(step, request, shared, now)

    def _seat(self, step: Step, request: Request, shared: list[int], now: float) -> None:
        """From the queue to those who run, with its first chunk."""
        self._waiting.leave(request)
        self._running.enter(request, shared)
        if request.num_computed >= request.num_prompt:
            self._waiting.release_children(request)
        self._counters.prefix_query_tokens += request.num_known
        self._counters.prefix_hit_tokens += request.num_matched
        if request.queue_s is None:
            request.queue_s = now - request.arrival_s
            request.num_cached = min(request.num_matched, request.num_prompt)
        step.new.append(_opening(request))
        self._plan_chunk(step, request)


def _opening(request: Request) -> NewRequest:
    """All that the target must know of a request; copies, because a plan is a value."""
    return NewRequest(
        request.request_id,
        request.epoch,
        list(request.tokens),
        request.num_prompt,
        list(request.blocks),
        request.params,
    )
