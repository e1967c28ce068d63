"""How many drafts each request gets in the next step, none included. Pure: no clock, no torch, no randomness.

The aim is committed tokens per second of the whole step: (decoding requests + chances of the drafts taken) / cost. The
budget is the step's, the slots are the requests': all slots of all requests stand in one line, best chance first, and
every length of that line is looked at, because costs have steps.

Calm: with no draft in the last step, drafts are taken only for a gain above 5 %. When 16 offers in a row were worth
nothing, the speculators are not even asked any more; one step in 64 then asks, and tries a few first drafts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..engine.types import RequestId
from .step_costs import StepCosts

_HURDLE = 1.05
_PATIENCE = 16  # steps
_PROBE_EVERY = 64  # steps
_PROBE_SHARE = 8  # of the decoding requests, one is probed


class Offer(NamedTuple):
    """Drafts that could be verified for one request: the chance that each is accepted, falling."""

    request_id: RequestId
    survival: Sequence[float]


class Load(NamedTuple):
    """What the step holds without drafts."""

    num_decoding: int
    num_prompt_rows: int
    """Prompt tokens computed beside; they cost, and commit nothing."""
    overhead_s: float
    """Lost when the step must wait for the one before, as it must to verify drafts."""


Depths = Mapping[RequestId, int]
NONE: Depths = {}


class Policy(Protocol):
    """Decides; it never proposes and never looks at a token."""

    @property
    def wants_drafts(self) -> bool:
        """Are speculators to be asked before the next step?"""
        ...

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """Drafts of each request; those left out get none. Asked as often as needed: only ``stepped`` counts."""
        ...

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """A step was planned, with so many offers and drafts taken."""
        ...


class Fixed:
    """Always all that is offered, up to ``depth`` a request."""

    wants_drafts = True

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self.wants_drafts = depth > 0

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """The same for all."""
        return {offer.request_id: min(self._depth, len(offer.survival)) for offer in offers} if self._depth else NONE

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """Nothing is learnt."""


class Table:
    """By the number of decoding requests: rows of [least, most, depth], the first that fits."""

    wants_drafts = True

    def __init__(self, rows: Sequence[tuple[int, int, int]]) -> None:
        self._rows = list(rows)

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """The same for all."""
        depth = next((k for least, most, k in self._rows if least <= load.num_decoding <= most), 0)
        return {offer.request_id: min(depth, len(offer.survival)) for offer in offers} if depth else NONE

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """Nothing is learnt."""


class Goodput:
    """See the module's docstring."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._is_on = True
        self._took = False
        self._gains = False  # the offers last looked at are worth a change
        self._num_kept = 0  # offers since the last change or the last draft taken
        self._num_off = 0  # steps without asking

    @property
    def wants_drafts(self) -> bool:
        """On, or due to probe."""
        return self._is_on or self._num_off >= _PROBE_EVERY - 1

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """See the module's docstring."""
        if not offers or not self.wants_drafts:
            return NONE
        num = self._best(offers, load, 1.0 if self._took else _HURDLE)
        self._gains = num > 0
        if num:
            return _deal(offers, num)
        if self._is_on:
            return NONE
        likely = sorted(offers, key=lambda offer: -offer.survival[0])
        return {offer.request_id: 1 for offer in likely[: -(-load.num_decoding // _PROBE_SHARE)]}

    def _best(self, offers: Sequence[Offer], load: Load, hurdle: float) -> int:
        """How many of the best slots to take; 0 where none beats plain decoding by ``hurdle``."""
        slots = sorted((s for offer in offers for s in offer.survival), reverse=True)
        costs = self._costs.span(load.num_decoding + load.num_prompt_rows, len(slots))
        tokens = float(load.num_decoding)
        best, best_rate = 0, hurdle * tokens / costs[0]
        for num, (chance, cost) in enumerate(zip(slots, costs[1:], strict=True), 1):
            tokens += chance
            rate = tokens / (cost + load.overhead_s)
            if rate > best_rate:
                best, best_rate = num, rate
        return best

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """On is kept for 16 fruitless offers at least; off until a probe finds a gain."""
        if self._is_on:
            self._took = num_taken > 0
            self._num_kept = 0 if self._took else self._num_kept + (num_offers > 0)
            if self._num_kept >= _PATIENCE:
                self._is_on, self._num_off = False, 0
        elif not self.wants_drafts:
            self._num_off += 1
        elif num_offers and self._gains:
            self._is_on, self._took, self._num_kept = True, True, 0
        else:
            self._num_off = 0


def _deal(offers: Sequence[Offer], num: int) -> Depths:
    """The ``num`` best slots, by request. Chances of a request fall, so its slots are taken from the front."""
    slots = sorted(((-s, place) for place, offer in enumerate(offers) for s in offer.survival))
    depths: dict[RequestId, int] = {}
    for _, place in slots[:num]:
        request_id = offers[place].request_id
        depths[request_id] = depths.get(request_id, 0) + 1
    return depths
