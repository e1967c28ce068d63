"""The scheduler actor: a thin shell around ``engine.core.scheduler``. It owns the clock, the inbox and the open plans.

Messages change the core at once; planning waits until the inbox is empty, so that requests that arrive together are
planned together. But a result is followed by the next plan without a turn of the event loop between, and outputs are
counted and sent behind it: the device must not wait for text. Outputs that the tokenizer has no room for are kept, and
no further plan is made until they are gone. When the tokenizer dies they are kept in ``orphans.py``.

Speculation, where it is configured, is asked before each plan what it has to offer; all it knows is in ``Proposer``.

It decides nothing about requests, and knows no text.
"""

import asyncio
import logging
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskStatus

from ..engine.core.limits import CoreConfig
from ..engine.core.plan import Drafts, RequestOutput, StepPlan, StepResult
from ..engine.core.scheduler import Scheduler
from ..engine.errors import InvalidRequestError, PacelineError, UnavailableError
from ..engine.types import ErrorInfo, RequestId
from ..spec_decode.proposer import Proposer
from . import speculation
from .actor import Actor, Setup
from .grammar_gate import GrammarGate
from .grammars import load_grammars
from .head_link import make_head_link
from .mailbox import Mailbox, MailboxFull
from .messages import (
    Abort,
    ActorLost,
    Add,
    Added,
    Compiled,
    Drain,
    Hello,
    PrefixCacheReset,
    Refused,
    ResetPrefixCache,
    Stats,
)
from .orphans import Orphans, can_be_kept
from .scheduler_counts import Counts, gauges

log = logging.getLogger(__name__)

WAIT_FOR_TARGET_S = 60.0
"""How long live requests wait for a lost target before they end with an error."""
_CHAIN_RULES = ("token", "block")
"""Rules that verify chains; of a tree they are given the chain of first children."""
_RETRY_S = 0.005
_IDLE_CHECK_S = 10.0


class _Live:
    """What the shell counts of one request."""

    __slots__ = ("can_be_kept", "num_prompt", "started")

    def __init__(self, add: Add) -> None:
        self.num_prompt = len(add.prompt_ids)
        self.started = bool(add.output_ids)  # then another scheduler has counted it
        self.can_be_kept = can_be_kept(add.params)


