"""Speculators inside the scheduler process, around the core: who is asked, what was offered, what came of it. No torch.

The shell calls, round by round::

    apply a result -> applied()   committed tokens, accepted drafts
    before a plan  -> propose()   drafts for core.offer, then landed() for what the core kept
                      depths()    who gets how many, by the policy
                      waits()     True = plan nothing before the unanswered plan is answered
    send the plan  -> sent()

**Two plans in flight.** A request with drafts is certain of nothing until they are answered, so it cannot stand in a
second plan; and if others went on without it, it would be left out of every other step. So while drafts are being
verified, or are about to be, no plan is made ahead. While no draft is worth it, plans are made ahead as without
speculation. Drafts are looked for when a result arrives although the next step already runs: then their first token is
that step's, to be checked like any other, and the rest waits for it.

Nobody else writes here; the core never hears of methods, and the text does not depend on anything in this file.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ..engine.core.plan import Drafts, RequestOutput, StepPlan, StepResult
from ..engine.types import RequestId, SamplingParams, SpeculationControl, SpeculationStats
from .adapt import NONE, Depths, Load, Offer, Policy, Wish
from .base import ProposeReq
from .forced import FORCED, Forcing, forced_drafts, unless_forced
from .live import Live, Method
from .methods import Methods, is_told
from .rates import RequestRates
from .step_costs import StepCosts
from .tally import RequestTally, Tally
from .tree import descend

_OVERHEAD_WEIGHT = 0.05
_FIRST_OVERHEAD_S = 0.001
"""Taken for lost between two steps until it was measured."""
_MOST_OVERHEAD_S = 0.02
"""A longer pause between two steps is not ours: nothing was to do."""


class OutputGrammars(Forcing, Protocol):
    """What grammars say of drafts. Told of every request under one, and of what is committed to it."""

    def open(self, request_id: RequestId, grammar: str, length: int, output_ids: Sequence[int]) -> None:
        """A request begins, ``length`` tokens long, its output so far included."""
        ...

    def commit(self, request_id: RequestId, token_ids: Sequence[int]) -> None:
        """These were committed; for any request, as the next two."""
        ...

    def close(self, request_id: RequestId) -> None:
        """The request has ended."""
        ...

    def shorten(self, drafts: Drafts) -> Drafts:
        """``drafts``, or fewer of them."""
        ...


class Proposer:
    """See the module's docstring.

    ``grammars`` is where structured output joins. Tokens that a grammar forces are proposed before any method is asked
    (``forced_tokens``): they cost nothing to find and are all but certain, so they are offered while speculation rests
    too, and to requests that have no method. What a quick method proposes beside them is taken where it goes on behind
    them. All other drafts are shortened to what the grammar allows before the core gets them; not those that come with
    the law they were drawn from: under the rules that need it, dropping a draft for what it is would change the text's
    law, so the grammar masks that law before the draw. Forced tokens count by method only, in no request's figures,
    which tell how well drafts are guessed.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        policy: Policy,
        costs: StepCosts,
        max_draft_tokens: int,
        clock: Callable[[], float] = time.perf_counter,
        *,
        grammars: OutputGrammars | None = None,
        forced_tokens: bool = False,
    ) -> None:
        self._grammars = grammars
        self._forces = forced_tokens and grammars is not None
        self._policy = policy
        self._costs = costs
        self._most = max_draft_tokens
        self._clock = clock
        self._live: dict[RequestId, Live] = {}
        self._ready: dict[RequestId, Live] = {}  # committed something since they were last asked for
        self._moved: dict[RequestId, Live] = {}  # committed something since their grammar was last asked
        self._offering: dict[RequestId, Live] = {}  # have waiting drafts
        self._num_started = 0
        self._num_prompt_rows = 0
        self._num_verifying = 0  # unanswered plans with drafts
        self._num_open = 0
        self._applied_s = 0.0
        self._sent_s = 0.0
        self._turn_s = 0.0
        self._was_alone = False
        self._overhead_s = _FIRST_OVERHEAD_S
        names = [method.name for method in methods]
        self.tally = Tally([*names, FORCED] if self._forces else names, max_draft_tokens)
        self._methods = Methods(methods, max_draft_tokens, clock, self.tally)

    # --- requests come and go -----------------------------------------------------------------------------------------

    def open(
        self,
        request_id: RequestId,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        output_ids: Sequence[int] = (),
        cache_salt: str = "",
        control: SpeculationControl | None = None,
        prediction: Sequence[int] = (),
    ) -> None:
        """The core took a request."""
        control = control or SpeculationControl()
        live = Live(request_id, [*prompt_ids, *output_ids], params, params.max_tokens - len(output_ids))
        live.salt, live.prediction = cache_salt, list(prediction)
        most = self._most if control.max_draft_tokens is None else min(control.max_draft_tokens, self._most)
        if control.enabled and most > 0:
            named = [method.name for method in self._methods.at_work] if control.methods is None else control.methods
            live.methods = [method for name in named for method in self._methods.at_work if method.name == name]
            live.is_forced = self._forces and bool(params.grammar)
            live.most = most if live.methods or live.is_forced else 0
        if live.methods:
            live.tally = RequestTally(live.most, detail=control.detail)
            live.always_report = control.always_report
        else:
            live.prompt = []
        self._live[request_id] = live
        if live.most and self._grammars is not None and params.grammar:
            self._grammars.open(request_id, params.grammar, live.length, output_ids)
        if live.methods and self._policy.wants_drafts:
            self._methods.begin(live)

    def check_control(self, control: SpeculationControl | None) -> str | None:
        """Why a request's wish cannot be granted; None = it can."""
        known = [method.name for method in self._methods.at_work]
        unknown = [name for name in (control.methods or ()) if name not in known] if control else []
        if unknown:
            return f"speculation.methods names {unknown[0]!r}; this server has {', '.join(known) or 'none'}"
        return None

    def report(self, request_id: RequestId, *, is_last: bool) -> SpeculationStats | None:
        """What speculation did for a request, where an output is to tell it; the last one ends the request here."""
        live = self._live.get(request_id)
        if live is None:
            return None
        if is_last:
            self._close(live)
        if live.tally is None or not (is_last or live.always_report):
            return None
        if any(method not in self._methods.at_work for method in live.methods):
            return live.tally.report("fault")
        return live.tally.report("policy" if self._policy.is_off else None)

    def _close(self, live: Live) -> None:
        del self._live[live.request_id]
        self._retire(live)
        if self._grammars is not None:
            self._grammars.close(live.request_id)
        self._methods.close(live)

    def forget_plans(self) -> None:
        """The target is gone: no unanswered plan will be answered, and every request begins another epoch."""
        self._num_verifying = self._num_open = 0
        for live in self._live.values():
            live.in_flight = 0
            live.verifying = None
            self._drop(live)

    # --- a step -------------------------------------------------------------------------------------------------------

    def applied(self, plan: StepPlan, result: StepResult, outputs: Sequence[RequestOutput]) -> None:
        """``core.apply`` gave ``outputs``, in the order of the plan's rows. Those that end stay until ``report``."""
        self._applied_s = self._clock()
        self._learn(plan, result)
        left = iter(outputs)
        output = next(left, None)
        for row, row_result in zip(plan.rows, result.rows, strict=True):
            live = self._live.get(row.request_id)
            answered = output if output is not None and output.request_id == row.request_id else None
            if answered is not None:
                output = next(left, None)
            if live is None:
                continue
            if row.yields:
                live.in_flight = max(0, live.in_flight - 1)
            if answered is not None:
                if live.verifying is not None and row.draft_ids and row_result.error is None:
                    self._verified(live, live.verifying, len(row.draft_ids), row_result.num_accepted)
                self._commit(live, row.epoch, answered.token_ids)
                if answered.finish_reason is not None:
                    self._retire(live)

    def _retire(self, live: Live) -> None:
        """It has ended: nothing is proposed for it any more."""
        self._num_started -= live.started
        live.started = False
        self._ready.pop(live.request_id, None)
        self._moved.pop(live.request_id, None)
        self._offering.pop(live.request_id, None)

    def _verified(
        self, live: Live, of: tuple[RequestRates, str, list[float] | None], num_drafts: int, num_accepted: int
    ) -> None:
        rates, method, confidence = of
        live.verifying = None
        rates.observe(num_drafts, num_accepted, confidence)
        self.tally.verified(method, num_drafts, num_accepted)
        if live.tally is not None and method != FORCED:
            live.tally.verified(method, num_drafts, num_accepted)

    def _commit(self, live: Live, epoch: int, ids: list[int]) -> None:
        if not live.started:
            live.started = True
            self._num_started += 1
        live.length += len(ids)
        live.num_left -= len(ids)
        live.epoch = epoch
        if not live.most:
            return
        if self._grammars is not None and live.params.grammar:
            self._grammars.commit(live.request_id, ids)
        if live.is_forced:
            self._moved[live.request_id] = live
        if live.methods:
            live.pending += ids
            self._ready[live.request_id] = live
        if not live.waiting:
            return
        agreed, left, parents = descend(live.waiting, live.parents, ids)
        hit = agreed == len(ids) and bool(left)
        if live.ahead:  # as good as verified
            num = len(ids) if live.parents is not None else min(len(ids), len(live.waiting))
            self._methods.rates(live, live.source).observe(num, agreed, live.confidence)
            live.ahead = False
            if live.tally is not None and live.source != FORCED:
                live.tally.ahead_hits += hit
                live.tally.ahead_misses += not hit
                self.tally.add("spec_ahead_hits" if hit else "spec_ahead_misses")
        if hit:
            live.waiting, live.parents = left, parents
            live.confidence = live.confidence[agreed:] if live.confidence is not None else None
        else:
            self._drop(live)

    def _drop(self, live: Live) -> None:
        live.waiting = []
        live.confidence = None
        live.ahead = False
        self._offering.pop(live.request_id, None)

    def propose(self) -> list[Drafts]:
        """Ask for drafts for every request that committed something: the methods in order, until one has an answer.

        Behind an answer only slow methods are still asked, and only for drafts that should bring more than the answer,
        for all that they cost: a poor guess that took no time is no reason to do without a good one. Of two proposals
        for a request the later one counts. Forced tokens come first; see ``fitting``.
        """
        moved, self._moved = self._moved, {}
        forced = forced_drafts(self._grammars, moved.values()) if self._grammars is not None and moved else []
        if not self._ready or not self._policy.wants_drafts:
            return forced
        asked = [live for live in self._ready.values() if live.num_left > 1]
        self._ready.clear()
        for live in asked:
            if not live.has_begun:
                self._methods.begin(live)
        self._methods.observe(asked)
        slow = {method.name for method in self._methods.at_work if self._methods.is_slow(method)}
        answers: list[Drafts] = []
        place = 0
        while asked:
            batches: dict[str, list[Live]] = {}
            for live in asked:
                if place < len(live.methods):
                    batches.setdefault(live.methods[place].name, []).append(live)
            for method in list(self._methods.at_work):
                batch = batches.get(method.name)
                if batch:
                    answers += self._ask(method, batch, answers, forced)
            found = {drafts.request_id for drafts in answers}
            place += 1
            asked = [
                live
                for live in asked
                if place < len(live.methods) and (live.request_id not in found or live.methods[place].name in slow)
            ]
        return forced + answers

    def _ask(
        self, method: Method, batch: list[Live], answers: Sequence[Drafts], forced: Sequence[Drafts]
    ) -> list[Drafts]:
        """``answers`` are those of the methods before it. For ``forced`` ones no step waits."""
        began_s = self._clock()
        if self._methods.is_slow(method):
            served = {drafts.request_id for drafts in forced}
            batch = [live for live in batch if live.request_id not in served]
            if not batch:
                return []
            depths = {live.request_id: min(live.most, live.num_left - 1) for live in batch}
            depths = self._worth_asking(method, batch, depths, [*forced, *answers], began_s)
        else:
            depths = {live.request_id: min(live.most, live.num_left - 1) for live in batch}
        asks = [
            ProposeReq(
                live.request_id,
                live.epoch,
                live.length,
                [],
                depths[live.request_id],
                live.params.temperature,
                live.params.seed,
            )
            for live in batch
            if live.request_id in depths
        ]
        return self._methods.propose(method, asks, began_s) if asks else []

    def _worth_asking(
        self, method: Method, batch: list[Live], most: Depths, answers: Sequence[Drafts], now_s: float
    ) -> Depths:
        """Whom to ask a slow method for, and for how many drafts."""
        there = {drafts.request_id: self._methods.chances(self._live[drafts.request_id], drafts) for drafts in answers}
        wishes = [
            Wish(
                live.request_id,
                self._methods.rates(live, method.name).survival(most[live.request_id]),
                live.num_idle,
                there.get(live.request_id, ()),
            )
            for live in batch
        ]
        offers = [Offer(request_id, chances) for request_id, chances in there.items() if request_id not in most]
        named = there.keys() | most.keys()
        offers += [
            Offer(live.request_id, self._methods.waiting_chances(live))
            for live in self._offering.values()
            if live.request_id not in named
        ]
        cost = self._methods.cost(method)
        depths = self._methods.guard(method, lambda _: self._policy.ask(wishes, offers, self._load(), cost), NONE)
        for live in batch:
            live.num_idle = 0 if live.request_id in depths else live.num_idle + 1
        if any(live.in_flight for live in batch):  # the first draft will be the token of the step that runs
            depths = {i: min(depth + self._live[i].in_flight, most[i]) for i, depth in depths.items()}
        if depths:
            self._methods.wait(method, len(depths), max(depths.values()), now_s)
        self.tally.values[f"spec_disabled_state/{method.name}_cost"] = float(not depths)
        return depths

    def fitting(self, drafts: Drafts) -> Drafts:
        """``drafts`` as the core may have them: within their grammar, and only where they beat forced tokens."""
        if self._grammars is None or drafts.source == FORCED:
            return drafts
        if drafts.draft_q is None:
            drafts = self._grammars.shorten(drafts)
        live = self._live.get(drafts.request_id)
        return drafts if live is None else unless_forced(drafts, live)

    def landed(self, drafts: Drafts, left: list[int]) -> None:
        """The core was offered ``drafts`` and keeps ``left`` of them behind what is committed; [] = none."""
        live = self._live.get(drafts.request_id)
        if live is None or not live.most:
            return
        self._methods.landed(drafts.source)
        if not left:
            if live.tally is not None and drafts.token_ids and drafts.source != FORCED:
                live.tally.num_stale += 1
            return
        live.waiting = left[: live.most]
        live.source = drafts.source
        live.parents = None
        if drafts.parents is not None and len(left) == len(drafts.token_ids):
            live.parents = drafts.parents[: len(live.waiting)]  # parents come before children: what is left is a tree
        used = len(drafts.token_ids) - len(left)
        live.confidence = drafts.confidence[used:] if drafts.confidence is not None and is_told(drafts) else None
        live.ahead = live.in_flight > 0
        self._offering[live.request_id] = live

    def depths(self) -> Depths:
        """Who may have how many drafts verified in the next step."""
        if not self._offering:
            return NONE
        offers = [
            Offer(
                live.request_id,
                self._methods.waiting_chances(live),
                live.source == FORCED,
            )
            for live in self._offering.values()
        ]
        return self._policy.choose(offers, self._load())

    def _load(self) -> Load:
        return Load(self._num_started, self._num_prompt_rows, self._overhead_s)

    def waits(self, depths: Depths) -> bool:
        """Must the unanswered plan be answered before another is made?"""
        return self._num_open > 0 and (self._num_verifying > 0 or bool(depths))

    def sent(self, plan: StepPlan) -> None:
        """A plan went to the target."""
        now_s = self._clock()
        num_offers = sum(live.source != FORCED for live in self._offering.values())
        num_taken, num_prompt_rows = 0, 0
        for row in plan.rows:
            live = self._live.get(row.request_id)
            if row.num_tokens > 1 or not row.yields:
                num_prompt_rows += row.num_tokens
            if live is None or not row.yields:
                continue
            live.in_flight += 1
            if row.draft_ids:
                num_taken += len(row.draft_ids)
                live.verifying = self._methods.rates(live, live.source), live.source, live.confidence
                self._drop(live)
        self._num_prompt_rows = num_prompt_rows
        self._was_alone = not self._num_open
        self._num_open += 1
        if num_taken:
            self._num_verifying += 1
            self.tally.sample("spec_k_chosen", num_taken / max(1, self._num_started))
            self._turn_s = now_s - self._applied_s
        # Waiting for drafts is no overhead: it was counted before they were asked for.
        self._turn_s -= self._methods.end_waits(self._applied_s, now_s, learn=not num_prompt_rows)
        self._sent_s = now_s
        self._policy.stepped(num_offers, num_taken)
        self.tally.values["spec_disabled_state/policy"] = float(self._policy.is_off)

    # --- what steps teach ---------------------------------------------------------------------------------------------

    def _learn(self, plan: StepPlan, result: StepResult) -> None:
        """Cost of a step by its rows, and what is lost when no plan waits at the target for its turn."""
        self._num_open = max(0, self._num_open - 1)
        if any(row.draft_ids for row in plan.rows):
            self._num_verifying = max(0, self._num_verifying - 1)
            lost_s = self._turn_s + self._applied_s - self._sent_s - result.elapsed_s - result.drafting_s
            if self._was_alone and 0 < lost_s < _MOST_OVERHEAD_S:
                self.tally.sample("spec_step_overhead", lost_s)
                self._overhead_s += (lost_s - self._overhead_s) * _OVERHEAD_WEIGHT
        if all(row.yields and row.num_tokens == 1 for row in plan.rows):
            self._costs.observe(sum(1 + len(row.draft_ids) for row in plan.rows), result.elapsed_s)

    def method_stats(self) -> dict[str, float]:
        """What the methods count themselves, under the names of ``actors.stats``."""
        return self._methods.stats()
