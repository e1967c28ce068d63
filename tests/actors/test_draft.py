"""The scheduler's link to a draft actor, and the actor's place among the others; the actor at work is in tests/e2e."""

import logging
from typing import Any

import msgspec
import pytest

from paceline.actors import speculation
from paceline.actors.draft_link import DraftLink
from paceline.actors.mailbox import MailboxFull
from paceline.actors.messages import Close, Commit, Hello, Open, Propose
from paceline.actors.posts import LOOP_DEATHS, Post, condition
from paceline.engine.config import Config, Speculation
from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import Drafts
from paceline.engine.errors import ConfigError
from paceline.engine.types import SamplingParams
from paceline.spec_decode.base import Outcome, ProposeReq, StepBudget

PARAMS = SamplingParams(max_tokens=9)
BUDGET = StepBudget(64, 8)


class Wire:
    """A mailbox that keeps what is sent, and a clock."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_full = False
        self.now_s = 10.0

    def send(self, to: str, message: Any) -> None:
        if self.is_full:
            raise MailboxFull
        assert to == "draft"
        self.sent.append(msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message)))

    def take(self) -> list[Any]:
        sent, self.sent = self.sent, []
        return sent


def hello(actor: str = "draft", epoch: int = 0, vocab: str = "v") -> Hello:
    return Hello(actor, 1, epoch, vocab_hash=vocab, detail={"model": "small"}, step_costs=[(1, 0.01), (4, 0.02)])


def make(*, is_up: bool = True, **options: Any) -> tuple[DraftLink, Wire]:
    wire: Any = Wire()
    link = DraftLink(wire, "draft_model", max_draft_tokens=4, clock=lambda: wire.now_s, **options)
    link.meet_target(hello("target"), "big")
    if is_up:
        link.meet(hello())
    return link, wire


def ask(link: DraftLink, length: int, *names: str, epoch: int = 0, delta: list[int] | None = None) -> None:
    """Ask for three drafts where none were made ahead."""
    asks = [ProposeReq(name, epoch, length, list(delta or []), 3) for name in names or ("r",)]
    assert link.propose(asks, BUDGET) == []


def test_a_request_is_opened_asked_for_and_closed() -> None:
    link, wire = make()
    link.open("r", [1, 2, 3], PARAMS, 0)
    ask(link, 3)
    link.observe([Outcome("r", 0, 3, 1, [4, 5])])
    ask(link, 5)
    link.close("r")
    first, second, third, last = wire.take()
    assert first == Open("r", 0, [1, 2, 3], PARAMS) and last == Close("r")
    assert [(a.base_len, a.delta, a.depth) for p in (second, third) for a in p.asks] == [(3, [], 3), (5, [4, 5], 3)]


def test_a_step_waits_for_drafts_but_not_longer_than_they_should_take() -> None:
    link, wire = make()
    for name in "ab":
        link.open(name, [1, 2, 3], PARAMS, 0)
    assert link.wait_s() == 0
    ask(link, 3, "a", "b")
    assert link.wait_s() == pytest.approx(2 * 3 * 0.02 + 0.002)
    assert link.land(Drafts("a", 0, 3, [7])) == Drafts("a", 0, 3, [7], None, "draft_model")
    assert link.wait_s() > 0
    assert link.land(Drafts("b", 0, 2, [7])) is None and link.wait_s() > 0, "of an earlier ask"
    assert link.land(Drafts("b", 0, 3, [])) is None
    assert link.wait_s() == 0
    ask(link, 4, "a", "b", delta=[9])
    wire.now_s += 0.2
    assert link.wait_s() == 0 and link.stats()["late"] == 2


def test_a_silent_actor_costs_one_wait_and_is_asked_again_when_it_speaks() -> None:
    link, wire = make()
    link.open("r", [1], PARAMS, 0)
    ask(link, 1)
    wire.now_s += 0.2
    assert link.wait_s() == 0
    wire.take()
    for length in range(2, 6):
        ask(link, length, delta=[length])
        assert wire.take() == [] and link.wait_s() == 0
    assert link.land(Drafts("r", 0, 1, [2, 3, 4, 5, 6, 7])) is not None, "the core sees what still fits"
    assert link.propose([ProposeReq("r", 0, 6, [6], 3)], BUDGET) == [Drafts("r", 0, 6, [7], None, "draft_model")]
    assert [a.delta for a in wire.take()[0].asks] == [[2, 3, 4, 5, 6]]
    assert link.wait_s() > 0
    wire.now_s += 0.5
    ask(link, 7, delta=[9])
    assert wire.take() == []
    wire.now_s += 1.0
    ask(link, 8, delta=[9])
    assert len(wire.take()) == 1, "the answer may have been lost"


def test_answers_that_come_slower_than_at_start_are_waited_for_longer_and_cost_more() -> None:
    link, wire = make()
    link.open("r", [1], PARAMS, 0)
    for length in range(1, 40):
        ask(link, length, delta=[] if length == 1 else [1])
        wire.now_s += 0.045
        link.land(Drafts("r", 0, length, [7]))
    assert link.cost(1, 3) == pytest.approx(0.045, rel=0.02)
    ask(link, 40, delta=[1])
    assert link.wait_s() == pytest.approx(0.092, rel=0.02)


def test_nobody_waits_for_an_actor_that_must_read_a_long_text_first() -> None:
    link, _ = make()
    link.open("long", [1] * 100, PARAMS, 0)
    link.open("short", [1], PARAMS, 0)
    ask(link, 100, "long")
    assert link.wait_s() == 0
    assert link.land(Drafts("long", 0, 100, [])) is None
    ask(link, 100, "long")
    link.land(Drafts("long", 0, 100, [7]))
    ask(link, 101, "long", delta=[7])
    assert link.wait_s() > 0


def test_what_was_made_ahead_is_found_at_once_and_a_miss_waits() -> None:
    link, wire = make(is_ahead=True)
    link.open("r", [1, 2], PARAMS, 0)
    assert wire.take() == [Open("r", 0, [1, 2], PARAMS)], "it may read the prompt while the target does"
    ask(link, 2)
    assert link.wait_s() > 0
    assert link.land(Drafts("r", 0, 2, [3, 4])) is not None
    assert link.land(Drafts("r", 0, 2, [3, 4, 5, 6, 7], confidence=[0.9, 0.8, 0.7, 0.6, 0.5])) is None
    found = link.propose([ProposeReq("r", 0, 5, [3, 4, 5], 3)], BUDGET)
    assert found == [Drafts("r", 0, 5, [6, 7], None, "draft_model", [0.6, 0.5])]
    assert link.wait_s() == 0 and isinstance(wire.take()[-1], Propose)
    link.land(Drafts("r", 0, 5, [6, 7, 8, 9]))
    ask(link, 7, delta=[6, 1])
    assert link.wait_s() > 0
    assert link.ahead_counts({"spec_ahead_hits": 2}) == {"spec_ahead_hits": 3, "spec_ahead_misses": 1}


def test_a_table_of_outcomes_is_looked_into_by_what_was_accepted_and_the_next_token() -> None:
    link, _ = make(is_ahead=True)
    #            3  4  5        | 9 after none: 10    | 8 after one: 11 12
    ids = [3, 4, 5, 9, 10, 8, 11, 12]
    parents = [-1, 0, 1, -1, 3, 0, 5, 6]
    for committed, expected in (([9], [10]), ([3, 8], [11, 12]), ([3, 4], [5]), ([7], []), ([3, 4, 5, 6], [])):
        link.open("r", [1, 2], PARAMS, 0)
        ask(link, 2)
        link.land(Drafts("r", 0, 2, [3, 4, 5]))
        assert link.land(Drafts("r", 0, 2, ids, parents)) is None
        found = link.propose([ProposeReq("r", 0, 2 + len(committed), committed, 3)], BUDGET)
        assert [d.token_ids for d in found] == ([expected] if expected else [])
        assert all(d.parents is None and d.base_len == 2 + len(committed) for d in found)
        link.close("r")


def test_a_table_that_overtakes_the_answer_is_a_chain_to_the_core() -> None:
    link, _ = make(is_ahead=True)
    link.open("r", [1, 2], PARAMS, 0)
    ask(link, 2)
    assert link.land(Drafts("r", 0, 2, [3, 4, 9], [-1, 0, -1])) == Drafts("r", 0, 2, [3, 4], None, "draft_model")


@pytest.mark.parametrize(
    "garbage",
    [
        Drafts("r", 0, 2, [3, 4], [-1]),
        Drafts("r", 0, 2, [3, 4], [0, 1]),
        Drafts("r", 0, 2, [3, 4], confidence=[0.5]),
        Drafts("r", 0, 2, [3], draft_q=[]),
        Drafts("r", 0, 0, [3]),
        Drafts("r", 0, 9, [3]),
    ],
)
def test_garbage_ends_the_method_for_its_request_alone(garbage: Drafts) -> None:
    link, wire = make(is_ahead=True)
    for name in "rs":
        link.open(name, [1, 2], PARAMS, 0)
    ask(link, 2, "r", "s")
    assert link.land(garbage) is None
    assert wire.take()[-1] == Close("r") and link.stats()["faults"] == 1
    assert link.land(Drafts("r", 0, 2, [3])) is None, "nothing of it reaches the core any more"
    link.land(Drafts("s", 0, 2, [3]))
    ask(link, 3, "r", "s", delta=[4])
    assert [a.request_id for a in wire.take()[-1].asks] == ["s"]


def test_drafts_of_another_epoch_are_not_used() -> None:
    link, _ = make(is_ahead=True)
    link.open("r", [1, 2], PARAMS, 0)
    link.land(Drafts("r", 0, 2, [3, 4, 5]))
    link.rollback("r", 2, 1)
    ask(link, 3, delta=[3], epoch=1)


def test_a_timeout_is_obeyed() -> None:
    link, _ = make(timeout_s=0.5)
    link.open("r", [1], PARAMS, 0)
    ask(link, 1)
    assert link.wait_s() == pytest.approx(0.5)


def test_what_found_no_room_is_made_up_for() -> None:
    link, wire = make()
    wire.is_full = True
    link.open("r", [1, 2], PARAMS, 0)
    ask(link, 2)
    assert link.wait_s() == 0
    link.observe([Outcome("r", 0, 2, 0, [3])])
    wire.is_full = False
    ask(link, 3)
    wire.is_full = True
    link.observe([Outcome("r", 0, 3, 0, [4])])
    ask(link, 4)
    wire.is_full = False
    link.observe([Outcome("r", 0, 4, 0, [5])])
    ask(link, 5)
    opened, asked, again = wire.take()
    assert opened == Open("r", 0, [1, 2, 3], PARAMS)
    assert (asked.asks[0].delta, again.asks[0].delta) == ([], [4, 5])
    assert link.stats()["dropped"] == 2


def test_many_tokens_are_told_without_being_asked_for() -> None:
    link, wire = make()
    link.open("r", [1], PARAMS, 0)
    ask(link, 1)
    for i in range(64):
        link.observe([Outcome("r", 2, 1 + i, 0, [i])])
    assert wire.take()[2:] == [Commit("r", 2, 1, list(range(64)))]


def test_a_lost_actor_is_not_waited_for_and_one_that_returns_is_told_all_again() -> None:
    link, wire = make()
    names = [f"r{i}" for i in range(10)]
    for name in names:
        link.open(name, [1, 2], PARAMS, 0)
    ask(link, 2, *names)
    link.lost(0)
    assert link.wait_s() == 0 and not link.is_up
    wire.take()
    link.observe([Outcome(name, 1, 2, 0, [3]) for name in names])
    ask(link, 3, *names, epoch=1)
    link.close("r0")
    assert wire.take() == []
    link.meet(hello(epoch=1))
    ask(link, 3, *names[1:], epoch=1)
    *opened, asked = wire.take()
    assert opened == [Open(name, 1, [1, 2, 3], PARAMS) for name in names[1:9]], "eight at once"
    assert isinstance(asked, Propose) and [a.request_id for a in asked.asks] == names[1:9]
    link.lost(0)
    assert link.is_up, "the death of an earlier one is no news"


def test_another_vocabulary_is_refused_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    link, wire = make(is_up=False)
    link.open("r", [1], PARAMS, 0)
    with caplog.at_level(logging.WARNING):
        link.meet(hello(vocab="w"))
        link.meet_target(hello("target"), "big")
        ask(link, 1)
    assert wire.take() == [] and not link.is_up
    assert [("small" in r.message, "big" in r.message) for r in caplog.records] == [(True, True)]


def test_an_engine_without_its_draft_actor_is_degraded_not_failed() -> None:
    posts = [Post("target"), Post("draft")]
    for post in posts:
        post.begin(0.0)
    assert condition(posts, was_ready=False, draining=False) == "starting"
    posts[0].welcome(hello("target"), 1.0)
    assert condition(posts, was_ready=True, draining=False) == "degraded"
    for i in range(LOOP_DEATHS):
        posts[1].begin(float(i))
        posts[1].died("boom", float(i))
    assert posts[1].loops and condition(posts, was_ready=True, draining=False) == "degraded"
    posts[1].welcome(hello(), 9.0)
    assert condition(posts, was_ready=True, draining=False) == "ok"


def test_a_method_that_nobody_would_run_is_refused() -> None:
    table = {"draft_model": {"model": "small"}}
    config = Config(speculation=Speculation(methods=["draft_model"], settings=table))
    sizes = CoreConfig(
        num_blocks=8, block_size=4, max_model_len=32, vocab_size=9, max_num_seqs=2, max_num_batched_tokens=8,
        max_in_flight=2,
    )  # fmt: skip
    link = speculation.make_link(config, Wire(), lambda: 0.0)  # type: ignore[arg-type]
    assert speculation.build(config, sizes, [], link) is not None
    with pytest.raises(ConfigError, match="draft_model"):
        speculation.build(config, sizes, [])
    assert speculation.make_link(Config(), Wire(), lambda: 0.0) is None  # type: ignore[arg-type]
