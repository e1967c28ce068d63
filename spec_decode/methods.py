"""The methods at work: told, asked, waited for, and what their drafts have been worth. No torch.

Everything that is kept by method; ``proposer.py`` decides when. A method that fails is used no more; requests go on
without it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from ..engine.core.plan import Drafts
from .adapt import DraftingCost
from .base import Outcome, ProposeReq, Speculator, StepBudget
from .live import Live, Method, Wait
from .rates import MethodRates, RequestRates
from .tally import Tally

log = logging.getLogger(__name__)

_SLOW_S = 0.0005
"""A method that takes this long for one draft is asked only for drafts that pay for the wait."""
_SHARE_WEIGHT = 0.05

_T = TypeVar("_T")


class Methods:
    """See the module's docstring. ``most``: drafts of a request and step."""

    def __init__(self, methods: Sequence[Method], most: int, clock: Callable[[], float], tally: Tally) -> None:
        self.at_work = list(methods)
        self._most = most
        self._clock = clock
        self._tally = tally
        self._rates = {method.name: MethodRates(most) for method in methods}
        self._waits = {method.name: Wait() for method in methods}

    def guard(self, method: Method, call: Callable[[Speculator], _T], instead: _T) -> _T:
        """What ``call`` returns; ``instead`` where it fails, or the method has failed before."""
        if method not in self.at_work:
            return instead
        try:
            return call(method.speculator)
        except Exception:
            log.exception("speculator %s failed and is switched off", method.name)
            self._tally.add(f"spec_faults/{method.name}")
            self._tally.add("spec_disabled_state/fault", 1)
            self.at_work.remove(method)
            return instead

    # --- told ---------------------------------------------------------------------------------------------------------

    def begin(self, live: Live) -> None:
        """Its methods hear of a request."""
        live.has_begun = True
        prompt, live.prompt = live.prompt, []
        for method in live.methods:
            self.guard(
                method,
                lambda s: s.open(
                    live.request_id,
                    prompt,
                    live.params,
                    live.epoch,
                    cache_salt=live.salt,
                    prediction=live.prediction,
                ),
                None,
            )

    def observe(self, lives: Sequence[Live]) -> None:
        """Tell what was committed since the last time; in chunks, where nobody is asked for long."""
        batches: dict[str, list[Outcome]] = {}
        for live in lives:
            if live.pending:
                ids, live.pending = live.pending, []
                outcome = Outcome(live.request_id, live.epoch, live.length - len(ids), 0, ids)
                for method in live.methods:
                    batches.setdefault(method.name, []).append(outcome)
        for method in list(self.at_work):
            batch = batches.get(method.name)
            if batch:
                self.guard(method, lambda s, batch=batch: s.observe(batch), None)

    def close(self, live: Live) -> None:
        """The request has ended."""
        if live.has_begun:
            self.observe([live])
            for method in live.methods:
                self.guard(method, lambda s: s.close(live.request_id), None)

    # --- asked --------------------------------------------------------------------------------------------------------

    def is_slow(self, method: Method) -> bool:
        """Does a step wait for its drafts?"""
        return self.guard(method, lambda s: s.cost(1, 1), 0.0) >= _SLOW_S

    def propose(self, method: Method, asks: Sequence[ProposeReq], began_s: float) -> list[Drafts]:
        """What it has; the time since ``began_s`` is its own."""
        budget = StepBudget(self._most * len(asks), self._most)
        proposed = self.guard(method, lambda s: s.propose(list(asks), budget), [])
        self._tally.sample(f"spec_propose/{method.name}", self._clock() - began_s)
        stamps = {ask.request_id: (ask.epoch, ask.base_len) for ask in asks}
        found: list[Drafts] = []
        for drafts in proposed:
            if stamps.get(drafts.request_id) != (drafts.epoch, drafts.base_len):
                self._tally.add(f"spec_faults/{method.name}")
            elif drafts.token_ids:
                found.append(msgspec.structs.replace(drafts, source=method.name))
        return found

    # --- waited for ---------------------------------------------------------------------------------------------------

    def cost(self, method: Method) -> DraftingCost:
        """Seconds that a step waits for drafts."""
        share = self._waits[method.name].share
        return lambda num_requests, depth: method.speculator.cost(num_requests, depth) * share

    def wait(self, method: Method, num_requests: int, depth: int, now_s: float) -> None:
        """Drafts of a slow method are asked for now."""
        self._waits[method.name].begin(now_s, method.speculator.cost(num_requests, depth))

    def landed(self, source: str) -> None:
        """Drafts have come."""
        if (wait := self._waits.get(source)) is not None:
            wait.landed_s = self._clock()

    def end_waits(self, applied_s: float, now_s: float, *, learn: bool) -> float:
        """Seconds waited since the last result, now that a plan goes; ``learn`` what share of drafting that was."""
        total_s = 0.0
        for method in self.at_work:
            wait = self._waits[method.name]
            if wait.asked_s < applied_s:
                continue
            waited_s = max(0.0, (wait.landed_s if wait.landed_s >= wait.asked_s else now_s) - wait.asked_s)
            total_s += waited_s
            if method.speculator.caps.draft_ahead and wait.expected_s > 0 and learn:
                wait.share += (min(waited_s / wait.expected_s, 1.0) - wait.share) * _SHARE_WEIGHT
                if waited_s > _SLOW_S:
                    self._tally.add("spec_jit")
            wait.asked_s = -1.0
        return total_s

    # --- what drafts are worth ----------------------------------------------------------------------------------------

    def rates(self, live: Live, source: str) -> RequestRates:
        """Of a method's drafts for a request."""
        rates = live.rates.get(source)
        if rates is None:
            means = self._rates.setdefault(source, MethodRates(self._most))
            rates = live.rates[source] = RequestRates(means, live.most)
        return rates

    def chances(self, live: Live, drafts: Drafts) -> list[float]:
        """That each of a request's drafts, just made, is accepted."""
        confidence = drafts.confidence if is_told(drafts) else None
        return self.rates(live, drafts.source).survival(min(len(drafts.token_ids), live.most), confidence)

    def waiting_chances(self, live: Live) -> list[float]:
        """That each of the drafts that wait for a request's next step is accepted."""
        return self.rates(live, live.source).survival(len(live.waiting), live.confidence)

    def stats(self) -> dict[str, float]:
        """What the methods count themselves, under the names of ``actors.stats``."""
        values: dict[str, float] = {}
        for method in list(self.at_work):
            for name, num in self.guard(method, lambda s: s.stats(), {}).items():
                values[f"spec_method/{method.name}/{name}"] = num
        return values


def is_told(drafts: Drafts) -> bool:
    """Does a chain say of each of its drafts how sure it is? A sender may say anything."""
    told = drafts.confidence or []
    return drafts.parents is None and len(told) == len(drafts.token_ids) and all(0 <= chance <= 1 for chance in told)
