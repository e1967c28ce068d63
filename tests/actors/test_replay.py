"""Deaths of scheduler and tokenizer under open calls, message by message: no caller may tell that they were.

The real tokenizer, scheduler and client under the virtual clock; a target whose tokens hang on prefix and seed. The
judge is always the same call in an engine that nobody disturbs.
"""

import contextlib
import random
from typing import Any

import anyio
import msgspec
import pytest
from fake_actors import config, expected, text_of
from simulation import Simulation, settle, simulate

from paceline.actors import neighbour
from paceline.actors.memory_mailbox import Faults
from paceline.actors.messages import Admitted, EngineState, Generate, Sampling, TextDelta, Tokenize
from paceline.engine.errors import PacelineError, UnavailableError


class Heard(msgspec.Struct):
    """What one caller got, delta by delta, put together; any gap or repetition raises."""

    admitted: list[Admitted]
    texts: list[str]
    token_ids: list[list[int]]
    logprobs: list[list[Any]]
    prompt_logprobs: list[Any]
    usage: list[tuple[int, int]]
    """Output tokens and cached prompt tokens."""
    ends: list[Any]


async def hear(sim: Simulation, call: Generate) -> Heard:
    """Play a caller."""
    num = len(call.prompts or []) * call.n
    nothing = [None] * num
    heard = Heard([], [""] * num, [[] for _ in nothing], [[] for _ in nothing], [*nothing], [(0, 0)] * num, [*nothing])
    async with contextlib.aclosing(sim.client.generate(call)) as items:
        async for item in items:
            if not isinstance(item, TextDelta):
                heard.admitted.append(item)
                continue
            i = item.index
            assert item.offset == len(heard.texts[i]) and heard.ends[i] is None
            heard.texts[i] += item.text
            heard.token_ids[i] += item.token_ids
            heard.logprobs[i] += item.logprobs or []
            if item.prompt_logprobs is not None:
                assert heard.prompt_logprobs[i] is None
                heard.prompt_logprobs[i] = item.prompt_logprobs
            assert item.num_tokens >= heard.usage[i][0]
            heard.usage[i] = item.num_tokens, max(heard.usage[i][1], item.num_cached)
            if item.finish_reason is not None:
                heard.ends[i] = item.finish_reason, item.stop_reason
    return heard


def draw_call(rng: random.Random, name: str) -> Generate:
    """Any kind of call whose output is told by its tokens."""
    prompt = [rng.randrange(1000) for _ in range(rng.randrange(1, 20))]
    seed = rng.randrange(1, 2**60)
    num = rng.randrange(1, 60)
    stop = []
    if rng.random() < 0.4:  # across two tokens, somewhere in the output of choice 0
        ids = expected(prompt, num, seed)
        at = rng.randrange(num)
        stop = [text_of(ids[at : at + 2])[1:-1]]
    sampling = Sampling(
        max_tokens=num,
        seed=seed,
        stop=[s for s in stop if s],
        min_tokens=rng.choice([0, 0, min(num, 10)]),
        stop_token_ids=[expected(prompt, num, seed)[-1]] if rng.random() < 0.2 else [],
        logprobs=rng.choice([None, None, 2]),
        prompt_logprobs=rng.choice([None, None, None, 1]),
    )
    return Generate(name, sampling, prompts=[prompt], n=rng.choice([1, 1, 2, 3]), return_token_ids=rng.random() < 0.5)


async def undisturbed(calls: list[Generate]) -> dict[str, Heard]:
    found: dict[str, Heard] = {}
    async with Simulation() as sim:
        for call in calls:
            found[call.call_id] = await hear(sim, call)
    return found


def same(heard: Heard, wanted: Heard) -> bool:
    """Equal but for what depends on the cache's state at first."""
    return msgspec.structs.replace(heard, usage=[]) == msgspec.structs.replace(wanted, usage=[]) and [
        num for num, _ in heard.usage
    ] == [num for num, _ in wanted.usage]


