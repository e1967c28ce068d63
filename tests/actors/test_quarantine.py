"""A request that takes the target with it each time ends with an error of its own; everybody else's text stays."""

import anyio
from fake_actors import expected, text_of
from simulation import Simulation, settle, simulate

from paceline.actors.messages import Generate, Sampling, TextDelta
from paceline.engine.errors import PacelineError

BAD = [7, 7, 7]


class Slow(Simulation.roles["target"]):  # type: ignore[misc, name-defined]
    """Takes long enough over a step to be killed in it."""

    delay_s = 0.05


class SlowSimulation(Simulation):
    roles = Simulation.roles | {"target": Slow}


def test_a_poison_request_ends_and_the_others_go_on() -> None:
    async def main() -> None:
        async with SlowSimulation() as sim:
            texts: dict[str, str] = {}
            caught: dict[str, PacelineError] = {}

            async def one(name: str, prompt: list[int], delay_s: float) -> None:
                await anyio.sleep(delay_s)
                call = Generate(name, Sampling(max_tokens=60, seed=5), prompts=[prompt])
                try:
                    text = [item.text async for item in sim.client.generate(call) if isinstance(item, TextDelta)]
                    texts[name] = "".join(text)
                except PacelineError as e:
                    caught[name] = e

            async def poison() -> int:
                """Kill the target whenever the bad request stands in a plan; how often that was."""
                deaths = 0
                for _ in range(2000):
                    core = sim.scheduler.core
                    in_flight = core._running.in_flight() if core is not None else []
                    if any(r.tokens[: len(BAD)] == BAD for r in in_flight):
                        deaths += 1
                        await sim.kill("target")
                    if "bad" in caught:
                        return deaths
                    await anyio.sleep(0.005)
                raise AssertionError(f"after {deaths} deaths it is not over")

            async with anyio.create_task_group() as tasks:
                for i in range(4):
                    tasks.start_soon(one, f"good-{i}", [i + 1, 2], 0.0)
                tasks.start_soon(one, "bad", BAD, 0.5)
                assert await poison() == 3
            assert caught.keys() == {"bad"}
            assert caught["bad"].info().code == "request_quarantined"
            assert "died 3 times" in str(caught["bad"])
            for i in range(4):
                assert texts[f"good-{i}"] == text_of(expected([i + 1, 2], 60, 5))
            settle(sim)

    simulate(main)
