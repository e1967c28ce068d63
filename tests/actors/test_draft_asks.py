"""The draft actor's shell: what it still drafts for when it comes to an ask late."""

import threading
from collections.abc import Sequence
from typing import Any, cast

import anyio
from fake_actors import CARD, LOCATED, config

from paceline.actors.actor import Setup
from paceline.actors.draft import Draft
from paceline.actors.memory_mailbox import MemoryNetwork
from paceline.actors.messages import DraftAsk, Propose
from paceline.engine.core.plan import Drafts
from paceline.spec_decode.base import ProposeReq, StepBudget


class Reader:
    """A speculator that reads a long prompt until it is let go."""

    has_work = False

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.asked: list[tuple[int, int, list[int]]] = []

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        self.has_begun.set()
        assert self.may_end.wait(5)
        self.asked += [(ask.base_len, ask.depth, list(ask.delta)) for ask in batch]
        return []


class ReaderDraft(Draft):
    def _load(self) -> Any:
        self.reader = Reader()
        return type("Loaded", (), {"speculator": self.reader, "warm_up": lambda _: None})()


def test_an_ask_that_was_overtaken_costs_no_drafts_but_its_tokens_are_taken_in() -> None:
    async def main() -> list[tuple[int, int, list[int]]]:
        network = MemoryNetwork()
        setup = Setup(actor="draft", epoch=0, folder="", config=config(), located=LOCATED, card=CARD, epochs={})
        draft = ReaderDraft(setup, network.mailbox("draft"))
        network.mailbox("scheduler")
        await draft.start()
        for length in (10, 11, 12):
            delta = [] if length == 10 else [length]
            await draft.handle("scheduler", Propose([DraftAsk("a", 0, length, delta, 4)], 0.0))
            if length == 10:
                await anyio.to_thread.run_sync(draft.reader.has_begun.wait, 5)
        draft.reader.may_end.set()
        with anyio.fail_after(5):
            while len(draft.reader.asked) < 3:
                await anyio.sleep(0.01)
        await draft.stop()
        return cast(list[tuple[int, int, list[int]]], draft.reader.asked)

    assert anyio.run(main) == [(10, 4, []), (11, 0, [11]), (12, 4, [12])]
