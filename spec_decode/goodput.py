"""The policy that weighs: as many drafts as bring the most tokens a second, and none where none pays. Pure.

The aim is committed tokens per second of the whole step: (decoding requests + chances of the drafts taken) / cost. The
budget is the step's, the slots are the requests': all slots of all requests stand in one line, best chance first, and
every length of that line is looked at, because costs have steps.

Drafts that are there (``choose``) cost their rows and two pauses of the device: a step with drafts waits for the answer
before it, and the next step for its own. Behind a step with drafts the first pause is there either way. Drafts for
which the step must wait (``ask``) cost the waiting as well, so that is decided before they are made: for each depth,
who is worth it.

Calm, so that noise costs nothing:

* With no draft in the last step, drafts are taken only for a gain above 5 %, and kept while they gain 2 %.
* When 16 offers in a row were worth nothing, the speculators are not even asked; one step in 64 then asks, and tries a
  few first drafts. Sure drafts, for which nobody is asked, are weighed by themselves all the time. A slow method that
  is not worth asking is tried for a few steps, soon at first, because nothing is known of it, and ever more rarely in
  vain.
* While drafts are taken, a step goes without after 16 of them, 32 more, and so on, at last one in 256: only such a step
  shows what going without costs today.
"""

from collections.abc import Sequence

from ..engine.types import RequestId
from .adapt import NONE, Depths, DraftingCost, Load, Offer, Wish
from .step_costs import StepCosts

_HURDLE, _STAY = 1.05, 1.02
_PAUSES = 2  # of the device, before a step with drafts and behind it
_PATIENCE = 16  # steps
_PROBE_EVERY = 64  # steps
_FIRST_ASK, _MOST_ASK = 32, 512
_ASK_LENGTH = 3  # steps in a row in which a slow method is tried; the first may find a plan in flight
_ASK_SHARE = 4  # of the decoding requests, one is tried: a batch of drafts costs little more than one
_PROBE_WAIT = 2  # steps: what drafts beside the target comes with the next result
_PROBE_SHARE = 8  # of the decoding requests, one is probed
_FIRST_COMPARE, _COMPARE_EVERY = 16, 256  # steps with drafts
_LOOK_EVERY = 8  # steps, for a slow method that was not worth it while many requests run


