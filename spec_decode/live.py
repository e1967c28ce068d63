"""One open request as the proposer sees it, and a method at work. Plain fields; ``proposer.py`` alone writes them."""

from typing import NamedTuple

from ..engine.types import RequestId, SamplingParams
from .base import Speculator
from .rates import RequestRates
from .tally import RequestTally


class Method(NamedTuple):
    """A configured method at work in this process."""

    name: str
    speculator: Speculator


class Wait:
    """How long steps wait for one method. Seconds on the proposer's clock."""

    __slots__ = ("asked_s", "expected_s", "landed_s", "share")

    def __init__(self) -> None:
        self.asked_s = self.landed_s = -1.0
        self.expected_s = 0.0
        self.share = 1.0
        """Of what drafting takes, how much a step waits for: all of it, unless drafts are made ahead."""

    def begin(self, now_s: float, expected_s: float) -> None:
        """Drafts are asked for now, and should take so long."""
        self.asked_s = now_s
        self.expected_s = expected_s


class Live:
    """An open request. ``length`` counts committed tokens."""

    __slots__ = (
        "ahead", "always_report", "confidence", "epoch", "has_begun", "in_flight", "is_forced", "length", "methods",
        "most", "num_idle", "num_left", "params", "parents", "pending", "prediction", "prompt", "rates", "request_id",
        "salt", "source", "started", "tally", "verifying", "waiting",
    )  # fmt: skip

    def __init__(self, request_id: RequestId, prompt: list[int], params: SamplingParams, num_left: int) -> None:
        self.request_id = request_id
        self.params = params
        self.prompt = prompt
        """Until its speculators know it; output that it goes on behind is part of it."""
        self.salt = ""
        self.prediction: list[int] = []
        self.num_left = num_left
        """Output tokens still allowed."""
        self.num_idle = 0
        """Steps since a slow method was asked for it."""
        self.length = len(prompt)
        self.epoch = 0
        self.methods: list[Method] = []
        self.is_forced = False
        """What its grammar forces is drafted, whatever the methods are."""
        self.most = 0
        """Drafts for a step; 0 = no speculation."""
        self.always_report = False
        self.has_begun = False
        """Its speculators know it."""
        self.started = False
        self.in_flight = 0
        """Unanswered rows that yield."""
        self.pending: list[int] = []
        """Committed, not yet told to the speculators."""
        self.waiting: list[int] = []
        """Drafts that the core keeps for its next step."""
        self.confidence: list[float] | None = None
        self.source = ""
        self.parents: list[int] | None = None
        """Of a tree that waits; None = a chain."""
        self.ahead = False
        """The waiting drafts begin with tokens of an unanswered step."""
        self.verifying: tuple[RequestRates, str, list[float] | None] | None = None
        """Of the drafts in an unanswered plan: where to book, the method, its confidence."""
        self.rates: dict[str, RequestRates] = {}
        self.tally: RequestTally | None = None
