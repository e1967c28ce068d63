"""The core: who runs in the next step, and what its answer changes. ``schedule`` reserves, ``apply`` commits, no undo.

Deaf and blind: time, ids, seeds and draft depth are arguments, plans and outputs are values. It knows drafts and depth,
never which speculator made them nor which rule refuses them. How a step is put together is in ``planner.py``; who waits
and who runs is kept by ``waiting.py`` and ``running.py``.
"""

from collections.abc import Sequence
from math import isnan

from ..errors import ActorError, InvalidRequestError, UnavailableError
from ..types import ErrorInfo, FinishReason, RequestId, SamplingParams
from .drafts import advance, is_sound
from .limits import CoreConfig, check_request
from .pace import Pace
from .plan import DraftDepth, Drafts, RequestOutput, Row, RowResult, StepPlan, StepResult, TokenLogprobs, is_path
from .planner import Planner
from .request import ENDED_EPOCH, Request, State
from .running import OpenPlan, Running
from .stats import CoreStats, Counters
from .suspects import Suspects
from .waiting import Deadlines, WaitingRoom


class Scheduler:
    """Continuous batching over a paged KV pool. One writer, no locks: call it from one place.

    Same calls in, same plans out.
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self._requests: dict[RequestId, Request] = {}
        self._waiting = WaitingRoom(config)
        self._deadlines = Deadlines()
        self._running = Running(config)
        self._tables = self._running.tables
        self._counters = Counters()
        self._pace = Pace(config.prompt_stretch)
        self._planner = Planner(config, self._requests, self._waiting, self._running, self._counters, self._pace)
        self._suspects = Suspects()
        self._outputs: list[RequestOutput] = []
        self._next_step = 0
        self._num_added = 0
        self._step_s = 0.0  # running mean of a step's duration
        self._draining = False

    # --- requests come and go -----------------------------------------------------------------------------------------

    def add(
        self,
        request_id: RequestId,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        now: float,
        priority: int = 0,
        cache_salt: str = "",
        fork_of: RequestId | None = None,
        output_ids: Sequence[int] = (),
        deadline: float | None = None,
        is_again: bool = False,
    ) -> None:
        """Queue a request; it goes on behind ``output_ids``. ``now`` and ``deadline``: seconds on one monotonic clock.

        ``is_again``: it was taken before, and is again, however long the queue is.

        A request with ``fork_of`` waits until that one's prompt is computed, or it is gone, and shares its full blocks.

        Raises:
            InvalidRequestError: an id, length, range or parameter is wrong, or the request id is in use.
            UnavailableError: ``queue_full`` or ``draining``, and not for a request that was taken before.
        """
        if request_id in self._requests:
            raise InvalidRequestError(f"request id {request_id} is in use; choose another", param="request_id")
        check_request(prompt_ids, output_ids, params, priority, self.config)
        if deadline is not None and isnan(deadline):  # it would break the order of everybody's deadlines
            raise InvalidRequestError("the deadline is NaN: must be a number of seconds", param="deadline_s")
        if not (is_again or output_ids):
            if self._draining:
                raise UnavailableError("the server is shutting down; try another or again later", code="draining")
            self._waiting.check_space(len(prompt_ids), len(self._running), self._step_s)
        parent = self._requests.get(fork_of) if fork_of is not None else None
        waits = parent is not None and parent.num_computed < parent.num_prompt
        request = Request(
            request_id,
            list(prompt_ids),
            list(output_ids),
            params,
            rank=(priority, self._num_added),
            arrival_s=now,
            deadline_s=deadline,
            cache_salt=cache_salt,
            fork_of=fork_of,
            state=State.FORKING if waits else State.QUEUED,
            max_model_len=self.config.max_model_len,
        )
        self._num_added += 1
        self._requests[request_id] = request
        self._waiting.enter(request)
        self._deadlines.add(request, self._requests)
        if parent is not None and waits:
            parent.children.append(request)
        if output_ids and (stop := request.stop.find(request.tokens[-1:], request.num_output - 1)):
            self._outputs.append(self._end(request, stop.finish_reason, stop_reason=stop.stop_reason))

    def abort(self, request_id: RequestId) -> list[RequestOutput]:
        """End a request wherever it is; its last output. An unknown id gives []."""
        request = self._requests.get(request_id)
        return [self._end(request, "abort")] if request is not None else []

    def replay(self, request_id: RequestId) -> RequestOutput | None:
        """All output tokens so far, for a receiver that lost them; None = no such request. Logprobs are not kept."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        output_ids = request.tokens[request.num_prompt :]
        return RequestOutput(
            request_id, 0, output_ids, num_cached=request.num_cached, queue_s=request.queue_s or 0.0
        )

    def take_outputs(self) -> list[RequestOutput]:
        """Outputs that no ``apply`` or ``abort`` returned: passed deadlines, and requests complete when added."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def drain(self) -> None:
        """Finish what was taken, refuse what is new."""
        self._draining = True

    def has_work(self) -> bool:
        """Is a request alive, a plan unanswered, or an output not taken?"""
        return bool(self._requests or self._running.open or self._outputs)

    @property
    def has_prompts(self) -> bool:
        """Does a request wait for its prompt to be computed, or for admission?"""
        return bool(self._running.prefilling or self._waiting.queue)

    def next_deadline(self) -> float | None:
        """When ``schedule`` should be called at the latest although nothing happens."""
        return self._deadlines.next_s(self._requests)

    def offer(self, drafts: Drafts) -> list[int]:
        """Drafts for a request, to wait for its next step in place of earlier ones. Stale ones are counted and dropped.

        Drafts that break the rules end all use of their source for that request, and nothing else.

        Returns:
            The drafts that wait behind the committed tokens, of a tree all its nodes; [] = dropped.
        """
        request = self._requests.get(drafts.request_id)
        if request is None:
            self._counters.stale("unknown")
        elif drafts.source in request.quarantined:
            self._counters.stale("quarantined")
        elif drafts.epoch != request.epoch:
            self._counters.stale("epoch")
        elif not 0 < drafts.base_len <= len(request.tokens) or not is_sound(drafts, self.config.vocab_size):
            request.quarantined |= {drafts.source}
            self._counters.stale("fault")
        else:
            left = advance(drafts, request.tokens[drafts.base_len :], trees=self.config.draft_trees)
            if left is None:
                self._counters.stale("diverged")
            elif left.token_ids:
                request.drafts = drafts
                return left.token_ids
        return []

    # --- decide and reserve -------------------------------------------------------------------------------------------

    def schedule(self, now: float, depth: DraftDepth = 0) -> StepPlan | None:
        """The next step, its blocks taken; None when there is nothing to do, or nothing before a result arrives.

        Also ends requests whose deadline has passed: see ``take_outputs``.
        """
        for late in self._deadlines.passed(now, self._requests):
            error = ErrorInfo(
                "deadline",
                f"request {late.request_id} was not done in time, {now - late.arrival_s:.1f} s; ask for fewer tokens",
                code="deadline_exceeded",
            )
            self._outputs.append(self._end(late, "error", error=error))
        if len(self._running.open) >= self.config.max_in_flight:
            return None
        if (suspect := self._suspects.next()) is not None:
            step = self._planner.plan_alone(self._next_step, now, suspect)
        else:
            step = self._planner.plan(self._next_step, now, depth)
        if not step.rows:
            return None
        plan = StepPlan(step.number, self._running.closed, step.new, step.rows)
        self._running.closed = []
        self._running.open[step.number] = OpenPlan(step.rows, step.requests)
        self._next_step += 1
        return plan

    # --- commit -------------------------------------------------------------------------------------------------------

    def apply(self, plan: StepPlan, result: StepResult) -> list[RequestOutput]:
        """Commit the answer to the oldest unanswered plan. A plan that was voided, or answered before, gives [].

        Raises:
            ActorError: the answer is to another plan than the oldest, or has other rows. Nothing was changed.
        """
        if plan.step not in self._running.open:
            return []
        oldest = next(iter(self._running.open))
        opened = self._running.open[oldest]
        if not plan.step == result.step == oldest or len(result.rows) != len(opened.rows):
            raise ActorError(
                f"target answered step {result.step} with {len(result.rows)} rows as step {plan.step}, "
                f"but step {oldest} with {len(opened.rows)} rows is next; restart the target"
            )
        del self._running.open[oldest]
        self._pace.observe(len(opened.rows), sum(row.num_tokens - 1 for row in opened.rows), result.elapsed_s)
        if result.elapsed_s > 0:
            self._step_s += (result.elapsed_s - self._step_s) * (0.1 if self._step_s else 1.0)
        outputs: list[RequestOutput] = []
        for request, row, row_result in zip(opened.requests, opened.rows, result.rows, strict=True):
            if request.epoch == row.epoch:
                output = self._commit(request, row, row_result, oldest)
                if output is not None:
                    outputs.append(output)
        self._tables.pool.release(opened.parked)
        return outputs

    def _commit(self, request: Request, row: Row, result: RowResult, step: int) -> RequestOutput | None:
        ids = result.token_ids
        if result.error is not None or not self._is_answer(request, row, result):
            error = result.error or ErrorInfo(
                "internal",
                f"request {row.request_id}: the target's answer to step {step} does not fit its row; send it again",
                code="internal_error",
            )
            return self._end(request, "error", error=error)
        if row.start < request.num_prompt:
            self._commit_prompt(request, row, result)
        tokens = request.tokens
        num_output = len(tokens) - request.num_prompt
        if request.after == step:
            request.after = -1
        if not row.yields:
            self._advance(request, row.start + row.num_tokens)
            if request.num_computed < request.max_len:
                return None
            if result.embedding is not None:
                return self._end(request, "stop", embedding=result.embedding)
            return self._end(request, "length")  # max_tokens is 0: only the prompt was wanted
        stop = None
        logprobs = result.logprobs
        if len(ids) > 1 or ids[0] in request.stop.ids or len(tokens) + 1 >= request.max_len:
            stop = request.stop.find(ids, num_output)
            if stop is not None:
                ids = ids[: stop.keep]
                logprobs = logprobs[: stop.keep] if logprobs is not None else None
        tokens += ids
        num_computed = row.start + row.num_tokens
        if row.draft_ids:
            self._counters.verified(len(row.draft_ids), result.num_accepted)
            num_computed += min(result.num_accepted, len(ids))
            request.verifying = False
            request.num_known = len(tokens)
            request.num_planned = num_computed
        self._advance(request, num_computed)
        if row.draft_ids:
            self._tables.trim(request)
        if stop is not None:
            return self._end(request, stop.finish_reason, num_output, ids, logprobs, stop_reason=stop.stop_reason)
        if request.started:  # as _output would; this is the path of nearly every token
            return RequestOutput(request.request_id, num_output, ids, None, None, 0, 0.0, logprobs)
        return self._output(request, num_output, ids, logprobs)

    def _is_answer(self, request: Request, row: Row, result: RowResult) -> bool:
        """Does a result fit its row? The target is not trusted further than this: one bad row ends one request."""
        ids, accepted = result.token_ids, result.num_accepted
        if result.request_id != row.request_id or result.epoch != row.epoch:
            return False
        if result.logprobs is not None and len(result.logprobs) != len(ids):
            return False
        if request.prompt_logprobs is not None and row.start < request.num_prompt:
            wanted = min(row.start + row.num_tokens, request.num_prompt - 1) - row.start
            if len(result.prompt_logprobs or ()) != wanted:
                return False
        is_pooled = request.params.pooling is not None and row.start + row.num_tokens == request.num_prompt
        if is_pooled != bool(result.embedding):
            return False
        if not row.yields:
            return not ids and not accepted
        if len(ids) == 1 and not accepted:
            return 0 <= ids[0] < self.config.vocab_size
        if not (0 < accepted <= len(row.draft_ids) and 0 <= ids[-1] < self.config.vocab_size):
            return False
        if row.draft_parents is None:
            return ids[:-1] == row.draft_ids[:accepted]
        path = result.path or []
        on_path = [row.draft_ids[node] for node in path] if is_path(path, row.draft_parents) else []
        return len(path) == accepted and ids[:-1] == on_path

    def _commit_prompt(self, request: Request, row: Row, result: RowResult) -> None:
        """Prompt logprobs by position, those known from before a preemption dropped; then the forks may go."""
        if request.prompt_logprobs is not None and result.prompt_logprobs:
            known = len(request.prompt_logprobs) - row.start
            request.prompt_logprobs += result.prompt_logprobs[max(0, known) :]
        if request.children and row.start + row.num_tokens >= request.num_prompt:
            self._waiting.release_children(request)

    def _advance(self, request: Request, num_computed: int) -> None:
        request.num_computed = num_computed
        if num_computed // self.config.block_size > request.num_published:
            self._tables.publish(request)

    def _output(
        self,
        request: Request,
        offset: int,
        ids: list[int],
        logprobs: list[TokenLogprobs] | None,
        finish_reason: FinishReason | None = None,
        stop_reason: int | None = None,
        error: ErrorInfo | None = None,
        embedding: bytes | None = None,
    ) -> RequestOutput:
        """An output that may be the first, and then carries what is known once."""
        if request.started:
            return RequestOutput(
                request.request_id, offset, ids, finish_reason, stop_reason, logprobs=logprobs, error=error
            )
        request.started = True
        prompt_logprobs, request.prompt_logprobs = request.prompt_logprobs, None
        if prompt_logprobs is not None and len(prompt_logprobs) != request.num_prompt - 1:
            prompt_logprobs = None  # it ends before its prompt was computed
        return RequestOutput(
            request.request_id,
            offset,
            ids,
            finish_reason,
            stop_reason,
            request.num_cached,
            request.queue_s or 0.0,
            logprobs,
            prompt_logprobs,
            error,
            embedding=embedding,
        )

    # --- give back ----------------------------------------------------------------------------------------------------

    def forget_kv(self) -> None:
        """The target and its memory are gone: void open plans, preempt all, empty the prefix index. Tokens stay.

        Ends requests on which it died too often, see ``suspects.py`` and ``take_outputs``.
        """
        guilty = self._suspects.blame(self._running.in_flight())
        self._running.void_plans()
        for request in self._running.everyone():
            self._planner.preempt(request)
        for request in guilty:
            what = f"the model's process died {request.num_deaths} times on {request.request_id}: do not send it again"
            error = ErrorInfo("internal", what, code="request_quarantined")
            self._outputs.append(self._end(request, "error", error=error))
        self._running.closed = []
        self._tables.forget()

    def reset_prefix_cache(self) -> int:
        """Have no later request find what was computed so far; how many blocks that were. What runs keeps its own."""
        return self._tables.reset()

    def _end(
        self,
        request: Request,
        finish_reason: FinishReason,
        offset: int | None = None,
        ids: Sequence[int] = (),
        logprobs: list[TokenLogprobs] | None = None,
        *,
        stop_reason: int | None = None,
        error: ErrorInfo | None = None,
        embedding: bytes | None = None,
    ) -> RequestOutput:
        """Take a request out of wherever it is; its last output."""
        if request.state in (State.PREFILLING, State.DECODING):
            self._running.leave(request)
        else:
            self._waiting.leave(request)
            if request.state is State.FORKING:
                self._requests[request.fork_of or ""].children.remove(request)
        self._waiting.release_children(request)
        del self._requests[request.request_id]
        request.enter(State.ENDED)
        request.epoch = ENDED_EPOCH
        offset = request.num_output if offset is None else offset
        return self._output(request, offset, list(ids), logprobs, finish_reason, stop_reason, error, embedding)

    # --- look ---------------------------------------------------------------------------------------------------------

    def stats(self) -> CoreStats:
        """Counts now and since the start; costs a pass over the running requests."""
        pool, counters = self._tables.pool, self._counters
        used = self.config.num_blocks - pool.num_free
        allocated = used * self.config.block_size
        return CoreStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_queued_tokens=self._waiting.num_tokens,
            num_in_flight=len(self._running.open),
            num_free_blocks=pool.num_free - pool.num_idle,
            num_cached_blocks=pool.num_idle,
            num_used_blocks=used,
            num_allocated_slots=allocated,
            num_filled_slots=allocated - self._tables.num_wasted_slots(self._running.everyone()),
            num_preemptions=counters.num_preemptions,
            num_steps=self._next_step,
            prefix_query_tokens=counters.prefix_query_tokens,
            prefix_hit_tokens=counters.prefix_hit_tokens,
            num_drafts=counters.num_drafts,
            num_draft_tokens=counters.num_draft_tokens,
            num_accepted_tokens=sum(counters.accepted_by_position),
            num_accepted_by_position=list(counters.accepted_by_position),
            num_stale_drafts=dict(counters.stale_drafts),
        )

    def check(self) -> None:
        """Every invariant there is, at a cost of all requests and blocks: for tests, and for an idle server.

        Raises:
            AssertionError: naming the request and the numbers.
        """
        if len(self._running) > self.config.max_num_seqs or len(self._running.open) > self.config.max_in_flight:
            raise AssertionError(f"{len(self._running)} run with {len(self._running.open)} plans open: too many")
        for request in self._requests.values():
            request.check(self._running.open.keys())
        self._waiting.check(self._requests)
        self._running.check(self._requests)
