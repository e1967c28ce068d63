"""The real scheduler shell and a real runner over the toy model, under the virtual clock; the test is the tokenizer."""

import asyncio
import random
from typing import Any

import anyio
import msgspec
import torch
from draft_stand_in import DraftStandIn
from fake_actors import FakeTarget
from fake_actors import config as base_config
from simulation import Simulation
from toy_model import ToyModel

from paceline.actors.actor import Actor
from paceline.actors.messages import Add, Added, Hello
from paceline.actors.scheduler import SchedulerActor
from paceline.engine.config import Config, Speculation
from paceline.engine.core.plan import RequestOutput, StepPlan, StepResult
from paceline.engine.execution.grammar import Grammars
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.types import SamplingParams
from paceline.spec_decode.rules import coupled


def config(speculation: Speculation, **scheduler: Any) -> Config:
    """A small engine's config; a request may ask for as many log-probabilities as there are."""
    base = base_config(**scheduler)
    server = msgspec.structs.replace(base.server, max_logprobs=-1)
    return msgspec.structs.replace(base, server=server, speculation=speculation)


class RunnerTarget(FakeTarget):
    """A ``Runner`` in the target's place. ``model`` and sizes are set by ``Engine`` before the actor starts."""

    model: Any = None
    make_observer: Any = staticmethod(lambda: None)
    grammars: Grammars | None = None
    block_size = 4
    step_s = 0.01

    async def start(self) -> None:
        await super().start()
        kv = allocate(self.model.config, self.num_blocks, self.block_size, torch.float32)
        self.observer = self.make_observer()
        self.runner = Runner(self.model, kv, coupled.build(), observer=self.observer, grammars=self.grammars)
        self.num_steps = 0

    def hello(self) -> Hello:
        return msgspec.structs.replace(super().hello(), logits_width=self.model.config.vocab_size)

    async def handle(self, sender: str, message: Any) -> None:
        lives = self.lives
        await super().handle(sender, message)
        if self.lives > lives:
            self.runner.forget()

    def step(self, plan: StepPlan) -> StepResult:
        self.num_steps += 1
        return msgspec.structs.replace(self.runner.run(plan), elapsed_s=self.step_s)


class Engine(Simulation):
    """Scheduler and target; the test adds requests and collects their outputs.

    With a ``drafter``, the model of the draft actor, there is that actor too; ``mischief`` seeds what it does wrong.
    """

    def __init__(
        self,
        settings: Config,
        *,
        model: Any = None,
        num_blocks: int = 200,
        faults: Any = None,
        drafter: Any = None,
        mischief: int | None = None,
        make_observer: Any = lambda: None,
        grammars: Grammars | None = None,
    ) -> None:
        super().__init__(faults, settings=settings)
        target = type(
            "Target",
            (RunnerTarget,),
            {
                "model": model or ToyModel(),
                "num_blocks": num_blocks,
                "make_observer": staticmethod(make_observer),
                "grammars": grammars,
            },
        )
        self.roles: dict[str, type[Actor]] = {"scheduler": SchedulerActor, "target": target}
        if drafter is not None:
            wrong = None if mischief is None else random.Random(mischief)
            self.roles["draft"] = type("Draft", (DraftStandIn,), {"model": drafter, "mischief": wrong})
        self.tokenizer = self.network.mailbox("tokenizer")
        self.outputs: dict[str, list[RequestOutput]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Engine":
        self._reader = asyncio.create_task(self._read())
        await super().__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await super().__aexit__(*exc)

    @property
    def target(self) -> RunnerTarget:
        actor = self.actors["target"]
        assert isinstance(actor, RunnerTarget)
        return actor

    async def _read(self) -> None:
        while True:
            _, message = await self.tokenizer.receive()
            if isinstance(message, RequestOutput):
                have = self.outputs[message.request_id]
                assert message.offset == sum(len(o.token_ids) for o in have)
                have.append(message)
            else:
                assert isinstance(message, Added | Hello), message

    def add(self, name: str, prompt: list[int], params: SamplingParams, **options: Any) -> None:
        """Send an Add."""
        self.outputs[name] = []
        self.tokenizer.send("scheduler", Add(name, prompt, params, **options))

    def tokens(self, name: str) -> list[int]:
        """Output so far."""
        return [token for output in self.outputs[name] for token in output.token_ids]

    async def finish(self, timeout_s: float = 600.0) -> None:
        """Wait until every request has its last output; then nothing may be left anywhere."""
        with anyio.fail_after(timeout_s):
            while not all(outputs and outputs[-1].finish_reason for outputs in self.outputs.values()):
                await anyio.sleep(0.01)
        await anyio.sleep(1.0)
        core = self.scheduler.core
        assert core is not None
        core.check()
        stats = core.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_used_blocks, stats.num_in_flight) == (0, 0, 0, 0)
