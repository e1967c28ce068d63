"""What a head knows depends on the tokens it saw, never on how the steps were cut or whether it was asked between."""

import random
from typing import Any

import head_runs
import pytest
import tiny_heads
import torch

from paceline.engine.core.plan import Drafts, NewRequest, Row, StepPlan
from paceline.engine.execution.observe import Seen
from paceline.engine.types import SamplingParams
from paceline.kernels.noise import exponentials as noise_of
from paceline.spec_decode.heads.head import Guarded, measure

GREEDY = SamplingParams(max_tokens=60, temperature=0.0)


class Steps:
    """Shows a head the steps of one request. ``at`` = positions that were fed."""

    def __init__(self, head: Any, target: Any, ids: list[int], *, num_prompt: int, name: str = "r", **params: Any):
        self.head, self.ids, self.name, self.num_prompt, self.at = head, ids, name, num_prompt, 0
        layer_ids = [i + 1 for i in head.wanted_layers]
        self.hidden, self.layers = tiny_heads.states(target.model, ids, layer_ids)
        params = {"max_tokens": 60, "temperature": 0.0} | params
        head.opened(NewRequest(name, 0, ids[:num_prompt], num_prompt, [], SamplingParams(**params)))

    @torch.inference_mode()
    def step(self, num: int, asked: int) -> Drafts | None:
        """Feed ``num`` positions more."""
        start, end = self.at, self.at + num
        yields = end >= self.num_prompt
        shown = {layer - 1: states[start:end] for layer, states in self.layers.items()}
        seen = Seen(self.name, 0, start, self.ids[start:end], self.ids[end], yields, self.hidden[start:end], shown)
        self.head.observe([seen])
        row = Row(self.name, 0, start, num, 0, [], yields)
        found = self.head.propose(StepPlan(0, [], [], [row], [asked]))
        self.head.check()
        self.at = end
        return found[0] if found else None


def text(target: Any, which: int = 0) -> tuple[list[int], int]:
    wrote = target.wrote[which]
    return wrote.prompt + wrote.output, len(wrote.prompt)


