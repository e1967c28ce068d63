"""One request as the core sees it: its tokens, how far they are computed, and where it is in its life.

Knows no queue, no pool and no plan; only ``scheduler.py`` and what it owns write to it. Positions of a running one::

    0 ....... num_computed-1 | ....... num_planned-1 | ....... num_tokens-1 | ... num_known-1
    KV committed and computed| in unanswered plans   | committed, to be fed | certain to come, still on the device

``num_known`` is above ``num_tokens`` only by the tokens that unanswered rows without drafts will yield. While a row
with drafts is unanswered (``verifying``) the next position is uncertain: ``num_known`` stands still, the request waits.
"""

from collections.abc import Container
from enum import Enum

from ..types import RequestId, SamplingParams, TokenIds
from .plan import Drafts, TokenLogprobs
from .prefix import chain_root
from .stop import StopRules


class State(Enum):
    """Where a request is in its life."""

    FORKING = "forking"  # waits for the prompt of the request it forks
    QUEUED = "queued"
    PREFILLING = "prefilling"  # holds blocks; some of its known tokens are in no plan yet
    DECODING = "decoding"  # holds blocks; one token, and drafts, at a time
    ENDED = "ended"


MOVES: dict[State, frozenset[State]] = {
    State.FORKING: frozenset({State.QUEUED, State.ENDED}),
    State.QUEUED: frozenset({State.PREFILLING, State.ENDED}),
    State.PREFILLING: frozenset({State.DECODING, State.QUEUED, State.ENDED}),
    State.DECODING: frozenset({State.QUEUED, State.ENDED}),
    State.ENDED: frozenset(),
}
"""The lifecycle: every change of state there is. A move back to QUEUED is a preemption."""

ENDED_EPOCH = -1
"""Matches no row, so that late results of an ended request are dropped by the one comparison that drops old epochs."""


class Request:
    """The state of one request. Plain fields: the step loop touches hundreds of these within microseconds."""

    __slots__ = (
        "after", "arrival_s", "blocks", "cache_salt", "chain", "children", "deadline_s", "died_at", "drafts", "epoch",
        "fork_of", "is_open", "last_step", "max_len", "num_cached", "num_computed", "num_deaths", "num_known",
        "num_lost", "num_matched", "num_planned", "num_prompt", "num_published", "params", "prompt_logprobs",
        "quarantined", "queue_s", "rank", "request_id", "reserved", "started", "state", "stop", "tokens", "verifying",
    )  # fmt: skip

    def __init__(
        self,
        request_id: RequestId,
        prompt_ids: TokenIds,
        output_ids: TokenIds,
        params: SamplingParams,
        *,
        rank: tuple[int, int],
        arrival_s: float,
        deadline_s: float | None,
        cache_salt: str,
        fork_of: RequestId | None,
        state: State,
        max_model_len: int,
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.rank = rank
        """(priority, order of arrival): lower goes first. Never changes."""
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.cache_salt = cache_salt
        self.fork_of = fork_of
        self.children: list[Request] = []
        """Requests that wait for this one's prompt."""

        self.state = state
        self.epoch = 0
        self.tokens = prompt_ids + output_ids
        """Committed: prompt, then output."""
        self.num_prompt = len(prompt_ids)
        self.stop = StopRules(params, self.num_prompt, max_model_len)
        self.max_len = self.num_prompt + self.stop.max_output

        self.num_known = len(self.tokens)
        self.num_planned = 0
        self.num_computed = 0
        self.num_matched = 0
        """Tokens whose KV was found, not computed, in this epoch."""
        self.num_lost = 0
        """Tokens computed in earlier epochs, for nothing."""
        self.after = -1
        """Step of the unanswered row that yields the newest known token; -1 = that token is committed."""
        self.last_step = -1
        """Last step with a row of this request."""
        self.verifying = False

        self.blocks: list[int] = []
        self.reserved = 0
        """Blocks still to be taken for the known tokens while prefilling."""
        self.chain = [chain_root(cache_salt)]
        self.num_published = 0
        """Leading blocks of the table that are published or were found."""

        self.drafts: Drafts | None = None
        self.quarantined: frozenset[str] = frozenset()
        """Sources of drafts that broke the rules for this request."""

        self.num_deaths = 0
        """Of targets in a row with this request in an unanswered plan and at the same token; see ``suspects.py``."""
        self.died_at = -1
        """Tokens it had at the last of these."""

        self.is_open = False
        """The target holds state for it."""
        self.started = False
        """The first output was sent."""
        self.num_cached = 0
        self.queue_s: float | None = None
        """None until it is first planned."""
        self.prompt_logprobs: list[TokenLogprobs] | None = None
        """Gathered for the first output. A request that goes on behind earlier output sent its own long ago."""
        if params.prompt_logprobs is not None and not output_ids:
            self.prompt_logprobs = []

    @property
    def num_output(self) -> int:
        """Committed output tokens."""
        return len(self.tokens) - self.num_prompt

    @property
    def sunk(self) -> int:
        """Tokens of work put into this request so far, over all its epochs. It never falls."""
        return self.num_lost + self.num_computed - self.num_matched

    @property
    def reads_cache(self) -> bool:
        """False where every prompt position must be computed: prompt logprobs are wanted, or the mean of all states."""
        pooling = self.params.pooling
        return self.prompt_logprobs is None and (pooling is None or pooling.kind == "last")

    def enter(self, state: State) -> None:
        """Move along the lifecycle table."""
        if state not in MOVES[self.state]:
            raise AssertionError(f"request {self.request_id} cannot go from {self.state.value} to {state.value}")
        self.state = state

    def restart(self) -> None:
        """Begin a new epoch with no block and nothing computed; tokens stay."""
        self.epoch += 1
        self.num_lost = self.sunk
        self.num_known = len(self.tokens)
        self.num_planned = self.num_computed = self.num_matched = self.num_published = 0
        self.after = -1
        self.verifying = False
        self.drafts = None

    def check(self, open_steps: Container[int]) -> None:
        """The position map of this module, and what each state promises.

        Raises:
            AssertionError: with the request's numbers.
        """
        tokens, known, planned, computed = len(self.tokens), self.num_known, self.num_planned, self.num_computed
        where = f"request {self.request_id} ({self.state.value}): {tokens=} {known=} {planned=} {computed=}"
        if not computed <= planned or not self.num_prompt <= tokens <= known <= self.max_len or computed > tokens:
            raise AssertionError(f"{where}: out of order")
        if (known > tokens) != (self.after >= 0) or (self.after >= 0 and self.after not in open_steps):
            raise AssertionError(f"{where}: newest token expected of step {self.after}, which is not open")
        in_flight = self.last_step in open_steps
        match self.state:
            case State.PREFILLING:
                fits = planned < known == tokens and not self.verifying and bool(self.blocks)
            case State.DECODING if self.verifying:
                fits = planned > known == tokens and in_flight
            case State.DECODING:
                fits = planned == min(known, self.max_len) - (known > self.num_prompt) and self.reserved == 0
            case _:
                fits = not (planned or self.blocks or self.reserved or self.verifying or self.is_open)
        if not fits or (planned > computed and self.blocks and not in_flight):
            raise AssertionError(f"{where}: not as its state promises")
