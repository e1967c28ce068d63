"""The scheduler's end of a head: what plans ask, and what becomes of drafts that come with results."""

from typing import Any

import pytest

from paceline.actors.head_link import HeadLink, make_head_link
from paceline.engine.config import Config, Speculation
from paceline.engine.core.plan import Drafts, Row, StepPlan
from paceline.engine.errors import ConfigError
from paceline.engine.types import SamplingParams
from paceline.spec_decode.base import ProposeReq, StepBudget

BUDGET = StepBudget(100, 4)
PARAMS = SamplingParams(max_tokens=9)


def link(*names: str) -> HeadLink:
    made = HeadLink("medusa", 4)
    for name in names:
        made.open(name, [1, 2], PARAMS, 0)
    return made


def plan(*rows: Row) -> StepPlan:
    return StepPlan(0, [], [], list(rows))


def row(name: str, *, yields: bool = True) -> Row:
    return Row(name, 0, 0, 1, 0, [], yields)


def ask(name: str, base_len: int, depth: int, epoch: int = 0) -> ProposeReq:
    return ProposeReq(name, epoch, base_len, [], depth)


def test_a_plan_asks_once_for_those_who_want_drafts() -> None:
    made = link("a", "b")
    assert made.ask(plan(row("a"), row("x"), row("b", yields=False))).asks == [4, -1, 0]
    assert made.ask(plan(row("a"), row("b"))).asks == [0, 4]  # the prompt of b ends here; nobody asked again for a
    assert made.propose([ask("a", 3, 2), ask("x", 3, 2)], BUDGET) == []
    assert made.ask(plan(row("a"), row("b"))).asks == [2, 0]
    assert made.stats() == {"asked": 3, "answered": 0}


def test_a_plan_of_strangers_is_left_alone() -> None:
    before = plan(row("x"))
    assert link("a").ask(before) is before
    made = link("a")
    made.close("a")
    assert made.ask(plan(row("a"))).asks == []


def test_drafts_are_proposed_to_those_for_whom_they_were_made() -> None:
    made = link("a", "b", "c")
    found = [Drafts(name, 0, 5, [7]) for name in ("a", "b", "c", "x")]
    made.land(found)
    made.close("c")
    answers = made.propose([ask("a", 5, 2), ask("b", 6, 2), ask("c", 5, 2)], BUDGET)
    assert [(d.request_id, d.source) for d in answers] == [("a", "medusa")]
    assert made.left(set()) == []


def test_what_nobody_asked_for_is_left_for_a_try() -> None:
    made = link("a", "b")
    made.land([Drafts("a", 0, 5, [7]), Drafts("b", 0, 5, [8])])
    assert [d.request_id for d in made.left({"b"})] == ["a"]
    assert made.left(set()) == []


def test_costs_are_those_of_the_next_wider_batch() -> None:
    made = link()
    assert made.cost(1, 4) == 0.0
    made.meet([(1, 0.25), (4, 0.5)])
    assert [made.cost(num, 2) for num in (1, 3, 4, 9)] == [0.5, 1.0, 1.0, 1.0]


def test_one_head_at_most() -> None:
    settings: dict[str, dict[str, Any]] = {"medusa": {"model": "m"}, "eagle": {"model": "e", "width": 2}}

    def made(*methods: str, **options: Any) -> HeadLink | None:
        return make_head_link(Config(speculation=Speculation(methods=list(methods), settings=settings, **options)))

    assert made("suffix") is None
    assert made("medusa", max_draft_tokens=0) is None
    tree = made("suffix", "eagle")
    assert tree is not None and (tree.name, tree.caps.topology, tree.caps.seeded) == ("eagle", "tree", True)
    chain = made("eagle", rule="token")
    assert chain is not None and (chain.caps.topology, chain.caps.seeded) == ("chain", False)
    with pytest.raises(ConfigError, match="medusa and eagle all run beside the target"):
        made("medusa", "eagle")