class Goodput:
    """See the module's docstring."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._is_on = True
        self._took = False
        self._verified = False  # the step before had drafts, whatever for: the next one waits for its answer
        self._gains = False  # the offers last looked at are worth a change
        self._num_kept = 0  # offers since the last change or the last draft taken
        self._num_off = 0  # steps without asking
        self._num_taken = 0  # steps with drafts since one without was made on purpose
        self._compare_at = _FIRST_COMPARE
        self._asks = _Asks()

    @property
    def wants_drafts(self) -> bool:
        """On, or due to probe; but not where a step without drafts is to show its cost."""
        return self._num_taken < self._compare_at if self._is_on else self._num_off >= _PROBE_EVERY - 1

    @property
    def is_off(self) -> bool:
        """No draft paid lately, and speculators are only asked to probe."""
        return not self._is_on

    # --- drafts to be made --------------------------------------------------------------------------------------------

    def ask(self, wishes: Sequence[Wish], offers: Sequence[Offer], load: Load, cost: DraftingCost) -> Depths:
        """See the module's docstring."""
        asks = self._asks
        asks.num_idle += 1
        if asks.num_idle % _LOOK_EVERY == 0 or asks.num_idle == 1 or len(wishes) < _LOOK_EVERY:
            hurdle = _STAY if asks.num_idle == 1 else _HURDLE
            depths = self._best_ask(wishes, offers, load, cost, hurdle)
            if depths:
                asks.num_idle, asks.probe_every = 0, _PROBE_EVERY
                return depths
        if asks.num_idle < asks.probe_every:
            return NONE
        if asks.num_idle >= asks.probe_every + _ASK_LENGTH - 1:
            asks.num_idle, asks.probe_every = 1, min(2 * asks.probe_every, _MOST_ASK)
        idlest = sorted(wishes, key=lambda wish: -wish.num_idle)
        asks.tried = {wish.request_id: 1 for wish in idlest[: -(-len(wishes) // _ASK_SHARE)]}
        return asks.tried

    def _best_ask(
        self, wishes: Sequence[Wish], offers: Sequence[Offer], load: Load, cost: DraftingCost, hurdle: float
    ) -> Depths:
        """For every depth, the requests that gain most, and of those as many as pay; beside what is held already."""
        rows = load.num_decoding + load.num_prompt_rows
        offered = sum(len(offer.survival) for offer in offers) + sum(len(wish.held) for wish in wishes)
        most = max((len(wish.survival) for wish in wishes), default=0)
        costs = self._costs.span(rows, offered + most * len(wishes))
        best_rate = hurdle * load.num_decoding / (costs[0] + self._pause_s(load))
        tokens = float(load.num_decoding)
        if offered:
            tokens += sum(sum(offer.survival) for offer in offers) + sum(sum(wish.held) for wish in wishes)
            best_rate = max(best_rate, hurdle * tokens / (costs[offered] + _PAUSES * load.overhead_s))
        best: tuple[int, list[tuple[float, Wish]]] = 0, []
        for depth in range(1, most + 1):
            gains = sorted(((sum(wish.survival[:depth]) - sum(wish.held), wish) for wish in wishes), key=_gain)
            gained, num_rows, at = 0.0, offered, 0
            for num in _counts(len(gains)):
                gained += sum(gain for gain, _ in gains[at:num])
                num_rows += sum(depth - len(wish.held) for _, wish in gains[at:num])
                at = num
                step_s = costs[num_rows] + _PAUSES * load.overhead_s + cost(num, depth)
                rate = (tokens + gained) / step_s
                if rate > best_rate:
                    best, best_rate = (depth, gains[:num]), rate
        depth, chosen = best
        return {wish.request_id: min(depth, len(wish.survival)) for _, wish in chosen}

    # --- drafts that are there ----------------------------------------------------------------------------------------

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """See the module's docstring."""
        if not offers or (self._is_on and not self.wants_drafts):
            return NONE
        if not self._is_on:
            return self._choose_at_rest(offers, load)
        num = self._best(offers, load, _STAY if self._took else _HURDLE)
        if num:
            return _deal(offers, num)
        tried = self._asks.tried
        return {offer.request_id: 1 for offer in offers if offer.request_id in tried} if tried else NONE

    def _choose_at_rest(self, offers: Sequence[Offer], load: Load) -> Depths:
        """Sure drafts that pay; and when it is time to probe, what else pays, or a few first drafts of it."""
        sure = [offer for offer in offers if offer.is_sure]
        depths = dict(_deal(sure, self._best(sure, load, _HURDLE))) if sure else NONE
        asked = [offer for offer in offers if not offer.is_sure]
        if not asked or not self.wants_drafts:
            return depths
        num = self._best(asked, load, _HURDLE)
        self._gains = num > 0
        if num:
            return {**depths, **_deal(asked, num)}
        likely = sorted(asked, key=lambda offer: -offer.survival[0])
        return {**depths, **{offer.request_id: 1 for offer in likely[: -(-load.num_decoding // _PROBE_SHARE)]}}

    def _best(self, offers: Sequence[Offer], load: Load, hurdle: float) -> int:
        """How many of the best slots to take; 0 where none beats plain decoding by ``hurdle``."""
        slots = sorted((s for offer in offers for s in offer.survival), reverse=True)
        costs = self._costs.span(load.num_decoding + load.num_prompt_rows, len(slots))
        tokens = float(load.num_decoding)
        best, best_rate = 0, hurdle * tokens / (costs[0] + self._pause_s(load))
        for num, (chance, cost) in enumerate(zip(slots, costs[1:], strict=True), 1):
            tokens += chance
            rate = tokens / (cost + _PAUSES * load.overhead_s)
            if rate > best_rate:
                best, best_rate = num, rate
        return best

    def _pause_s(self, load: Load) -> float:
        """What a step without drafts waits for."""
        return load.overhead_s if self._verified else 0.0

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """On is kept for 16 fruitless offers at least; off until a probe finds a gain."""
        self._asks.tried = NONE
        self._verified = num_taken > 0
        if self._num_taken >= self._compare_at:
            self._num_taken, self._compare_at = 0, min(2 * self._compare_at, _COMPARE_EVERY)
        self._num_taken += num_taken > 0
        if self._is_on:
            self._took = num_taken > 0
            self._num_kept = 0 if self._took else self._num_kept + (num_offers > 0)
            if self._num_kept >= _PATIENCE:
                self._is_on, self._num_off = False, 0
        elif not self.wants_drafts:
            self._num_off += 1
        elif num_offers and self._gains:
            self._is_on, self._took, self._num_kept = True, True, 0
        elif not num_offers and self._num_off < _PROBE_EVERY + _PROBE_WAIT:
            self._num_off += 1
        else:
            self._num_off = 0


class _Asks:
    """Of slow methods: steps since one was last worth asking, and after how many of them one is tried again."""

    __slots__ = ("num_idle", "probe_every", "tried")

    def __init__(self) -> None:
        self.num_idle = 0
        self.tried: Depths = NONE
        """Their drafts are verified in the next step although they are not expected to pay."""
        self.probe_every = _FIRST_ASK


def _gain(gain: tuple[float, Wish]) -> float:
    return -gain[0]


def _counts(num: int) -> list[int]:
    """1, 2, 4, ... and ``num``: how many of so many are tried."""
    return [*(1 << i for i in range((num - 1).bit_length())), num] if num else []


def _deal(offers: Sequence[Offer], num: int) -> Depths:
    """The ``num`` best slots, by request. Chances of a request fall, so its slots are taken from the front."""
    slots = sorted(((-s, place) for place, offer in enumerate(offers) for s in offer.survival))
    depths: dict[RequestId, int] = {}
    for _, place in slots[:num]:
        request_id = offers[place].request_id
        depths[request_id] = depths.get(request_id, 0) + 1
    return depths
