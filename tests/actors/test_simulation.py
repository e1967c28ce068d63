"""The whole engine in one process, under a virtual clock, with seeded delays and deaths. A failure names its seed."""

import contextlib
import random
from typing import Any

import anyio
import msgspec
import pytest
from fake_actors import FakeTarget, config, expected
from simulation import Simulation, settle, simulate

from paceline.actors.memory_mailbox import Faults
from paceline.actors.messages import Add, Generate, Hello, Refused, Sampling, Stop, TextDelta, Tokenize
from paceline.actors.scheduler import WAIT_FOR_TARGET_S
from paceline.engine.core.plan import RowResult, StepResult
from paceline.engine.errors import DeadlineError, PacelineError, UnavailableError
from paceline.engine.types import SamplingParams

Outcome = list[list[int]] | PacelineError


async def ask(
    sim: Simulation, call_id: str, prompt: list[int], num: int, *, n: int = 1, timeout_s: float = 600.0
) -> Outcome:
    """Token ids by choice, or the error with which the call ended."""
    sampling = Sampling(max_tokens=num)
    call = Generate(call_id, sampling, prompts=[prompt], n=n, timeout_s=timeout_s, return_token_ids=True)
    ids: list[list[int]] = [[] for _ in range(n)]
    try:
        async with contextlib.aclosing(sim.client.generate(call)) as items:
            async for item in items:
                if isinstance(item, TextDelta):
                    ids[item.index] += item.token_ids
    except PacelineError as e:
        return e
    return ids


