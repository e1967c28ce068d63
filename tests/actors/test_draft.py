"""The scheduler's link to a draft actor, and the actor's place among the others; the actor at work is in tests/e2e."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny_models

from paceline.actors import draft_load, speculation
from paceline.actors.draft_link import DraftLink
from paceline.actors.mailbox import MailboxFull
from paceline.actors.messages import Close, Commit, Hello, Open, Propose
from paceline.actors.posts import LOOP_DEATHS, Post, condition
from paceline.engine.config import Config, Speculation
from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import Drafts
from paceline.engine.errors import ConfigError
from paceline.engine.store.located import TokenizerSource
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


def ask(link: DraftLink, length: int, *names: str, epoch: int = 0) -> None:
    assert link.propose([ProposeReq(name, epoch, length, [], 3) for name in names or ("r",)], BUDGET) == []


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
    assert link.land(Drafts("b", 0, 2, [7])) is not None and link.wait_s() > 0, "of an earlier ask"
    assert link.land(Drafts("b", 0, 3, [])) is None
    assert link.wait_s() == 0
    ask(link, 3, "a", "b")
    wire.now_s += 0.2
    assert link.wait_s() == 0 and link.stats()["late"] == 2


def test_nothing_waits_in_ahead_mode_and_a_timeout_is_obeyed() -> None:
    link, _ = make(is_ahead=True)
    link.open("r", [1], PARAMS, 0)
    ask(link, 1)
    assert link.wait_s() == 0
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
    assert link.stats()["dropped"] == 3


def test_many_tokens_are_told_without_being_asked_for() -> None:
    link, wire = make()
    link.open("r", [1], PARAMS, 0)
    for i in range(64):
        link.observe([Outcome("r", 2, 1 + i, 0, [i])])
    assert wire.take()[1:] == [Commit("r", 2, 1, list(range(64)))]


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


def test_ids_that_the_tokenizer_knows_are_counted(tmp_path: Path) -> None:
    folder = tiny_models.make_llama(tmp_path / "m")
    assert draft_load.num_token_ids(TokenizerSource(kind="json", path=str(folder / "tokenizer.json"))) == 512
    gguf = tiny_models.make_gguf(tmp_path / "m.gguf")
    assert draft_load.num_token_ids(TokenizerSource(kind="gguf", path=str(gguf))) == 512
