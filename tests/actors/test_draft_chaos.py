"""A draft actor that is late, silent, wrong, malformed, doubled, or dead: no request fails, and no text changes."""

import asyncio
import contextlib
import random
from typing import Any

import anyio
import msgspec
import pytest
import torch
from naive import judge
from simulation import simulate
from spec_engine import Engine, config
from toy_model import ToyModel

from paceline.actors.actor import Actor
from paceline.actors.mailbox import MailboxFull
from paceline.actors.messages import ActorLost, Close, Commit, Hello, Open, Propose
from paceline.engine.config import Speculation
from paceline.engine.core.plan import Drafts
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.types import SamplingParams
from paceline.spec_decode.base import ModelContext, Outcome, ProposeReq, StepBudget
from paceline.spec_decode.speculators import draft_model

VOCAB = 97
TIMING = ("silent", "late", "doubled", "stale", "other_epoch")
GARBAGE = ("garbage_ids", "garbage_parents", "garbage_laws", "gap")
SETTINGS = {"model": "toy", "num_blocks": 400}


class ChaosDraft(Actor):
    """A real drafter, a ``share`` of whose answers goes wrong. The test sets what it wants of the class."""

    greets = ("supervisor", "scheduler")
    mode: Any = "sync"
    share = 0.0
    faults: tuple[str, ...] = TIMING
    seed = 0
    num_wrong = 0

    async def start(self) -> None:
        model = ToyModel(VOCAB)
        kv = allocate(model.config, 400, 4, torch.float32)
        ctx = ModelContext(
            vocab_size=VOCAB, max_model_len=512, max_num_seqs=8, max_draft_tokens=4, model=model, kv=kv, num_ids=VOCAB
        )
        self._drafter = draft_model.build(draft_model.Config(**SETTINGS, mode=self.mode), ctx)
        self._rng = random.Random(f"{self.seed} {self.epoch}")
        self._later: set[asyncio.Task[None]] = set()

    def hello(self) -> Hello:
        return msgspec.structs.replace(super().hello(), step_costs=[(1, 0.001)])

    async def handle(self, sender: str, message: Any) -> None:
        drafter = self._drafter
        match message:
            case Open():
                drafter.open(message.request_id, message.token_ids, message.params, message.epoch)
            case Commit():
                drafter.observe([Outcome(message.request_id, message.epoch, message.start, 0, message.token_ids)])
            case Close():
                drafter.close(message.request_id)
            case Propose():
                asks = [ProposeReq(a.request_id, a.epoch, a.base_len, a.delta, a.depth) for a in message.asks]
                found = {d.request_id: d for d in drafter.propose(asks, StepBudget(64, 8))}
                for ask in asks:
                    empty = Drafts(ask.request_id, ask.epoch, ask.base_len, [])
                    self._answer(found.get(ask.request_id, empty))
                while drafter.has_work:
                    for drafts in drafter.work():
                        self._answer(drafts)
            case ActorLost() if message.actor == "scheduler":
                drafter.close_all()
            case _:
                pass
        drafter.check()

    def _answer(self, drafts: Drafts) -> None:
        fault = self._rng.choice(self.faults) if self._rng.random() < self.share else ""
        self.num_wrong += bool(fault)
        delay_s = self._rng.choice([0.0, 0.001, 0.003])
        change = msgspec.structs.replace
        match fault:
            case "silent":
                return
            case "late":
                delay_s = self._rng.choice([0.02, 0.2, 2.0])
            case "doubled":
                self._send_later(drafts, delay_s)
            case "stale":
                drafts = change(drafts, base_len=max(1, drafts.base_len - 1))
            case "other_epoch":
                drafts = change(drafts, epoch=drafts.epoch + self._rng.choice([-1, 1]))
            case "garbage_ids":
                drafts = change(drafts, token_ids=[self._rng.choice([-1, VOCAB, 1 << 40, 3]) for _ in range(3)])
            case "garbage_parents":
                drafts = change(drafts, parents=[5] * len(drafts.token_ids))
            case "garbage_laws":
                drafts = change(drafts, draft_q=[([1], [1.0])])
            case "gap":
                drafts = change(drafts, base_len=drafts.base_len + 40)
        self._send_later(drafts, delay_s)

    def _send_later(self, drafts: Drafts, delay_s: float) -> None:
        async def send() -> None:
            await anyio.sleep(delay_s)
            with contextlib.suppress(MailboxFull):
                self.mailbox.send("scheduler", drafts)

        task = asyncio.create_task(send())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def stop(self) -> None:
        for task in list(self._later):
            task.cancel()