class SchedulerActor(Actor):
    """See the module's docstring."""

    greets = ("supervisor", "tokenizer")

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        super().__init__(setup, mailbox)
        self.core: Scheduler | None = None
        """None until the first target has told its sizes."""
        self._proposer: Proposer | None = None
        """None where nothing ever drafts."""
        self._drafter = speculation.make_link(setup.config, mailbox, anyio.current_time)
        """The way to the draft actor; None where none is configured."""
        self._head = make_head_link(setup.config)
        """The way to a head beside the target; None where none is configured."""
        self._target: str | None = None
        self._target_epoch = -1
        self._lost_s = 0.0
        self._open: list[StepPlan] = []  # oldest first
        self._outputs: list[RequestOutput] = []
        self._live: dict[RequestId, _Live] = {}
        self._held: dict[RequestId, tuple[str, Add, float]] = {}  # that came before the target; sender, add, when
        self._gate = GrammarGate()
        self._orphans = Orphans(setup.epochs.get("tokenizer", 0), self._end_orphan)
        self._wake = asyncio.Event()
        self._was_busy = False
        self._checked_s = 0.0
        self._counts = Counts()

    # --- messages -----------------------------------------------------------------------------------------------------

    async def handle(self, sender: str, message: Any) -> None:
        """One message of the inbox; what it leads to is planned and sent by ``serve``."""
        match message:
            case StepResult():
                self._answered(message)
                return
            case Add() if (output := self._orphans.give(message.request_id)) is not None:
                self._resume(sender, output)
            case Add() if self.core is not None:
                self._take(self.core, sender, message, anyio.current_time())
            case Compiled() if self.core is not None:
                self._pass(self.core, message)
            case Add():
                self._hold(sender, message)
            case Abort():
                self._abort(message.request_id)
            case Drafts() if self.core is not None:
                landed = message if self._drafter is None else self._drafter.land(message)
                if landed is not None:
                    self._offer(self.core, landed)
            case Hello() if message.actor.startswith("draft"):
                if self._drafter is not None:
                    self._drafter.meet(message)
            case Hello() if message.actor.startswith("tokenizer"):
                if self._orphans.met(message.epoch):
                    self._orphan()
            case Hello():
                self._meet(sender, message)
            case ResetPrefixCache():
                num_blocks = 0 if self.core is None else self.core.reset_prefix_cache()
                self._tell(sender, PrefixCacheReset(message.call_id, num_blocks))
            case ActorLost():
                self._lose(message)
            case Drain() if self.core is not None:
                self.core.drain()
            case _:
                pass
        self._wake.set()

    def _hold(self, sender: str, add: Add) -> None:
        """Keep a request until there is a target to plan for: we may be a replacement that is still to hear from it."""
        if not self._held:
            self._lost_s = anyio.current_time()
        if add.is_again or len(self._held) < self.setup.config.scheduler.max_queued_requests:
            self._held[add.request_id] = sender, add, anyio.current_time()
        else:
            message = "the target model is not ready and the queue is full; try again soon"
            full = UnavailableError(message, code="starting")
            self._tell(sender, Refused(add.request_id, full.info()))

    def _take(self, core: Scheduler, sender: str, add: Add, arrived_s: float) -> None:
        """Queue a request; one under a grammar when the target has compiled that."""
        if not add.params.grammar:
            self._add(core, sender, add, arrived_s)
        elif len(self._gate) >= self.setup.config.scheduler.max_queued_requests and not add.is_again:
            message = f"{len(self._gate)} requests wait for their grammars; try again soon"
            self._tell(sender, Refused(add.request_id, UnavailableError(message, code="queue_full").info()))
        elif (ask := self._gate.hold(sender, add, arrived_s)) is not None and self._target is not None:
            self.mailbox.send(self._target, ask)

    def _pass(self, core: Scheduler, answer: Compiled) -> None:
        for sender, add, arrived_s in self._gate.passed(answer):
            if answer.error:
                fault = InvalidRequestError(answer.error, param="structured_outputs")
                self._tell(sender, Refused(add.request_id, fault.info()))
            else:
                self._add(core, sender, add, arrived_s)

    def _add(self, core: Scheduler, sender: str, add: Add, arrived_s: float) -> None:
        try:
            if self._proposer is not None and (fault := self._proposer.check_control(add.speculation)):
                raise InvalidRequestError(fault, param="speculation.methods")
            core.add(
                add.request_id,
                add.prompt_ids,
                add.params,
                now=arrived_s,
                priority=add.priority,
                cache_salt=add.cache_salt,
                fork_of=add.fork_of,
                output_ids=add.output_ids,
                deadline=arrived_s + add.deadline_s,
                is_again=add.is_again,
            )
        except PacelineError as e:
            if isinstance(e, UnavailableError) and e.code == "queue_full":
                self._counts.add("admission_rejections/max_num_queued_reqs")
            self._tell(sender, Refused(add.request_id, e.info()))
            return
        self._live[add.request_id] = _Live(add)
        self._counts.add("requests_replayed", add.is_again)
        if self._proposer is not None:
            self._proposer.open(
                add.request_id,
                add.prompt_ids,
                add.params,
                output_ids=add.output_ids,
                cache_salt=add.cache_salt,
                control=add.speculation,
                prediction=speculation.sound_ids(add.prediction_ids, core.config),
            )
        if not self._tell(sender, Added(add.request_id)):
            self._abort(add.request_id)

    def _tell(self, sender: str, answer: Added | Refused | PrefixCacheReset) -> bool:
        """Answer. Who has a thousand unread messages gets none: their own timers end the call."""
        try:
            self.mailbox.send(sender, answer)
        except MailboxFull:
            log.warning("%s reads nothing: it is not told %s", sender, answer)
            return False
        return True

    def _abort(self, request_id: RequestId) -> None:
        self._orphans.give(request_id)
        self._held.pop(request_id, None)
        self._gate.drop(request_id)
        if self.core is not None:
            for output in self.core.abort(request_id):
                self._book(output)  # who aborts expects no answer

    def _answered(self, result: StepResult) -> None:
        """Commit a step, and plan the next at once."""
        outputs = self._apply(result)
        self._plan()
        self._give(outputs)  # before what planning may have ended
        if not self._send_outputs() or self._timeout_s() is not None:
            self._wake.set()  # ``serve`` has to wake by itself
        self._watch_idle()

    def _apply(self, result: StepResult) -> list[RequestOutput]:
        if self.core is None or not self._open or self._open[0].step != result.step:
            return []  # of a plan that was voided
        plan = self._open.pop(0)
        self._counts.sample("step_time", result.elapsed_s)
        outputs = self.core.apply(plan, result)
        if self._head is not None:
            self._head.land(result.drafts)
        if self._proposer is not None:
            self._proposer.applied(plan, result, outputs)
        return outputs

    def _offer(self, core: Scheduler, drafts: Drafts) -> None:
        if self._proposer is None:
            return
        drafts = self._proposer.fitting(drafts)
        self._proposer.landed(drafts, core.offer(drafts))

    # --- the target comes and goes ------------------------------------------------------------------------------------

    def _meet(self, sender: str, hello: Hello) -> None:
        """A target can work: the first one, or one in place of another."""
        if hello.epoch <= self._target_epoch:
            return
        self._forget()
        if self._drafter is not None:
            self._drafter.meet_target(hello, self.setup.card.name)
        if self._head is not None:
            self._head.meet(hello.draft_costs)
        sizes = CoreConfig(
            num_blocks=hello.num_blocks,
            block_size=hello.block_size,
            max_model_len=hello.max_model_len,
            vocab_size=hello.logits_width,
            **{name: getattr(self.setup.config.scheduler, name) for name in _POLICIES},
            max_logprobs=self.setup.config.server.max_logprobs,
            enable_prefix_caching=self.setup.config.cache.enable_prefix_caching,
            draft_trees=self.setup.config.speculation.rule not in _CHAIN_RULES,
        )
        if self.core is not None and self.core.config != sizes:
            self._fail_all("the target model came back with other sizes; send the request again")
            self.core = None
        if self.core is None:
            self.core = Scheduler(sizes)
            self._proposer = speculation.build(
                self.setup.config, sizes, hello.step_costs, self._drafter, self._head, load_grammars(self.setup.card)
            )
        self._target, self._target_epoch = sender, hello.epoch
        held, self._held = self._held, {}
        for ask in self._gate.ask_again():
            self.mailbox.send(sender, ask)
        for tokenizer, add, arrived_s in held.values():
            self._take(self.core, tokenizer, add, arrived_s)

    def _lose(self, lost: ActorLost) -> None:
        if lost.actor.startswith("target") and lost.epoch >= self._target_epoch and self._target is not None:
            self._forget()
            self._target, self._target_epoch = None, lost.epoch
            self._lost_s = anyio.current_time()
        elif lost.actor.startswith("draft"):
            if self._drafter is not None:
                self._drafter.lost(lost.epoch)
        elif lost.actor.startswith("tokenizer") and self._orphans.lost(lost.epoch):
            self._orphan()

    def _forget(self) -> None:
        self._open.clear()
        if self._proposer is not None:
            self._proposer.forget_plans()
        if self.core is not None:
            self._counts.add("requests_replayed", self.core.stats().num_running)
            self.core.forget_kv()

    # --- the tokenizer comes and goes ---------------------------------------------------------------------------------

    def _orphan(self) -> None:
        """The tokenizer is gone: what it had goes on without it, where it can, until another asks for it."""
        self._held.clear()
        self._gate.take_all()
        if self.core is not None:
            self._give(self.core.take_outputs())
            for request_id, live in list(self._live.items()):
                so_far = self.core.replay(request_id) if live.can_be_kept else None
                if so_far is not None:
                    self._orphans.take(so_far)
                else:
                    self._abort(request_id)
        self._outputs.clear()

    def _resume(self, sender: str, so_far: RequestOutput) -> None:
        """A new tokenizer asks for a request that went on without one."""
        self._counts.add("requests_replayed")
        if not self._tell(sender, Added(so_far.request_id)):
            self._abort(so_far.request_id)
        elif so_far.token_ids or so_far.finish_reason is not None:
            self._outputs.append(so_far)

    def _end_orphan(self, request_id: RequestId) -> None:
        self._abort(request_id)
        self._wake.set()

    def _fail_all(self, message: str) -> None:
        error = ErrorInfo("unavailable", message, code="engine_unavailable", retry_after_s=5.0)
        held, self._held = self._held, {}
        for sender, add, _ in [*held.values(), *self._gate.take_all()]:
            self._tell(sender, Refused(add.request_id, error))
        if self.core is None:
            return
        for request_id in list(self._live):
            for output in self.core.abort(request_id):
                self._give([msgspec.structs.replace(output, finish_reason="error", error=error)])

    # --- planning and sending -----------------------------------------------------------------------------------------

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Plan and send whenever messages have been handled, and at the next deadline."""
        task_status.started()
        while True:
            await self._sleep()
            self._wake.clear()
            self._plan()
            self._send_outputs()
            self._watch_idle()

    async def _sleep(self) -> None:
        timeout_s = self._timeout_s()
        if timeout_s is None:
            await self._wake.wait()
            return
        with anyio.move_on_after(timeout_s):
            await self._wake.wait()

    def _timeout_s(self) -> float | None:
        """None = nothing to do before a message comes. A plan in flight brings one; else a deadline may pass first."""
        if self._outputs:
            return _RETRY_S
        if self._drafter is not None and (wait_s := self._drafter.wait_s()):
            return wait_s
        if self._open:
            return None
        if self.core is None or self._target is None:
            waits = self._live or self._held or self._gate
            return max(0.0, self._lost_s + WAIT_FOR_TARGET_S - anyio.current_time()) if waits else None
        deadline_s = self.core.next_deadline()
        return None if deadline_s is None else max(0.0, deadline_s - anyio.current_time())

    def _plan(self) -> None:
        now_s = anyio.current_time()
        if self.core is None or self._target is None:
            if (self._live or self._held or self._gate) and now_s >= self._lost_s + WAIT_FOR_TARGET_S:
                self._fail_all(f"the target model has been down for {WAIT_FOR_TARGET_S:.0f} s; try again later")
            return
        if self._outputs and not self._flush():
            return
        while (plan := self._next_plan(self.core, now_s)) is not None:
            self.mailbox.send(self._target, plan if self._head is None else self._head.ask(plan))
            self._open.append(plan)
            if self._proposer is not None:
                self._proposer.sent(plan)
            self._counts.sample("iteration_tokens_total", sum(r.num_tokens + len(r.draft_ids) for r in plan.rows))

    def _next_plan(self, core: Scheduler, now_s: float) -> StepPlan | None:
        if self._proposer is None:
            return core.schedule(now_s)
        proposals = self._proposer.propose()
        if self._head is not None:
            proposals += self._head.left({drafts.request_id for drafts in proposals})
        for drafts in proposals:
            self._offer(core, drafts)
        if self._drafter is not None and self._drafter.wait_s() and not core.has_prompts:
            return None  # drafts are on their way; a prompt would not wait for them
        depths = self._proposer.depths()
        return None if self._proposer.waits(depths) else core.schedule(now_s, depths)

    def _give(self, outputs: list[RequestOutput]) -> None:
        """Count outputs and put them up for sending, where there is somebody to send them to."""
        booked = [self._book(output) for output in outputs]
        if self._orphans:
            booked = [output for output in booked if not self._orphans.keeps(output)]
        self._outputs += booked

    def _send_outputs(self) -> bool:
        """Send all there are, those of requests that ended by themselves behind the others; whether nothing is left."""
        if self.core is not None:
            self._give(self.core.take_outputs())
        return self._flush()

    def _flush(self) -> bool:
        """Send what is up for sending; whether nothing is left."""
        if self._outputs:
            try:
                self.mailbox.send_all("tokenizer", self._outputs)
            except MailboxFull:
                return False
            self._outputs = []
        return True

    # --- counting -----------------------------------------------------------------------------------------------------

    def _book(self, output: RequestOutput) -> RequestOutput:
        """Count an output; it comes back with what speculation did, where that is to be told."""
        live = self._live.get(output.request_id)
        if live is None:
            return output
        if not live.started:
            live.started = True
            self._counts.add("prompt_tokens", live.num_prompt)
            self._counts.add("prompt_tokens_cached", output.num_cached)
        self._counts.add("generation_tokens", len(output.token_ids))
        if output.finish_reason is not None:
            del self._live[output.request_id]
            self._counts.add(f"request_success/{output.finish_reason}")
        if self._proposer is None:
            return output
        report = self._proposer.report(output.request_id, is_last=output.finish_reason is not None)
        return output if report is None else msgspec.structs.replace(output, speculation=report)

    def _watch_idle(self) -> None:
        """Report changes between idle and busy at once, and look for lost blocks while nobody waits."""
        busy = bool(self._live or self._open)
        if busy != self._was_busy:
            self._was_busy = busy
            self.progress.nudge()
        now_s = anyio.current_time()
        if not busy and self.core is not None and now_s > self._checked_s + _IDLE_CHECK_S:
            self._checked_s = now_s
            self.core.check()

    def stats(self) -> Stats | None:
        """The core's gauges and counters under the names of ``actors.stats``."""
        if self.core is None:
            return None
        values, samples = gauges(self.core), self._counts.take_samples()
        if self._proposer is not None:
            tally = self._proposer.tally.values
            values |= speculation.counts(self.core.stats(), tally, self.setup.config.speculation) | tally
            values |= self._proposer.method_stats()
            if self._drafter is not None:
                values["spec_disabled_state/drafter"] = float(not self._drafter.is_up)
                values |= self._drafter.ahead_counts(values)
            samples |= self._proposer.tally.take_samples()
        return Stats(self.name, self.epoch, values | self._counts.values, samples)

    async def stop(self) -> None:
        """Stop the clocks."""
        self._orphans.close()

    async def drain(self) -> None:
        """Wait until every request has ended and its output is sent."""
        while self._live or self._outputs or self._gate:
            await anyio.sleep(0.02)


_POLICIES = (
    "max_num_seqs", "max_num_batched_tokens", "prompt_stretch", "max_in_flight", "policy", "max_queued_requests",
    "max_queued_tokens",
)  # fmt: skip
