"""The target actor over a memory mailbox: Hello, steps in order, truthful progress, a lost scheduler, failures."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from naive import generate, load
from tiny_models import make_llama

from paceline.actors.actor import Setup
from paceline.actors.memory_mailbox import MemoryMailbox, MemoryNetwork
from paceline.actors.messages import ActorLost, Failed, Heartbeat, Hello, Stop
from paceline.actors.target import Target
from paceline.engine.config import Cache, Config
from paceline.engine.config import Target as TargetConfig
from paceline.engine.core.plan import NewRequest, Row, StepPlan, StepResult
from paceline.engine.store import card, resolve, vocabulary
from paceline.engine.types import SamplingParams

GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
CONFIG = Config(cache=Cache(num_blocks=32), target=TargetConfig(num_threads=1, device="cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


class Peers:
    """The target's surroundings: its own mailbox, the scheduler's and the supervisor's."""

    def __init__(self, folder: Path, config: Config = CONFIG) -> None:
        network = MemoryNetwork()
        located = resolve.locate(str(folder), download=False)
        setup = Setup(
            actor="target", epoch=0, folder="", config=config, located=located, card=card.read(located)
        )
        self.scheduler, self.supervisor = network.mailbox("scheduler"), network.mailbox("supervisor")
        self.actor = Target(setup, network.mailbox("target"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.actor.run)
            with anyio.fail_after(30):
                yield
                self.supervisor.send("target", Stop())


async def next_of(mailbox: MemoryMailbox, kind: type) -> Any:
    """The next message of ``kind``; others are passed over."""
    with anyio.fail_after(20):
        while True:
            _, message = await mailbox.receive()
            if isinstance(message, kind):
                return message


def opening(step: int, name: str, prompt: list[int], block: int = 0) -> StepPlan:
    new = NewRequest(name, 0, prompt, len(prompt), [block], GREEDY)
    return StepPlan(step, [], [new], [Row(name, 0, 0, len(prompt), 1, [], True)])


def test_it_says_hello_and_decodes_what_the_naive_loop_decodes(folder: Path) -> None:
    async def main() -> list[int]:
        peers = Peers(folder)
        async with peers.running():
            hello: Hello = await next_of(peers.scheduler, Hello)
            assert hello == await next_of(peers.supervisor, Hello)
            assert (hello.num_blocks, hello.block_size, hello.max_model_len) == (32, 16, 512)
            assert hello.logits_width == peers.actor.setup.card.model.vocab_size
            assert hello.vocab_hash == vocabulary.read(peers.actor.setup.card.tokenizer).fingerprint
            assert hello.detail["device"] == "cpu" and hello.detail["dtype"] == "int8"
            assert "kernel_sample" in hello.detail and float(hello.detail["load_s"]) >= 0
            tokens: list[int] = []
            peers.scheduler.send("target", opening(0, "a", [5, 6, 7]))
            for step in range(1, 8):  # two plans in flight
                row = Row("a", 0, 2 + step, 1, 1, [], True, after=step - 1)
                peers.scheduler.send("target", StepPlan(step, [], [], [row]))
                result: StepResult = await next_of(peers.scheduler, StepResult)
                assert result.step == step - 1 and result.elapsed_s > 0
                tokens += result.rows[0].token_ids
            return tokens + (await next_of(peers.scheduler, StepResult)).rows[0].token_ids

    expected = generate(load(folder), [5, 6, 7], msgspec.structs.replace(GREEDY, ignore_eos=True))
    assert anyio.run(main) == expected


def test_progress_is_reported_while_a_step_runs_and_says_how_old_it_is(folder: Path) -> None:
    async def main() -> None:
        peers = Peers(folder)
        async with peers.running():
            await next_of(peers.scheduler, Hello)
            release = hold_steps(peers.actor)
            peers.scheduler.send("target", opening(41, "a", [5]))
            beat: Heartbeat = await next_of(peers.supervisor, Heartbeat)
            while not (beat.busy and beat.step_age_s > 0.5):
                beat = await next_of(peers.supervisor, Heartbeat)
            assert beat.step == 41
            release.set()
            await next_of(peers.scheduler, StepResult)
            while beat.busy:
                beat = await next_of(peers.supervisor, Heartbeat)
            assert (beat.step, beat.step_age_s) == (41, 0.0)

    anyio.run(main)


def hold_steps(actor: Target) -> threading.Event:
    """Each step of ``actor`` waits for the event before it runs, as on a slow device."""
    release = threading.Event()
    assert actor._loaded is not None
    run = actor._loaded.runner.run

    def slow(plan: StepPlan) -> StepResult:
        release.wait(20)
        return run(plan)

    actor._loaded.runner.run = slow
    return release


def test_a_lost_scheduler_takes_its_requests_and_unanswered_steps_with_it(folder: Path) -> None:
    async def main() -> None:
        peers = Peers(folder)
        async with peers.running():
            await next_of(peers.scheduler, Hello)
            release = hold_steps(peers.actor)
            peers.scheduler.send("target", opening(0, "old", [5, 6]))
            peers.scheduler.send("target", opening(1, "older", [5, 6], block=1))
            await next_of(peers.supervisor, Heartbeat)
            peers.supervisor.send("target", ActorLost("scheduler", 0))
            scheduler = peers.scheduler._network.mailbox("scheduler", 1)
            again: Hello = await next_of(scheduler, Hello)
            assert again.actor == "target"
            release.set()
            scheduler.send("target", opening(0, "new", [9]))
            result: StepResult = await next_of(scheduler, StepResult)
            assert [r.request_id for r in result.rows] == ["new"] and result.rows[0].error is None
            assert peers.actor._loaded is not None and peers.actor._loaded.runner.num_held == 1

    anyio.run(main)


def test_a_step_that_breaks_as_a_whole_ends_the_actor_with_its_cause(folder: Path) -> None:
    async def main() -> None:
        peers = Peers(folder)

        def broken(plan: StepPlan) -> StepResult:
            raise RuntimeError("device lost")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peers.actor.run)
            await next_of(peers.scheduler, Hello)
            assert peers.actor._loaded is not None
            peers.actor._loaded.runner.run = broken
            peers.scheduler.send("target", opening(0, "a", [5]))
            failed: Failed = await next_of(peers.supervisor, Failed)
            assert "device lost" in failed.error.message

    anyio.run(main)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(cache=Cache(max_bytes=1)), "cache.max_bytes"),
        (Config(target=TargetConfig(device="cuda:9")), "cuda:9"),
        (Config(target=TargetConfig(max_model_len=10**6)), "max_model_len"),
    ],
)
def test_what_cannot_start_says_why(folder: Path, config: Config, words: str) -> None:
    async def main() -> None:
        peers = Peers(folder, config)
        assert await peers.actor.run() == 1
        failed: Failed = await next_of(peers.supervisor, Failed)
        assert words in failed.error.message and failed.error.code != "crash"

    anyio.run(main)
