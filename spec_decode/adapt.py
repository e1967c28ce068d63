"""Who gets how many drafts in the next step, none included; and who is worth asking a speculator for that takes time.

The protocol of a policy, and the two that learn nothing; the one that weighs gains against costs is in ``goodput.py``.
Pure: no clock, no torch, no randomness.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..engine.types import RequestId


class Offer(NamedTuple):
    """Drafts that could be verified for one request: the chance that each is accepted, falling."""

    request_id: RequestId
    survival: Sequence[float]
    is_sure: bool = False
    """Found for nothing and as good as certain, as what a grammar forces: weighed even while speculation rests."""


class Load(NamedTuple):
    """What the step holds without drafts."""

    num_decoding: int
    num_prompt_rows: int
    """Prompt tokens computed beside; they cost, and commit nothing."""
    overhead_s: float
    """Lost when the step must wait for the one before, as it must to verify drafts."""


class Wish(NamedTuple):
    """A request for which drafts could be made, at a price: the chances that each would be accepted, falling."""

    request_id: RequestId
    survival: Sequence[float]
    num_idle: int
    """Steps since drafts were last made for it."""
    held: Sequence[float] = ()
    """The chances of drafts that an earlier method has for it, in whose place those to be made would come."""


Depths: TypeAlias = Mapping[RequestId, int]
DraftingCost: TypeAlias = Callable[[int, int], float]
"""(requests, depth) -> seconds that the step waits for drafts."""
NONE: Depths = {}


class Policy(Protocol):
    """Decides; it never proposes and never looks at a token."""

    @property
    def wants_drafts(self) -> bool:
        """Are speculators to be asked before the next step? Sure drafts are offered without being asked for."""
        ...

    @property
    def is_off(self) -> bool:
        """Does speculation rest, for longer than a step?"""
        ...

    def ask(self, wishes: Sequence[Wish], offers: Sequence[Offer], load: Load, cost: DraftingCost) -> Depths:
        """How many drafts are to be made for each request by a method for which the step waits.

        ``offers`` are there for other requests; what is there for those of ``wishes``, these hold.

        Called at most once a step for each such method.
        """
        ...

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """Drafts of each request; those left out get none. Asked as often as needed: only ``stepped`` counts."""
        ...

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """A step was planned, with so many offers and drafts taken."""
        ...


class Fixed:
    """Always all that is offered, up to ``depth`` a request."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self.wants_drafts = depth > 0
        self.is_off = depth <= 0

    def ask(self, wishes: Sequence[Wish], offers: Sequence[Offer], load: Load, cost: DraftingCost) -> Depths:
        """All that will be verified."""
        return {wish.request_id: min(self._depth, len(wish.survival)) for wish in wishes}

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """The same for all."""
        return {offer.request_id: min(self._depth, len(offer.survival)) for offer in offers} if self._depth else NONE

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """Nothing is learnt."""


class Table:
    """By the number of decoding requests: rows of [least, most, depth], the first that fits."""

    wants_drafts = True
    is_off = False

    def __init__(self, rows: Sequence[tuple[int, int, int]]) -> None:
        self._rows = list(rows)

    def ask(self, wishes: Sequence[Wish], offers: Sequence[Offer], load: Load, cost: DraftingCost) -> Depths:
        """All that will be verified."""
        depth = self._depth(load)
        return {wish.request_id: min(depth, len(wish.survival)) for wish in wishes} if depth else NONE

    def _depth(self, load: Load) -> int:
        return next((k for least, most, k in self._rows if least <= load.num_decoding <= most), 0)

    def choose(self, offers: Sequence[Offer], load: Load) -> Depths:
        """The same for all."""
        depth = self._depth(load)
        return {offer.request_id: min(depth, len(offer.survival)) for offer in offers} if depth else NONE

    def stepped(self, num_offers: int, num_taken: int) -> None:
        """Nothing is learnt."""