@pytest.mark.parametrize(
    "victims", [["scheduler"], ["tokenizer"], ["scheduler", "tokenizer"], ["target", "scheduler", "tokenizer"]]
)
@pytest.mark.parametrize("seed", range(8))
def test_deaths_anywhere_cost_no_call_and_no_token(seed: int, victims: list[str]) -> None:
    async def main() -> None:
        rng = random.Random(f"{seed} {victims}")
        calls = [draw_call(rng, f"c{i}") for i in range(16)]
        wanted = await undisturbed(calls)
        settings = config(max_num_seqs=rng.choice([3, 64]), max_in_flight=rng.choice([1, 2]))
        heard: dict[str, Heard] = {}

        async def one(sim: Simulation, call: Generate) -> None:
            await anyio.sleep(rng.random() * 1.0)
            heard[call.call_id] = await hear(sim, call)

        async with Simulation(Faults(seed, max_delay_s=0.02), settings=settings) as sim:
            async with anyio.create_task_group() as tasks:
                for call in calls:
                    tasks.start_soon(one, sim, call)
                for _ in range(3):
                    await anyio.sleep(rng.random() * 0.5)
                    await sim.kill(rng.choice(victims), down_s=rng.choice([0.0, 0.1, 1.0]) * rng.random())
            for call in calls:
                assert same(heard[call.call_id], wanted[call.call_id]), call
            await anyio.sleep(15.0)
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_a_death_at_every_single_message(victim: str) -> None:
    """Two calls, one of them of three choices with a stop string; the victim dies behind message 1, 2, 3, ..."""
    seed = 77
    ids = expected([5, 6], 14, seed)
    calls = [
        Generate(
            "many", Sampling(max_tokens=14, seed=seed, stop=[text_of(ids[9:11])[1:-1]], logprobs=1), prompts=[[5, 6]],
            n=3, return_token_ids=True,
        ),
        Generate("one", Sampling(max_tokens=12, seed=seed, stop_token_ids=[ids[11]]), prompts=[[5, 6]]),
    ]  # fmt: skip

    async def main() -> None:
        wanted = await undisturbed(calls)
        assert len(wanted["many"].token_ids[0]) == 11 and wanted["one"].ends == [("stop", ids[11])]
        at = 0
        while True:
            at += 1
            heard: dict[str, Heard] = {}

            async def one(sim: Simulation, call: Generate, heard: dict[str, Heard] = heard) -> None:
                heard[call.call_id] = await hear(sim, call)

            async with Simulation(Faults(at, max_delay_s=0.01)) as sim:
                is_time = sim.network.sent(at)
                async with anyio.create_task_group() as tasks:
                    for call in calls:
                        tasks.start_soon(one, sim, call)
                    with anyio.move_on_after(5.0):
                        await is_time.wait()
                        await sim.kill(victim, down_s=0.1 * (at % 3))
                assert heard == wanted, f"the {victim} died behind message {at}"
                await anyio.sleep(12.0)
                settle(sim)
            if not is_time.is_set():
                break
        assert at > 60

    simulate(main)


@pytest.mark.parametrize(("victim", "num_live"), [("scheduler", 3), ("tokenizer", 3)])
def test_replays_are_counted_and_the_metric_says_so(victim: str, num_live: int) -> None:
    async def main() -> None:
        async with Simulation(Faults(0, max_delay_s=0.01)) as sim:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hear, sim, Generate("c", Sampling(max_tokens=150), prompts=[[1]], n=num_live))
                await anyio.sleep(0.3)
                assert len(sim.scheduler._live) == num_live
                await sim.kill(victim)
            await anyio.sleep(2.0)
            assert sim.client.stats["scheduler"].values["requests_replayed"] == num_live

    simulate(main)


def test_a_request_goes_on_without_a_tokenizer_and_is_not_computed_twice() -> None:
    async def main() -> None:
        async with Simulation(Faults(0, max_delay_s=0.01)) as sim:
            heard: list[Heard] = []

            async def one() -> None:
                heard.append(await hear(sim, Generate("c", Sampling(max_tokens=150), prompts=[[1]])))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await anyio.sleep(0.3)
                await sim.kill("tokenizer", down_s=4.0)  # it ends meanwhile
            assert heard[0].texts == [text_of(expected([1], 150))]
            await anyio.sleep(2.0)
            assert sim.client.stats["scheduler"].values["generation_tokens"] == 150

    simulate(main)


def test_a_client_that_leaves_while_the_tokenizer_is_away_leaves_no_request_behind() -> None:
    class Slow(Simulation.roles["target"]):  # type: ignore[misc, name-defined]
        delay_s = 0.2

    class SlowSimulation(Simulation):
        roles = Simulation.roles | {"target": Slow}

    async def main() -> None:
        async with SlowSimulation() as sim:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hear, sim, Generate("c", Sampling(max_tokens=190), prompts=[[1]], n=2))
                await anyio.sleep(1.0)
                tasks.start_soon(sim.kill, "tokenizer")
                await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
            sim.start("tokenizer")
            await anyio.sleep(5.0)
            assert len(sim.scheduler._live) == 2  # it may still be asked for
            await anyio.sleep(7.0)
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_calls_wait_only_so_long_and_only_so_many(victim: str) -> None:
    """Those that run and those that come while it is away; beyond the cap, and behind the wait, they are refused."""

    async def main() -> None:
        async with Simulation(Faults(1, max_delay_s=0.01), settings=config(max_queued_requests=3)) as sim:
            outcomes: dict[str, tuple[PacelineError | Heard, float]] = {}

            async def one(name: str, num: int) -> None:
                outcome: PacelineError | Heard
                try:
                    outcome = await hear(sim, Generate(name, Sampling(max_tokens=num), prompts=[[1]]))
                except PacelineError as e:
                    outcome = e
                outcomes[name] = outcome, anyio.current_time() - begun_s

            begun_s = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, "ran", 190)
                await anyio.sleep(0.1)
                begun_s = anyio.current_time()
                tasks.start_soon(lambda: sim.kill(victim, down_s=200.0))
                await anyio.sleep(1.0)
                for i in range(5):
                    tasks.start_soon(one, f"new{i}", 5)
                await anyio.sleep(1.0)
                assert set(outcomes) == {"new3", "new4"}
                await anyio.sleep(100.0)
                assert len(outcomes) == 6
                tasks.start_soon(one, "late", 5)
                await anyio.sleep(1.0)
                assert len(outcomes) == 7
            for name, (outcome, at_s) in outcomes.items():
                assert isinstance(outcome, UnavailableError) and outcome.retry_after_s > 0
                is_over_cap = name in ("new3", "new4")
                assert outcome.code == ("queue_full" if is_over_cap else "engine_unavailable"), name
                if name == "ran" or name[-1] in "012":
                    assert neighbour.WAIT_S <= at_s < neighbour.WAIT_S + 1, name
            await anyio.sleep(2.0)
            again = await hear(sim, Generate("d", Sampling(max_tokens=3), prompts=[[1]]))
            assert again.texts == [text_of(expected([1], 3))]
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("grammar", ["", "any"])
def test_what_was_taken_is_taken_again_whatever_the_queue_holds(grammar: str) -> None:
    """By a scheduler that has no target yet, and by one whose requests all wait for a grammar at the same time."""

    async def main() -> None:
        async with Simulation(Faults(1, max_delay_s=0.01), settings=config(max_queued_requests=2)) as sim:
            heard: dict[int, Heard] = {}

            async def one(i: int) -> None:
                call = Generate(f"c{i}", Sampling(max_tokens=190, grammar=grammar), prompts=[[i]])
                heard[i] = await hear(sim, call)

            async with anyio.create_task_group() as tasks:
                for i in range(5):
                    tasks.start_soon(one, i)
                    await anyio.sleep(0.1)
                if not grammar:
                    tasks.start_soon(lambda: sim.kill("target", down_s=5.0))
                await sim.kill("scheduler")
            assert [heard[i].texts for i in range(5)] == [[text_of(expected([i], 190))] for i in range(5)]

    simulate(main)