def run(mode: str, *, kills: int = 0, in_flight: int = 2, **chaos: Any) -> tuple[int, int, dict[str, int]]:
    """Serve some work beside such an actor; drafts verified and accepted, and what the link counted."""
    rng = random.Random(f"{mode} {chaos}")
    work: dict[str, tuple[list[int], SamplingParams]] = {}
    for i in range(10):
        warmth = rng.choice([0.0, 0.0, 1.0])
        params = SamplingParams(max_tokens=rng.randint(10, 50), temperature=warmth, seed=i, ignore_eos=True)
        work[f"r{i}"] = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 90))], params
    tables = {"draft_model": {**SETTINGS, "mode": mode}}
    section = Speculation(methods=["draft_model"], policy="fixed", max_draft_tokens=4, settings=tables)

    async def main() -> Engine:
        engine = Engine(config(section, max_in_flight=in_flight), model=ToyModel(VOCAB))
        engine.roles["draft"] = type("Chaos", (ChaosDraft,), {"mode": mode, **chaos})
        target: Any = engine.roles["target"]
        target.delay_s = 0.01  # time in which to draft ahead
        async with engine:
            for i, (name, (prompt, params)) in enumerate(work.items()):
                engine.add(name, prompt, params)
                await anyio.sleep(rng.choice([0.0, 0.05]))
                if i % 3 == 2 and i < 3 * kills:
                    await engine.kill("draft", down_s=0.02)
            await engine.finish()
            return engine

    engine = simulate(main)
    model = ToyModel(VOCAB)
    for name, (prompt, params) in work.items():
        assert engine.tokens(name) == judge(model, prompt, params, dtype=torch.float32).token_ids, name
    reports = [r for outputs in engine.outputs.values() if (r := outputs[-1].speculation) is not None]
    link = engine.scheduler._drafter
    assert link is not None
    chaotic: Any = engine.actors["draft"]
    counts = {**link.stats(), "wrong": chaotic.num_wrong}
    return sum(r.num_draft_tokens for r in reports), sum(r.num_accepted for r in reports), counts


@pytest.mark.parametrize("mode", ["sync", "ahead", "enumerate"])
def test_a_sound_drafter_of_the_same_model_is_always_right(mode: str) -> None:
    drafted, accepted, counts = run(mode)
    assert drafted == accepted > 100
    assert counts["late"] == counts["faults"] == 0
    if mode != "sync":
        assert counts["ahead_hits"] > 2 * counts["ahead_misses"]


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("mode", ["sync", "ahead", "enumerate"])
def test_text_stays_whatever_the_actor_does(mode: str, in_flight: int) -> None:
    counts = [run(mode, share=0.2, seed=seed, in_flight=in_flight)[2] for seed in range(2)]
    assert sum(c["wrong"] for c in counts) > 3
    *_, counts = run(mode, share=0.2, faults=GARBAGE, in_flight=in_flight)
    assert counts["faults"] > 0


@pytest.mark.parametrize("mode", ["sync", "enumerate"])
def test_an_actor_that_dies_again_and_again_is_told_all_again(mode: str) -> None:
    drafted, _, counts = run(mode, share=0.02, kills=3)
    assert drafted > 0 and counts["reopened"] > 0
