"""The scheduler's end of a head beside the target: a ``Speculator`` whose drafts come with the target's results.

Nothing is sent for it: what to draft is written into the plans, row by row, for those requests for which drafts were
wanted since the last plan. So a head whose drafts nobody wants does no more than keep up; one that no open request may
use, not even that. Asking and answering take one step, so the first drafts of a request are there one step later.

Knows no tensor. No torch.
"""

from bisect import bisect_left
from collections.abc import Container, Sequence

import msgspec

from ..engine import plugins
from ..engine.config import Config, method_config
from ..engine.core.plan import Drafts, StepPlan
from ..engine.errors import ConfigError
from ..engine.types import RequestId, SamplingParams
from ..spec_decode.base import Caps, Outcome, ProposeReq, StepBudget


class HeadLink:
    """See the module's docstring."""

    def __init__(self, name: str, max_draft_tokens: int, *, is_tree: bool = False, seeded: bool = True) -> None:
        """``name``: the method's."""
        self.caps = Caps(
            needs=frozenset({"tokens", "hidden"}),
            topology="tree" if is_tree else "chain",
            max_tokens=max_draft_tokens,
            lookahead_slots=max_draft_tokens,
            seeded=seeded,
        )
        self.name = name
        self._wanted: dict[RequestId, int] = {}
        """Of every open request, drafts to ask for with its next row that yields."""
        self._landed: dict[RequestId, Drafts] = {}
        self._costs: list[tuple[int, float]] = []
        self._counts: dict[str, int] = dict.fromkeys(("asked", "answered"), 0)

    # --- the target ---------------------------------------------------------------------------------------------------

    def meet(self, costs: list[tuple[int, float]]) -> None:
        """A target is there: (requests, seconds of one draft for each), as it measured."""
        self._costs = costs
        self._landed.clear()

    def ask(self, plan: StepPlan) -> StepPlan:
        """``plan`` as it goes to the target: with what to draft behind each row."""
        asks = [self._wanted.get(row.request_id, -1) for row in plan.rows]
        if all(depth < 0 for depth in asks):
            return plan
        for place, row in enumerate(plan.rows):
            if not row.yields:
                asks[place] = min(asks[place], 0)
            elif asks[place] > 0:
                self._wanted[row.request_id] = 0
                self._counts["asked"] += 1
        return msgspec.structs.replace(plan, asks=asks)

    def land(self, found: Sequence[Drafts]) -> None:
        """What came with a result; it waits for ``propose``."""
        for drafts in found:
            if drafts.request_id in self._wanted:
                self._landed[drafts.request_id] = msgspec.structs.replace(drafts, source=self.name)
                self._counts["answered"] += 1

    def left(self, but: Container[RequestId]) -> list[Drafts]:
        """What landed and was not proposed: tried drafts of a policy that asks no more. Not for requests in ``but``."""
        left = [drafts for drafts in self._landed.values() if drafts.request_id not in but]
        self._landed.clear()
        return left

    # --- what a speculator is told ------------------------------------------------------------------------------------

    def open(
        self,
        request_id: RequestId,
        prompt: Sequence[int],
        params: SamplingParams,
        epoch: int,
        *,
        cache_salt: str = "",
        prediction: Sequence[int] = (),
    ) -> None:
        """The head sees what the target sees, and nothing of other requests; the first drafts come with the prompt."""
        self._wanted[request_id] = self.caps.max_tokens

    def observe(self, batch: Sequence[Outcome]) -> None:
        """The head is told by the target's runner."""

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """The stamps of its drafts tell."""

    def close(self, request_id: RequestId) -> None:
        """The request has ended."""
        self._wanted.pop(request_id, None)
        self._landed.pop(request_id, None)

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """What came with the last result for these, and an order for the next."""
        answers: list[Drafts] = []
        for ask in batch:
            if ask.request_id not in self._wanted:
                continue
            self._wanted[ask.request_id] = min(ask.depth, budget.max_depth, self.caps.max_tokens)
            drafts = self._landed.pop(ask.request_id, None)
            if drafts is not None and (drafts.epoch, drafts.base_len) == (ask.epoch, ask.base_len):
                answers.append(drafts)
        return answers

    # --- facts --------------------------------------------------------------------------------------------------------

    def cost(self, num_requests: int, depth: int) -> float:
        """Seconds, as the target measured at its start; those of the next wider batch that it measured."""
        if not self._costs:
            return 0.0
        place = min(bisect_left([width for width, _ in self._costs], num_requests), len(self._costs) - 1)
        return depth * self._costs[place][1]

    def stats(self) -> dict[str, int]:
        """Requests ``asked`` for and ``answered``."""
        return self._counts.copy()

    def warmup(self) -> None:
        """The target warms its head."""


def head_method(config: Config) -> str | None:
    """The configured method that is placed beside the target; None where there is none.

    Raises:
        ConfigError: there are several.
    """
    section = config.speculation
    names = [n for n in section.methods if plugins.load("spec_decode.speculators", n).PLACEMENT == "target"]
    if len(names) > 1:
        raise ConfigError(f"speculation.methods: {' and '.join(names)} all run beside the target; leave one of them")
    return names[0] if names and section.max_draft_tokens else None


def make_head_link(config: Config) -> HeadLink | None:
    """The scheduler's end of the head; None where none is configured.

    Raises:
        ConfigError: several are.
    """
    name = head_method(config)
    if name is None:
        return None
    section = config.speculation
    is_coupled = section.rule == "coupled"
    is_tree = is_coupled and getattr(method_config(section, name), "width", 1) > 1
    return HeadLink(name, section.max_draft_tokens, is_tree=is_tree, seeded=is_coupled)
