"""The draft actor on the virtual clock: the real speculator over a model of the test's, answering as badly as asked."""

import asyncio
import random
from typing import Any

import anyio
import msgspec
import torch
from anyio.abc import TaskStatus

from paceline.actors.actor import Actor
from paceline.actors.messages import ActorLost, Close, Commit, Hello, Open, Propose
from paceline.engine.config import method_config
from paceline.engine.core.plan import Drafts
from paceline.engine.execution.kv_pool import allocate
from paceline.spec_decode.base import ModelContext, Outcome, ProposeReq, StepBudget
from paceline.spec_decode.speculators import draft_model

NUM_BLOCKS, BLOCK_SIZE = 96, 4


class DraftStandIn(Actor):
    """``model`` and ``mischief`` are set by ``spec_engine.Engine`` before the actor starts."""

    greets = ("supervisor", "scheduler")
    model: Any = None
    mischief: random.Random | None = None
    """Draws what goes wrong with each answer; None = nothing does."""

    async def start(self) -> None:
        section = self.setup.config.speculation
        width = self.model.config.vocab_size
        context = ModelContext(
            vocab_size=width,
            max_model_len=self.model.config.max_position,
            max_num_seqs=self.setup.config.scheduler.max_num_seqs,
            max_draft_tokens=section.max_draft_tokens,
            model=self.model,
            kv=allocate(self.model.config, NUM_BLOCKS, BLOCK_SIZE, torch.float32),
            num_ids=width,
            rule=section.rule,
        )
        self.speculator = draft_model.build(method_config(section, draft_model.NAME), context)  # type: ignore[arg-type]
        self._heard = anyio.Event()

    def hello(self) -> Hello:
        width = self.model.config.vocab_size
        return msgspec.structs.replace(super().hello(), logits_width=width, step_costs=[(1, 0.0005), (64, 0.002)])

    async def handle(self, sender: str, message: Any) -> None:
        speculator = self.speculator
        match message:
            case Open():
                speculator.open(message.request_id, message.token_ids, message.params, message.epoch)
            case Propose():
                asks = [ProposeReq(a.request_id, a.epoch, a.base_len, a.delta, a.depth) for a in message.asks]
                found = speculator.propose(asks, StepBudget(len(asks), max(a.depth for a in asks)))
                named = {drafts.request_id for drafts in found}
                self._answer(found + [Drafts(*ask[:3], []) for ask in map(_stamp, asks) if ask[0] not in named])
            case Commit():
                speculator.observe([Outcome(message.request_id, message.epoch, message.start, 0, message.token_ids)])
            case Close():
                speculator.close(message.request_id)
            case ActorLost() if message.actor == "scheduler":
                speculator.close_all()
            case _:
                pass
        speculator.check()
        self._heard.set()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """While nothing is asked, what can be done ahead."""
        task_status.started()
        while True:
            await self._heard.wait()
            self._heard = anyio.Event()
            while self.speculator.has_work:
                await anyio.sleep(0.001)
                self._answer(self.speculator.work())

    def _answer(self, found: list[Drafts]) -> None:
        for drafts in found:
            for wait_s, sent in self._spoil(drafts) if self.mischief is not None else [(0.0, drafts)]:
                if wait_s:
                    asyncio.get_running_loop().call_later(wait_s, self.mailbox.send, "scheduler", sent)
                else:
                    self.mailbox.send("scheduler", sent)

    def _spoil(self, drafts: Drafts) -> list[tuple[float, Drafts]]:
        """What is sent in place of an answer, and how long after it: usually the answer itself."""
        assert self.mischief is not None
        draw = self.mischief.random()
        ids = drafts.token_ids
        change = msgspec.structs.replace
        if draw < 0.6:
            return [(0.0, drafts)]
        if draw < 0.7:
            return [(self.mischief.random() * 0.05, drafts)]
        if draw < 0.75:
            return []
        if draw < 0.8:
            return [(0.0, drafts), (0.001, drafts)]
        if draw < 0.85:
            return [(0.0, change(drafts, epoch=drafts.epoch + 1))]
        if draw < 0.9:
            return [(0.0, change(drafts, request_id="nobody"))]
        if draw < 0.95:
            return [(0.0, change(drafts, token_ids=[(token + 1) % self.model.config.vocab_size for token in ids]))]
        if draw < 0.99:
            return [(0.0, change(drafts, confidence=[2.0]))]
        return [(0.0, change(drafts, token_ids=[*ids, -1], parents=None))]


def _stamp(ask: ProposeReq) -> tuple[str, int, int]:
    return ask.request_id, ask.epoch, ask.base_len