@pytest.mark.parametrize("seed", range(12))
def test_many_calls_in_any_interleaving_give_what_each_gives_alone(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        settings = config(
            max_in_flight=rng.choice([1, 2]),
            max_num_seqs=rng.choice([3, 16]),
            max_num_batched_tokens=rng.choice([8, 64]),
        )

        async def one(sim: Simulation, i: int) -> None:
            await anyio.sleep(rng.random() * 0.2)
            prompt = [i % 5] * rng.randrange(1, 60)
            num = rng.randrange(1, 40)
            assert await ask(sim, f"c{i}", prompt, num, n=rng.choice([1, 1, 3])) is not None
            got = await ask(sim, f"d{i}", prompt, num)
            assert got == [expected(prompt, num)]

        async with Simulation(Faults(seed, max_delay_s=rng.choice([0.0, 0.02])), settings=settings) as sim:
            async with anyio.create_task_group() as tasks:
                for i in range(24):
                    tasks.start_soon(one, sim, i)
            await anyio.sleep(1.0)
            settle(sim)

    simulate(main)


def test_the_prefix_cache_is_reset_on_the_way_from_client_to_core() -> None:
    async def main() -> None:
        async with Simulation(Faults(0, max_delay_s=0.01)) as sim:
            prompt = [3] * 20
            assert await ask(sim, "a", prompt, 2) == [expected(prompt, 2)]
            assert await sim.client.reset_prefix_cache() == 5
            assert await sim.client.reset_prefix_cache() == 0
            assert await ask(sim, "b", prompt, 2) == [expected(prompt, 2)]
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("seed", range(30))
def test_deaths_anywhere_fail_no_call_and_leak_nothing(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        outcomes: dict[int, Outcome] = {}

        async def one(sim: Simulation, i: int) -> None:
            await anyio.sleep(rng.random() * 2.0)
            num = rng.randrange(1, 60)
            got = await ask(sim, f"c{i}", [i, i], num)
            assert i not in outcomes
            outcomes[i] = got
            assert got == [expected([i, i], num)]

        async with Simulation(Faults(seed, max_delay_s=0.01)) as sim:
            async with anyio.create_task_group() as tasks:
                for i in range(30):
                    tasks.start_soon(one, sim, i)
                for _ in range(3):
                    await anyio.sleep(rng.random() * 0.8)
                    await sim.kill(rng.choice(["target", "target", "scheduler", "tokenizer"]), down_s=rng.random())
            assert len(outcomes) == 30
            await anyio.sleep(2.0)
            assert await ask(sim, "after", [7], 5) == [expected([7], 5)]
            await anyio.sleep(1.0)
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("seed", range(5))
def test_a_dead_target_costs_no_call_and_no_token(seed: int) -> None:
    async def main() -> None:
        async with Simulation(Faults(seed, max_delay_s=0.01)) as sim:
            done: list[bool] = []

            async def one(i: int) -> None:
                assert await ask(sim, f"c{i}", [i], 50) == [expected([i], 50)]
                done.append(True)

            async with anyio.create_task_group() as tasks:
                for i in range(8):
                    tasks.start_soon(one, i)
                for _ in range(3):
                    await anyio.sleep(0.1)
                    await sim.kill("target")
            assert len(done) == 8
            assert sim.scheduler.stats() is not None
            settle(sim)

    simulate(main)


def test_calls_wait_for_a_lost_target_only_so_long() -> None:
    async def main() -> None:
        async with Simulation(Faults(1, max_delay_s=0.01)) as sim:
            outcomes: list[Outcome] = []

            async def one() -> None:
                outcomes.append(await ask(sim, "c", [1], 100))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await anyio.sleep(0.1)
                begun = anyio.current_time()
                tasks.start_soon(lambda: sim.kill("target", down_s=200.0))
                while not outcomes:
                    await anyio.sleep(0.1)
                assert WAIT_FOR_TARGET_S <= anyio.current_time() - begun < WAIT_FOR_TARGET_S + 1
            [error] = outcomes
            assert isinstance(error, UnavailableError) and error.code == "engine_unavailable"
            assert await ask(sim, "d", [1], 3) == [expected([1], 3)]

    simulate(main)


def test_closing_a_call_frees_its_blocks_at_once() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            call = Generate("c", Sampling(max_tokens=190), prompts=[[1, 2, 3]], n=4)
            async with contextlib.aclosing(sim.client.generate(call)) as items:
                async for item in items:
                    if isinstance(item, TextDelta) and item.num_tokens > 3:
                        break
            core = sim.scheduler.core
            assert core is not None and core.stats().num_running == 4
            await anyio.sleep(0.01)
            settle(sim)
            stats = sim.scheduler.stats()
            assert stats is not None and stats.values["request_success/abort"] == 4

    simulate(main)


def test_a_deadline_ends_a_queued_call_and_a_running_one() -> None:
    class Slow(FakeTarget):
        delay_s = 0.5

    class SlowSimulation(Simulation):
        roles = Simulation.roles | {"target": Slow}

    async def main() -> None:
        async with SlowSimulation(settings=config(max_num_seqs=1)) as sim:
            outcomes: dict[str, Outcome] = {}

            async def one(name: str) -> None:
                outcomes[name] = await ask(sim, name, [1], 150, timeout_s=5.0)

            begun = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, "running")
                tasks.start_soon(one, "queued")
            assert anyio.current_time() - begun < 7.0
            assert all(isinstance(o, DeadlineError) for o in outcomes.values()), outcomes
            await anyio.sleep(1.0)
            settle(sim)

    simulate(main)


def test_a_call_ends_by_the_clients_own_clock_when_nobody_answers() -> None:
    async def main() -> None:
        async with Simulation(Faults(3, lose=1.0)) as sim:
            begun = anyio.current_time()
            outcome = await ask(sim, "c", [1], 5, timeout_s=30.0)
            assert isinstance(outcome, DeadlineError)
            assert 30.0 <= anyio.current_time() - begun <= 45.0

    simulate(main)


def test_a_full_queue_is_refused_with_a_time_to_come_back() -> None:
    async def main() -> None:
        async with Simulation(settings=config(max_num_seqs=2, max_queued_requests=3)) as sim:
            outcomes: list[Outcome] = []

            async def one(i: int) -> None:
                outcomes.append(await ask(sim, f"c{i}", [i], 30))

            async with anyio.create_task_group() as tasks:
                for i in range(20):
                    tasks.start_soon(one, i)
            refused = [o for o in outcomes if isinstance(o, UnavailableError)]
            assert len(refused) == 15
            assert all(o.code == "queue_full" and o.retry_after_s >= 1 for o in refused)
            stats = sim.scheduler.stats()
            assert stats is not None and stats.values["admission_rejections/max_num_queued_reqs"] == 15
            settle(sim)

    simulate(main)


def test_a_full_mailbox_slows_everybody_down_and_loses_nothing() -> None:
    async def main() -> None:
        async with Simulation(Faults(1, max_delay_s=0.05), mark=12) as sim:
            outcomes: list[Outcome] = []

            async def one(i: int) -> None:
                await anyio.sleep(0.1 * i)
                outcomes.append(await ask(sim, f"c{i}", [i], 30))

            async with anyio.create_task_group() as tasks:
                for i in range(10):
                    tasks.start_soon(one, i)
            for outcome in outcomes:
                assert isinstance(outcome, UnavailableError) or len(outcome[0]) == 30  # type: ignore[index]
            assert any(not isinstance(o, PacelineError) for o in outcomes)
            await anyio.sleep(1.0)
            settle(sim)

    simulate(main)


def test_the_scheduler_checks_again_what_others_should_have_checked() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            tokenizer = sim.network.mailbox("tokenizer", 1)  # one that checks nothing
            for i, (prompt, num) in enumerate((([5000], 5), ([1], 10_000), ([], 5), ([-1], 5))):
                tokenizer.send("scheduler", Add(f"c-{i}", prompt, SamplingParams(max_tokens=num)))
                while not isinstance(answer := (await tokenizer.receive())[1], Refused):
                    pass
                assert (answer.request_id, answer.error.kind) == (f"c-{i}", "invalid"), (prompt, num)
            settle(sim)

    simulate(main)


@pytest.mark.parametrize("load_s", [20.0, 200.0])
def test_what_comes_before_the_first_target_waits_for_it(load_s: float) -> None:
    class Late(FakeTarget):
        async def start(self) -> None:
            await anyio.sleep(load_s)
            await super().start()

    class LateSimulation(Simulation):
        roles = Simulation.roles | {"target": Late}

    async def main() -> None:
        async with LateSimulation(settings=config(max_queued_requests=3)) as sim:
            begun = anyio.current_time()
            outcomes: dict[int, Outcome] = {}

            async def one(i: int) -> None:
                outcomes[i] = await ask(sim, f"c{i}", [i], 5)

            async with anyio.create_task_group() as tasks:
                for i in range(3):
                    tasks.start_soon(one, i)
                gone = Generate("gone", Sampling(max_tokens=5), prompts=[[1]])
                with anyio.move_on_after(1.0):
                    async with contextlib.aclosing(sim.client.generate(gone)) as items:
                        async for _ in items:
                            pass
            waited_s = anyio.current_time() - begun
            [full] = [o for o in outcomes.values() if isinstance(o, UnavailableError) and o.code == "starting"]
            others = [o for o in outcomes.values() if o is not full]
            if load_s < WAIT_FOR_TARGET_S:
                assert not [o for o in others if isinstance(o, PacelineError)] and waited_s < load_s + 1
            else:
                assert all(isinstance(o, UnavailableError) and o.code == "engine_unavailable" for o in others)
                assert waited_s < WAIT_FOR_TARGET_S + 1
            await anyio.sleep(load_s)
            settle(sim)

    simulate(main)


def test_a_target_that_comes_back_smaller_ends_what_ran() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            outcomes: list[Outcome] = []

            async def one() -> None:
                outcomes.append(await ask(sim, "c", [1], 150))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await anyio.sleep(0.0)
                while not sim.scheduler._live:
                    await anyio.sleep(0)
                FakeTarget.num_blocks = 32
                try:
                    await sim.kill("target")
                    await anyio.sleep(0.1)
                finally:
                    FakeTarget.num_blocks = 64
            [outcome] = outcomes
            assert isinstance(outcome, UnavailableError)
            assert sim.scheduler.core is not None and sim.scheduler.core.config.num_blocks == 32
            assert await ask(sim, "d", [1], 3) == [expected([1], 3)]
            settle(sim)

    simulate(main)


def test_results_of_a_voided_plan_and_strangers_are_ignored() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            scheduler = sim.scheduler
            await scheduler.handle("target", StepResult(77, [RowResult("x-0", 0, [1])]))
            await scheduler.handle("target", Hello("target", 1, -1))
            await scheduler.handle("tokenizer", Stop())
            assert await ask(sim, "d", [1], 3) == [expected([1], 3)]
            settle(sim)

    simulate(main)


def test_one_request_the_target_cannot_serve_fails_alone() -> None:
    class Picky(FakeTarget):
        def step(self, plan: Any) -> StepResult:
            from paceline.engine.types import ErrorInfo

            result = super().step(plan)
            rows = [
                msgspec.structs.replace(r, token_ids=[], error=ErrorInfo("internal", "bad state"))
                if r.request_id.startswith("bad")
                else r
                for r in result.rows
            ]
            return msgspec.structs.replace(result, rows=rows)

    class PickySimulation(Simulation):
        roles = Simulation.roles | {"target": Picky}

    async def main() -> None:
        async with PickySimulation() as sim:
            outcomes: dict[str, Outcome] = {}

            async def one(name: str) -> None:
                outcomes[name] = await ask(sim, name, [1], 20)

            async with anyio.create_task_group() as tasks:
                for name in ("good", "bad", "fine"):
                    tasks.start_soon(one, name)
            assert isinstance(outcomes["bad"], PacelineError) and "bad state" in str(outcomes["bad"])
            assert outcomes["good"] == outcomes["fine"] == [expected([1], 20)]
            settle(sim)

    simulate(main)


def test_a_drained_scheduler_finishes_and_takes_nothing_new() -> None:
    async def main() -> None:
        from paceline.actors.messages import Drain

        async with Simulation() as sim:
            outcomes: list[Outcome] = []

            async def one(name: str) -> None:
                outcomes.append(await ask(sim, name, [1], 50))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, "early")
                while not sim.scheduler._live:
                    await anyio.sleep(0)
                sim.supervisor.send("scheduler", Drain())
                while not sim.scheduler.draining:
                    await anyio.sleep(0)
                await sim.scheduler.handle("tokenizer", Add("late-0", [1], SamplingParams(max_tokens=2)))
            assert outcomes == [[expected([1], 50)]]
            assert sim.scheduler.core is not None and not sim.scheduler._live
            assert await sim._tasks["scheduler"] == 0
            sim.roles = {k: v for k, v in sim.roles.items() if k != "scheduler"}

    simulate(main)


