"""The draft model in a process of its own: same text, drafts accepted, and its death is nobody's failure."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
import tiny_models
from msgspec.structs import replace
from naive import generate as judge
from naive import load

from paceline.actors.client import EngineClient
from paceline.actors.messages import Generate, Sampling, TextDelta
from paceline.engine.config import Cache, Config, Speculation, Target
from paceline.engine.store import card, resolve
from paceline.engine.types import SamplingParams, SpeculationStats

pytestmark = pytest.mark.e2e
PROMPTS = [[40, 7, 99, 300, 12], [5] * 40, [260, 261, 262]]
NUM = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    target = tiny_models.make_llama(root / "target", seed=1)
    small = tiny_models.make_llama(root / "small", seed=2, hidden_size=32, num_hidden_layers=1)
    return {"target": target, "small": small, "same": target}


def settings(model: Path, **method: Any) -> Config:
    table = {"model": str(model), "dtype": "float32", "num_blocks": 64, "timeout_ms": 2000.0, **method}
    return Config(
        target=Target(dtype="float32", num_threads=1),
        cache=Cache(num_blocks=128),
        speculation=Speculation(
            methods=["draft_model"], policy="fixed", max_draft_tokens=4, settings={"draft_model": table}
        ),
    )


def launch(config: Config, target: Path) -> contextlib.AbstractAsyncContextManager[EngineClient]:
    located = resolve.locate(str(target), download=False)
    return EngineClient.launch(replace(config, model=str(target)), located, card.read(located))


async def ask(
    client: EngineClient, name: str, prompt: list[int], temperature: float, num: int = NUM, top_k: int = 0
) -> tuple[list[int], SpeculationStats | None]:
    sampling = Sampling(max_tokens=num, temperature=temperature, top_p=1.0, top_k=top_k, seed=9, ignore_eos=True)
    call = Generate(name, sampling, prompts=[prompt], return_token_ids=True)
    ids: list[int] = []
    report = None
    async with contextlib.aclosing(client.generate(call)) as items:
        async for item in items:
            if isinstance(item, TextDelta):
                ids += item.token_ids
                report = item.speculation or report
    return ids, report


def expected(target: Path, prompt: list[int], temperature: float, num: int = NUM) -> list[int]:
    params = SamplingParams(max_tokens=num, temperature=temperature, seed=9, ignore_eos=True)
    return judge(load(target, "float32"), prompt, params)


async def all_ok(client: EngineClient) -> None:
    """Wait until every actor can work, the draft's too."""
    with anyio.fail_after(60):
        while client.state is None or any(actor.state != "ok" for actor in client.state.actors):
            await anyio.sleep(0.05)


async def drafted(client: EngineClient, name: str) -> SpeculationStats:
    """What speculation did for a request, once there is a draft actor to do it."""
    with anyio.fail_after(60):
        while True:
            _, report = await ask(client, name, PROMPTS[0], 0.0)
            if report is not None and report.num_draft_tokens:
                return report
            await anyio.sleep(0.2)


@pytest.mark.parametrize("mode", ["sync", "ahead", "enumerate"])
def test_text_is_the_same_and_equal_models_agree(models: dict[str, Path], mode: str) -> None:
    async def main() -> None:
        async with launch(settings(models["same"], mode=mode), models["target"]) as client:
            await all_ok(client)
            work = [(prompt, temperature) for prompt in PROMPTS for temperature in (0.0, 1.0)]
            answers = await asyncio.gather(*(ask(client, f"c{i}", *w) for i, w in enumerate(work)))
            assert [ids for ids, _ in answers] == [expected(models["target"], *w) for w in work]
            reports = [report for _, report in answers if report is not None]
            assert sum(r.num_draft_tokens for r in reports) > 0
            assert all(r.num_accepted == r.num_draft_tokens for r in reports)

    anyio.run(main)


def test_drafts_drawn_from_a_law_are_judged_by_it(models: dict[str, Path]) -> None:
    """Where target and drafter are one model and the law names all that can be drawn, nearly nothing is refused."""

    async def main() -> None:
        config = settings(models["same"], q="sparse")
        config = replace(config, speculation=replace(config.speculation, rule="token"))
        async with launch(config, models["target"]) as client:
            await all_ok(client)
            ids, _ = await ask(client, "cold", PROMPTS[0], 0.0)
            assert ids == expected(models["target"], PROMPTS[0], 0.0)
            _, report = await ask(client, "hot", PROMPTS[0], 1.0, num=100, top_k=20)
            assert report is not None and report.num_draft_tokens > 20
            assert report.num_accepted >= 0.9 * report.num_draft_tokens

    anyio.run(main)


def test_a_stopped_draft_actor_costs_a_wait_and_drafts_again_when_it_goes_on(models: dict[str, Path]) -> None:
    async def main() -> None:
        async with launch(settings(models["small"], timeout_ms=50.0), models["target"]) as client:
            await drafted(client, "before")
            with anyio.fail_after(10):
                while client.state is None:
                    await anyio.sleep(0.05)
            pid = next(actor.pid for actor in client.state.actors if actor.name == "draft")
            os.kill(pid, signal.SIGSTOP)
            try:
                answers = await asyncio.gather(*(ask(client, f"c{i}", p, 0.0) for i, p in enumerate(PROMPTS)))
                assert [ids for ids, _ in answers] == [expected(models["target"], p, 0.0) for p in PROMPTS]
            finally:
                os.kill(pid, signal.SIGCONT)
            await drafted(client, "after")

    anyio.run(main)


def test_kill_9_of_the_draft_actor_under_load(models: dict[str, Path]) -> None:
    async def main() -> None:
        async with launch(settings(models["small"]), models["target"]) as client:
            await drafted(client, "before")
            work = [(prompt, temperature, 120) for prompt in PROMPTS for temperature in (0.0, 1.0)]
            running = [asyncio.create_task(ask(client, f"c{i}", *w)) for i, w in enumerate(work)]
            await anyio.sleep(0.1)
            with anyio.fail_after(10):
                while client.state is None:
                    await anyio.sleep(0.05)
            pid = next(actor.pid for actor in client.state.actors if actor.name == "draft")
            os.kill(pid, signal.SIGKILL)
            answers = await asyncio.gather(*running)
            assert [ids for ids, _ in answers] == [expected(models["target"], *w) for w in work]
            await drafted(client, "after")
            ids, _ = await ask(client, "last", PROMPTS[1], 0.0)
            assert ids == expected(models["target"], PROMPTS[1], 0.0)

    anyio.run(main)


def test_a_model_of_another_vocabulary_drafts_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_models.make_llama(tmp_path / "other", seed=3)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    one, other_one = list(vocab)[300:302]
    vocab[one], vocab[other_one] = vocab[other_one], vocab[one]
    path.write_text(json.dumps(tokenizer))

    async def main() -> None:
        async with launch(settings(other), models["target"]) as client:
            await all_ok(client)
            ids, report = await ask(client, "c", PROMPTS[0], 0.0)
            assert ids == expected(models["target"], PROMPTS[0], 0.0)
            assert report is None or report.num_draft_tokens == 0

    anyio.run(main)


def test_an_engine_whose_draft_actor_cannot_start_serves(models: dict[str, Path]) -> None:
    async def main() -> None:
        config = settings(models["small"], num_blocks=1 << 31)
        async with launch(config, models["target"]) as client:
            ids, _ = await ask(client, "c", PROMPTS[0], 1.0)
            assert ids == expected(models["target"], PROMPTS[0], 1.0)
            state = client.state
            assert state is None or state.state in ("ok", "degraded")

    anyio.run(main)
