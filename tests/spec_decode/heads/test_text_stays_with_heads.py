"""The text with a head beside the target is the text without: real scheduler shell, real runner, fitted heads."""

import random
from typing import Any

import anyio
import head_runs
import pytest
import torch
from naive import judge
from random_params import some_params
from simulation import simulate
from spec_engine import Engine, config

from paceline.engine.config import Speculation
from paceline.engine.types import SpeculationControl
from paceline.spec_decode.heads.head import Guarded


def run(
    target: Any,
    kind: str,
    *,
    width: int = 1,
    num_blocks: int = 200,
    in_flight: int = 2,
    policy: Any = "fixed",
    methods: list[str] | None = None,
    kill: bool = False,
    pool: int = 64,
) -> tuple[Engine, list[Any]]:
    """All texts of ``target`` at once; the heads that its lives had."""
    method = kind.partition("-")[0]
    folder = target.heads[kind]
    section = Speculation(
        methods=methods or [method],
        policy=policy,
        max_draft_tokens=4,
        settings={method: {"model": str(folder), "width": width}},
    )
    heads: list[Any] = []

    def observer() -> Guarded:
        heads.append(head_runs.build(method, folder, target.model, width=width, pool=pool))
        return Guarded(heads[-1], method)

    async def main() -> Engine:
        settings = config(section, max_in_flight=in_flight, max_num_seqs=6, max_num_batched_tokens=24)
        engine = Engine(settings, model=target.model, num_blocks=num_blocks, make_observer=observer)
        async with engine:
            rng = random.Random(kind)
            for i, wrote in enumerate(target.wrote):
                control = SpeculationControl(detail=True, always_report=True)
                engine.add(f"r{i}", wrote.prompt, wrote.params, speculation=control)
                await anyio.sleep(rng.choice([0.0, 0.02]))
            if kill:
                await anyio.sleep(0.1)
                await engine.kill("target")
            while not all(outputs and outputs[-1].finish_reason for outputs in engine.outputs.values()):
                for head in heads:
                    head.check()
                await anyio.sleep(0.01)
            await engine.finish()
            runner = engine.target.runner
            assert len(heads[-1]._requests) <= runner.num_held  # those whose end goes with the next plan
            runner.forget()
            assert empty(heads[-1])
            return engine

    engine = simulate(main)
    for i, wrote in enumerate(target.wrote):
        assert engine.tokens(f"r{i}") == wrote.output
    return engine, heads


def link_stats(engine: Engine) -> dict[str, int]:
    head = engine.scheduler._head
    assert head is not None
    return head.stats()


def num_accepted(engine: Engine, source: str) -> int:
    reports = [outputs[-1].speculation for outputs in engine.outputs.values()]
    return sum(report.accepted.get(source, 0) for report in reports if report is not None)


@pytest.mark.parametrize(("num_blocks", "in_flight"), [(24, 2), (200, 1)])
@pytest.mark.parametrize("width", [1, 3])
def test_a_crowd_gets_its_text(target: Any, kind: str, width: int, num_blocks: int, in_flight: int) -> None:
    engine, _ = run(target, kind, width=width, num_blocks=num_blocks, in_flight=in_flight)
    assert num_accepted(engine, kind.partition("-")[0]) > 40
    told = link_stats(engine)
    assert told["answered"] > 0.8 * told["asked"]  # the rest were of requests that ended
    stats = engine.scheduler.stats()
    assert stats is not None and (num_blocks > 24 or stats.values["num_preemptions"] > 0)


def empty(head: Any) -> bool:
    """Nothing is kept of requests that have ended."""
    head.check()
    pages = getattr(head, "_pages", None)
    free = pages is None or len(pages.blocks._free) == pages.blocks.num_blocks
    return free and not len(head._requests)


def test_a_small_pool_of_its_own(target: Any) -> None:
    engine, _ = run(target, "eagle", pool=12)
    assert num_accepted(engine, "eagle") > 5


def test_behind_another_method_and_the_policy(target: Any, kind: str) -> None:
    method = kind.partition("-")[0]
    run(target, kind, methods=["suffix", method], policy="goodput")


def test_a_target_that_dies_takes_its_head_along(target: Any, kind: str) -> None:
    engine, heads = run(target, kind, kill=True)
    assert len(heads) == 2
    assert num_accepted(engine, kind.partition("-")[0]) > 5


def test_every_sampling_field(target: Any, kind: str) -> None:
    """Penalties, bias, words, filters, logprobs, stops: with a tree of drafts and requests that come and go."""
    rng = random.Random(kind)
    method = kind.partition("-")[0]
    work = {f"r{i}": (rng.choice(target.wrote).prompt, some_params(rng, 512, "everything")) for i in range(14)}
    answers = {name: judge(target.model, *asked, dtype=torch.float32) for name, asked in work.items()}
    folder = target.heads[kind]
    table = {"model": str(folder), "width": 2}
    section = Speculation(methods=[method], policy="fixed", max_draft_tokens=5, settings={method: table})

    async def main() -> Engine:
        settings = config(section, max_num_seqs=5, max_num_batched_tokens=24)
        made = lambda: head_runs.build(method, folder, target.model, width=2, max_draft_tokens=5)  # noqa: E731
        async with Engine(settings, model=target.model, num_blocks=40, make_observer=made) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params)
                await anyio.sleep(rng.choice([0.0, 0.03]))
            await engine.finish()
            return engine

    engine = simulate(main)
    for name, answer in answers.items():
        outputs = engine.outputs[name]
        assert engine.tokens(name) == answer.token_ids, name
        assert outputs[-1].finish_reason == answer.finish_reason
        assert [e.token_id for o in outputs for e in o.logprobs or []] == [e.token_id for e in answer.logprobs or []]
    told = link_stats(engine)
    assert told["answered"] > 0.8 * told["asked"]
    assert any(outputs[-1].speculation for outputs in engine.outputs.values()), "nothing was ever drafted"