def test_tokenize_and_detokenize_answer() -> None:
    async def main() -> None:
        from paceline.actors.messages import Detokenize

        async with Simulation() as sim:
            assert (await sim.client.tokenize(Tokenize("t", "104 105 "))).token_ids == [104, 105]
            assert (await sim.client.detokenize(Detokenize("u", [1, 2]))).text == "1 2 "
            assert sim.client.num_open == 0

    simulate(main)


def test_bad_frames_are_counted_where_people_look() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            for name in ("scheduler", "tokenizer"):
                sim.network.inbox(f"{name}.0".encode()).append((b"gateway.0", b"rubbish"))
            assert await ask(sim, "c", [1], 3) == [expected([1], 3)]
            await anyio.sleep(2.0)
            for name in ("scheduler", "tokenizer"):
                assert sim.client.stats[name].values[f"wire_decode_errors/{name}"] == 1

    simulate(main)


def test_counters_add_up() -> None:
    async def main() -> None:
        async with Simulation() as sim:
            for i in range(3):
                await ask(sim, f"c{i}", [1] * 20, 10)
            await anyio.sleep(2.0)
            stats = sim.client.stats["scheduler"]
            assert stats.values["prompt_tokens"] == 60
            assert stats.values["generation_tokens"] == 30
            assert stats.values["request_success/length"] == 3
            assert stats.values["prompt_tokens_cached"] == stats.values["prefix_cache_hits"] == 2 * 16
            assert stats.values["num_requests_running"] == 0
            assert stats.values["kv_blocks_free"] == stats.values["kv_blocks_total"] == FakeTarget.num_blocks
            refused = Refused("x", PacelineError("x").info())
            assert isinstance(refused, Refused)

    simulate(main)