def test_other_questions_are_asked_again_too() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            answers: dict[str, Any] = {}

            async def ask(name: str, question: Any) -> None:
                answers[name] = await question

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: sim.kill("scheduler", down_s=3.0))
                tasks.start_soon(lambda: sim.kill("tokenizer", down_s=3.0))
                await anyio.sleep(1.0)
                tasks.start_soon(ask, "blocks", sim.client.reset_prefix_cache())
                tasks.start_soon(ask, "ids", sim.client.tokenize(Tokenize("t", "7 8 ")))
                await anyio.sleep(1.0)
                assert not answers
            await anyio.sleep(2.0)
            assert answers["blocks"] == 0 and answers["ids"].token_ids == [7, 8]

    simulate(main)


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_calls_that_wait_end_at_once_when_the_engine_has_failed(victim: str) -> None:
    async def main() -> None:
        async with Simulation(Faults(1, max_delay_s=0.01)) as sim:
            caught: list[UnavailableError] = []

            async def one() -> None:
                try:
                    await hear(sim, Generate("c", Sampling(max_tokens=190), prompts=[[1]]))
                except UnavailableError as e:
                    caught.append(e)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await anyio.sleep(0.1)
                tasks.start_soon(lambda: sim.kill(victim, down_s=20.0))
                await anyio.sleep(1.0)
                assert not caught
                for name in ("gateway", "tokenizer"):
                    sim.supervisor.send(name, EngineState("failed", [], f"{victim}: no such device"))
                await anyio.sleep(0.1)
                assert "no such device" in str(caught[0]) and caught[0].retry_after_s > 0

    simulate(main)


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_new_calls_queue_while_it_is_away_and_are_served(victim: str) -> None:
    async def main() -> None:
        async with Simulation(Faults(1, max_delay_s=0.01)) as sim:
            heard: dict[int, Heard] = {}

            async def one(i: int) -> None:
                heard[i] = await hear(sim, Generate(f"c{i}", Sampling(max_tokens=9), prompts=[[i]]))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: sim.kill(victim, down_s=30.0))
                await anyio.sleep(5.0)
                for i in range(8):
                    tasks.start_soon(one, i)
                await anyio.sleep(10.0)
                assert not heard
            assert [heard[i].texts for i in range(8)] == [[text_of(expected([i], 9))] for i in range(8)]
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_what_dies_again_and_again_takes_its_calls_with_it_in_the_end(victim: str) -> None:
    class Slow(Simulation.roles["target"]):  # type: ignore[misc, name-defined]
        delay_s = 0.1

    class SlowSimulation(Simulation):
        roles = Simulation.roles | {"target": Slow}

    async def main() -> None:
        async with SlowSimulation() as sim:
            caught: list[UnavailableError] = []

            async def one() -> None:
                try:
                    await hear(sim, Generate("c", Sampling(max_tokens=190), prompts=[[1]]))
                except UnavailableError as e:
                    caught.append(e)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                for _ in range(neighbour.MAX_REPLAYS):
                    await anyio.sleep(1.0)
                    await sim.kill(victim)
                await anyio.sleep(1.0)
                assert not caught
                await sim.kill(victim)
            assert caught[0].code == "engine_unavailable" and caught[0].retry_after_s > 0
            await anyio.sleep(15.0)
            settle(sim)

    simulate(main)