@pytest.mark.parametrize("seed", range(3))
def test_drafts_do_not_depend_on_the_steps_before(target: Any, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    ids, num_prompt = text(target, 3)
    made = lambda: head_runs.build(kind.partition("-")[0], target.heads[kind], target.model)  # noqa: E731
    many = Steps(made(), target, ids, num_prompt=num_prompt)
    while many.at < num_prompt - 1:
        many.step(min(rng.randint(1, 4), num_prompt - 1 - many.at), 0)
    while many.at < 34:
        many.step(rng.randint(1, 3), rng.choice([0, 0, 2, 4]))
    drafts = many.step(1, 4)
    once = Steps(made(), target, ids, num_prompt=num_prompt).step(many.at, 4)
    assert drafts is not None and once is not None and drafts.confidence and once.confidence
    assert (once.token_ids, once.base_len) == (drafts.token_ids, drafts.base_len) == (drafts.token_ids, many.at + 1)
    assert once.confidence == pytest.approx(drafts.confidence, rel=1e-4)  # torch's fp32 products are not row-invariant


@pytest.mark.parametrize("kind", ["eagle", "eagle-3"])
def test_unasked_it_keeps_up_in_small_lots(target: Any, kind: str) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build("eagle", target.heads[kind], target.model)
    steps = Steps(head, target, ids, num_prompt=num_prompt)
    steps.step(num_prompt, 0)
    fed = []
    for _ in range(36):
        assert steps.step(1, 0) is None
        fed.append(head._followed["r"].num_fed)
    assert sorted(set(fed)) == [0, 16, 32]


@pytest.mark.parametrize("kind", ["eagle", "eagle-3"])
def test_left_alone_it_does_nothing_and_begins_later_with_what_comes(target: Any, kind: str) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build("eagle", target.heads[kind], target.model)
    steps = Steps(head, target, ids, num_prompt=num_prompt)
    for num in (num_prompt, 1, 1, 1, 1):
        assert steps.step(num, -1) is None
    assert not head._followed
    drafts = steps.step(1, 4)
    assert drafts is not None and len(drafts.token_ids) == 4
    assert (head._followed["r"].begin, head._followed["r"].num_fed) == (num_prompt + 4, 1)


def test_a_prefix_from_the_cache_is_never_seen(target: Any) -> None:
    ids, num_prompt = text(target, 3)
    head = head_runs.build("eagle", target.heads["eagle"], target.model)
    steps = Steps(head, target, ids, num_prompt=num_prompt)
    steps.at = 5
    drafts = steps.step(num_prompt - 5, 2)
    assert drafts is not None and head._followed["r"].begin == 5


def test_idle_requests_give_up_their_pages_and_begin_anew(target: Any) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build("eagle", target.heads["eagle"], target.model, pool=6)
    a, b = (Steps(head, target, ids, num_prompt=num_prompt, name=name) for name in "ab")
    a.step(30, 2)
    b.step(30, 2)
    assert head._pages.blocks.num_evictions == 1
    drafts = a.step(1, 2)
    assert drafts is not None and drafts.base_len == 32
    assert head._followed["a"].begin == 30
    head.closed("a")
    head.closed("b")
    head.closed("b")
    assert head._pages.blocks.count("a") == head._pages.blocks.count("b") == 0
    head.check()


def test_a_request_too_long_for_the_pool_drafts_from_its_latest_tokens(target: Any) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build("eagle", target.heads["eagle"], target.model, pool=2)
    steps = Steps(head, target, ids, num_prompt=num_prompt)
    found = [steps.step(1, 2) for _ in range(38)]
    assert sum(drafts is not None for drafts in found) > 25
    assert head._followed["r"].num_fed <= 16


def test_no_drafts_beyond_the_longest_request(target: Any, kind: str) -> None:
    ids, num_prompt = text(target)
    method = kind.partition("-")[0]
    head = head_runs.build(method, target.heads[kind], target.model, max_model_len=22)
    steps = Steps(head, target, ids, num_prompt=num_prompt)
    lengths = {}
    for num in (num_prompt, *[1] * 17):
        drafts = steps.step(num, 3)
        lengths[steps.at + 1] = len(drafts.token_ids) if drafts else 0
    assert [lengths[b] for b in (17, 18, 19, 20, 21)] == [3, 3, 2, 1, 0]


def test_drafts_are_processed_like_the_targets_choices(target: Any, kind: str) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build(kind.partition("-")[0], target.heads[kind], target.model)
    free = Steps(head, target, ids, num_prompt=num_prompt).step(20, 3)
    assert free is not None
    few = sorted(set(range(512)) - set(free.token_ids))[::2]
    bound = Steps(head, target, ids, num_prompt=num_prompt, name="b", allowed_token_ids=few).step(20, 3)
    assert bound is not None and len(bound.token_ids) == 3 and set(bound.token_ids) <= set(few)
    # A chain goes no further behind an end.
    ended = Steps(head, target, ids, num_prompt=num_prompt, name="e", stop_token_ids=[free.token_ids[0]]).step(20, 3)
    assert ended is not None and ended.token_ids[0] == free.token_ids[0]
    assert kind == "medusa" or len(ended.token_ids) == 1


@pytest.mark.parametrize("rule", ["coupled", "token"])
def test_drafts_are_drawn_with_the_noise_of_their_own_position(target: Any, rule: str) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build("eagle", target.heads["eagle"], target.model, rule=rule)
    raw: list[torch.Tensor] = []

    def logits(states: torch.Tensor) -> torch.Tensor:
        raw.append(target.model.logits(states)[0].clone())
        return target.model.logits(states)

    head._target_logits = logits
    drafts = Steps(head, target, ids, num_prompt=num_prompt, temperature=0.7, seed=11).step(20, 4)
    assert drafts is not None
    positions = torch.arange(21, 25)
    noise = -noise_of(torch.full((4,), 11), positions, 512).log()
    best = torch.stack(raw) / 0.7 + (noise if rule == "coupled" else 0)
    assert drafts.token_ids == best.argmax(-1).tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_medusas_drafts_too(target: Any, width: int) -> None:
    ids, num_prompt = text(target)
    head = head_runs.build("medusa", target.heads["medusa"], target.model, width=width, max_draft_tokens=6)
    steps = Steps(head, target, ids, num_prompt=num_prompt, temperature=0.7, seed=11)
    drafts = steps.step(20, 6)
    assert drafts is not None
    raw = head._net(steps.hidden[19:20], 3)[0]
    best = raw / 0.7 - noise_of(torch.full((3,), 11), torch.arange(21, 24), 512).log()
    by_depth = best.topk(width).indices.tolist()
    if drafts.parents is None:
        assert drafts.token_ids == [best_id for (best_id,) in by_depth]
        return
    depths: list[int] = []
    for node, parent in enumerate(drafts.parents):
        depths.append(0 if parent < 0 else depths[parent] + 1)
        assert drafts.token_ids[node] in by_depth[depths[node]]
    assert drafts.token_ids[0] == by_depth[0][0] and len(drafts.token_ids) == 6


def test_what_it_costs_is_measured_and_leaves_nothing_behind(target: Any, kind: str) -> None:
    head = head_runs.build(kind.partition("-")[0], target.heads[kind], target.model)
    costs = measure(head, hidden_size=64, most=4, device="cpu")
    assert [width for width, _ in costs] == [1, 4] and all(0 < seconds < 1 for _, seconds in costs)
    assert len(head._requests) == 0
    head.check()


def test_a_head_that_fails_is_switched_off(target: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        wanted_layers: tuple[int, ...] = (1,)
        num_calls = 0

        def opened(self, new: NewRequest) -> None: ...
        def closed(self, request_id: str) -> None: ...
        def observe(self, seen: Any) -> None: ...

        def propose(self, plan: StepPlan) -> list[Drafts]:
            self.num_calls += 1
            raise ZeroDivisionError

    broken = Broken()
    guarded = Guarded(broken, "eagle")
    plan = StepPlan(0, [], [], [])
    assert guarded.wanted_layers == (1,)
    assert guarded.propose(plan) == guarded.propose(plan) == []
    guarded.observe([])
    guarded.opened(NewRequest("r", 0, [1], 1, [], GREEDY))
    guarded.closed("r")
    assert broken.num_calls == 1
    assert [record.message for record in caplog.records] == ["speculator eagle failed and is switched off"]
