"""A target with a given table of step costs and drafts of a given acceptance, driven by the real proposer and policy.

Time is counted, not measured: a step takes what the table says for its rows, a verified step waits for the one before
and pays the pause between them, a slow speculator's drafts are waited for. What the policy knows of all that is what a
server's would: a table with errors, noisy times of real steps, and the answers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.engine.core.plan import Drafts, RequestOutput, Row, RowResult, StepPlan, StepResult
from paceline.engine.types import RequestId, SamplingParams
from paceline.spec_decode.adapt import Policy
from paceline.spec_decode.base import Caps, Outcome, ProposeReq, StepBudget
from paceline.spec_decode.live import Method
from paceline.spec_decode.proposer import Proposer
from paceline.spec_decode.step_costs import StepCosts

STEP_S = 0.020
PAUSE_S = 0.0008
"""Between a result and the step that had to wait for it."""
Shape = Callable[[int], float]
"""Rows -> what a step costs, one row = 1."""


@dataclass(frozen=True)
class Case:
    """One load: ``alpha`` is the chance that a draft is accepted, given that all before it were."""

    num_requests: int
    alpha: float
    draft_cost: float
    """Of one draft for the whole batch, as a share of a one-row step."""
    shape: Shape
    most: int = 8
    noise: float = 0.05
    seed: int = 0


class SimSpeculator:
    """Always has drafts; takes ``draft_cost`` a draft, during which the clock goes on."""

    def __init__(self, case: Case, wait: Callable[[float], None]) -> None:
        self.caps = Caps(max_tokens=case.most, lookahead_slots=case.most)
        self._case = case
        self._wait = wait

    def open(self, request_id: RequestId, prompt: Sequence[int], params: SamplingParams, epoch: int, **_: object):
        """Nothing to know."""

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """Always the same token; how often it is the target's is the case's."""
        self._wait(self.cost(len(batch), max(ask.depth for ask in batch)))
        return [Drafts(a.request_id, a.epoch, a.base_len, [1] * a.depth) for a in batch if a.depth]

    def observe(self, batch: Sequence[Outcome]) -> None:
        """Nothing to learn."""

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """Nothing to undo."""

    def close(self, request_id: RequestId) -> None:
        """Nothing to forget."""

    def cost(self, num_requests: int, depth: int) -> float:
        """A batch costs as one request does."""
        return depth * self._case.draft_cost * STEP_S

    def stats(self) -> dict[str, int]:
        """None."""
        return {}

    def warmup(self) -> None:
        """Nothing to warm."""


def tokens_a_second(case: Case, policy_of: Callable[[StepCosts], Policy] | None, num_steps: int = 600) -> float:
    """Committed tokens a second; ``policy_of`` None = without speculation."""
    rng = random.Random(case.seed)
    clock = [0.0]

    def step_s(rows: int) -> float:
        return STEP_S * case.shape(rows)

    if policy_of is None:
        return case.num_requests / step_s(case.num_requests)
    widths = [1, 2, 4, 8, 9, 16, 32, 64, 128, 256, 576]
    table = StepCosts([(rows, step_s(rows) * rng.uniform(1 - case.noise, 1 + case.noise)) for rows in widths])

    def wait(seconds: float) -> None:
        clock[0] += seconds

    speculator = SimSpeculator(case, wait)
    proposer = Proposer([Method("sim", speculator)], policy_of(table), table, case.most, clock=lambda: clock[0])
    params = SamplingParams(max_tokens=1 << 30, temperature=0.0)
    names = [f"r{i}" for i in range(case.num_requests)]
    lengths = dict.fromkeys(names, 1)
    texts: dict[RequestId, list[int]] = {name: [1] for name in names}  # as far as it was looked at; drafts are all 1
    for name in names:
        proposer.open(name, [1], params)
    num_tokens, device_free_s, flights = 0, 0.0, []

    def send(plan: StepPlan, rows: int) -> None:
        nonlocal device_free_s
        began_s = max(device_free_s, clock[0] + PAUSE_S)
        if flights:
            began_s = device_free_s  # it lay there already
        device_free_s = began_s + step_s(rows)
        flights.append((plan, device_free_s, step_s(rows) * rng.uniform(1 - case.noise, 1 + case.noise)))
        proposer.sent(plan)

    def plan_next(number: int) -> bool:
        for drafts in proposer.propose():
            if lengths[drafts.request_id] == drafts.base_len:
                proposer.landed(drafts, drafts.token_ids)
        depths = proposer.depths()
        if len(flights) == 2 or proposer.waits(depths):
            return False
        after = len(flights)
        rows = [Row(n, 0, lengths[n] - 1 + after, 1, 0, [], True, -1, [1] * depths.get(n, 0)) for n in names]
        send(StepPlan(number, [], [], rows), len(names) + sum(depths.values()))
        return True

    number = 0
    for _ in range(num_steps):
        while plan_next(number):
            number += 1
        plan, done_s, told_s = flights.pop(0)
        clock[0] = max(clock[0], done_s)
        results, outputs = [], []
        for row in plan.rows:
            name, length, text = row.request_id, lengths[row.request_id], texts[row.request_id]
            while len(text) <= length + len(row.draft_ids):
                text.append(int(rng.random() < case.alpha))
            accepted = 0
            while accepted < len(row.draft_ids) and text[length + accepted]:
                accepted += 1
            ids = text[length : length + accepted + 1]
            results.append(RowResult(name, 0, ids, accepted))
            outputs.append(RequestOutput(name, length, ids))
            lengths[name] += len(ids)
            num_tokens += len(ids)
        proposer.applied(plan, StepResult(plan.step, results, told_s), outputs)
    return num_tokens / clock[0]
