"""The text with speculation is the text without: real scheduler shell, real runner; every method, depth and timing."""

import random

import anyio
import pytest
import torch
from naive import Generated, judge
from outside import chaos_speculator
from random_params import some_params
from repeating_model import VOCAB, Loop
from simulation import simulate
from spec_engine import Engine, config
from toy_model import ToyModel

from paceline.actors.memory_mailbox import Faults
from paceline.engine.config import Speculation
from paceline.engine.core.plan import Drafts
from paceline.engine.types import SamplingParams, SpeculationControl, SpeculationStats

CHAOS = "outside.chaos_speculator"
LONG = SamplingParams(max_tokens=40, temperature=0.0)  # three of these do not fit into 14 blocks
Work = dict[str, tuple[list[int], SamplingParams]]


def some_work(rng: random.Random, num: int, kind: str) -> Work:
    shared = [rng.randrange(VOCAB) for _ in range(14)]
    work: Work = {}
    for i in range(num):
        prompt = shared[: rng.choice([0, 14])] + [rng.randrange(11) for _ in range(rng.randint(1, 12))]
        work[f"r{i}"] = prompt, some_params(rng, VOCAB, kind)
    return work


def judged(model: ToyModel, work: Work) -> dict[str, Generated]:
    answers = {name: judge(model, *asked, dtype=torch.float32) for name, asked in work.items()}
    chaos_speculator.ANSWERS.clear()
    chaos_speculator.ANSWERS.update({name: [*work[name][0], *a.token_ids] for name, a in answers.items()})
    return answers


def compare(engine: Engine, answers: dict[str, Generated]) -> None:
    for name, answer in answers.items():
        outputs = engine.outputs[name]
        assert engine.tokens(name) == answer.token_ids, name
        assert outputs[-1].finish_reason == answer.finish_reason
        assert [e for o in outputs for e in o.logprobs or []] == (answer.logprobs or [])
        assert (outputs[0].prompt_logprobs or []) == (answer.prompt_logprobs or [])
        report = outputs[-1].speculation
        if report is not None:
            sound(report)


def sound(report: SpeculationStats) -> None:
    """The identities on which readers insist."""
    assert len(report.acceptance_histogram) == report.num_spec_tokens + 1
    assert 0 < report.num_steps <= report.num_draft_tokens
    assert report.num_accepted == sum(report.accepted.values()) <= report.num_draft_tokens
    assert report.num_draft_tokens == sum(report.drafted.values())
    if report.per_step_drafted is not None and report.per_step_accepted is not None:
        assert len(report.per_step_accepted) == len(report.per_step_drafted) == report.num_steps
        assert sum(report.per_step_accepted) == report.num_accepted
        assert sum(report.per_step_drafted) == report.num_draft_tokens


SETTINGS: dict[str, Speculation] = {
    "ngram": Speculation(methods=["ngram"], policy="fixed"),
    "suffix": Speculation(methods=["suffix"], policy="fixed"),
    "suffix-goodput": Speculation(methods=["suffix"]),
    "two": Speculation(methods=["suffix", CHAOS], policy="fixed", settings={CHAOS: {"right": 0.9}}),
    "chaos": Speculation(methods=[CHAOS], policy="fixed", settings={CHAOS: {"wild": True}}),
    "chaos-goodput": Speculation(methods=[CHAOS], settings={CHAOS: {"wild": True, "right": 0.95}}),
    "dying": Speculation(methods=[CHAOS, "ngram"], policy="fixed", settings={CHAOS: {"dies_after": 9}}),
    "table": Speculation(methods=[CHAOS], policy="table", table=[(1, 2, 3), (3, 4, 1)]),
}


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("num_blocks", [14, 200])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_crowd_gets_the_naive_text(name: str, num_blocks: int, in_flight: int) -> None:
    rng = random.Random(f"{name}{num_blocks}{in_flight}")
    model = Loop(seed=rng.randrange(1 << 20))
    work = {f"long{i}": ([rng.randrange(11) for _ in range(8)], LONG) for i in range(3)}
    work |= some_work(rng, 10, "everything")
    for kind in ("greedy", "seeded"):
        work |= {f"{kind}-{key}": value for key, value in some_work(rng, 4, kind).items()}
    answers = judged(model, work)
    settings = config(SETTINGS[name], max_in_flight=in_flight, max_num_seqs=8, max_num_batched_tokens=24)

    async def main() -> Engine:
        async with Engine(settings, model=model, num_blocks=num_blocks) as engine:
            for key, (prompt, params) in work.items():
                engine.add(key, prompt, params, speculation=SpeculationControl(detail=True, always_report=True))
                await anyio.sleep(0.0 if params is LONG else rng.choice([0.0, 0.0, 0.01]))
            await engine.finish()
            stats = engine.scheduler.stats()
            assert stats is not None and (num_blocks > 14 or stats.values["num_preemptions"] > 0)
            assert ("spec_disabled_state/fault" in stats.values) == (name == "dying")
            return engine

    engine = simulate(main)
    compare(engine, answers)
    if "goodput" not in name:
        assert any(outputs[-1].speculation for outputs in engine.outputs.values()), "nothing was ever drafted"


@pytest.mark.parametrize("depth", range(1, 9))
@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("method", ["ngram", "suffix", CHAOS])
def test_every_depth(method: str, in_flight: int, depth: int) -> None:
    rng = random.Random(f"{method}{depth}{in_flight}")
    model = Loop(seed=depth)
    work = some_work(rng, 4, "greedy") | {f"s{k}": v for k, v in some_work(rng, 4, "seeded").items()}
    answers = judged(model, work)
    section = Speculation(methods=[method], policy="fixed", max_draft_tokens=depth)

    async def main() -> Engine:
        async with Engine(config(section, max_in_flight=in_flight), model=model) as engine:
            for key, (prompt, params) in work.items():
                engine.add(key, prompt, params)
            await engine.finish()
            return engine

    compare(simulate(main), answers)


@pytest.mark.parametrize("seed", range(6))
def test_drafts_by_mail_late_stale_doubled_and_foreign(seed: int) -> None:
    """A drafter in another process: the scheduler trusts no stamp, no id and no order."""
    rng = random.Random(seed)
    model = Loop(seed=seed)
    work = some_work(rng, 12, "seeded")
    answers = judged(model, work)
    section = Speculation(methods=["suffix"], policy="fixed", max_draft_tokens=5)
    settings = config(section, max_in_flight=rng.choice([1, 2]), max_num_seqs=6)

    async def main() -> Engine:
        async with Engine(settings, model=model, faults=Faults(seed, max_delay_s=0.02)) as engine:
            for key, (prompt, params) in work.items():
                engine.add(key, prompt, params)
            running = True

            async def draft() -> None:
                while running:
                    name = rng.choice([*work, "nobody"])
                    prompt, answer = (work[name][0], answers[name].token_ids) if name in work else ([1], [2])
                    at = max(0, len(engine.tokens(name)) - rng.choice([0, 0, 1, 3])) if name in work else 0
                    ids = [t if rng.random() < 0.8 else rng.randrange(-1, VOCAB + 2) for t in answer[at : at + 6]]
                    drafts = Drafts(name, rng.choice([0, 0, 0, 1]), len(prompt) + at, ids, source="mail")
                    for _ in range(rng.choice([1, 1, 2])):
                        engine.tokenizer.send("scheduler", drafts)
                    await anyio.sleep(0.002)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(draft)
                await engine.finish()
                running = False
            return engine

    compare(simulate(main), answers)


@pytest.mark.parametrize("seed", range(4))
def test_a_target_that_dies_in_mid_run_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    model = Loop(seed=seed)
    work = some_work(rng, 8, "seeded")
    answers = judged(model, work)
    section = Speculation(methods=[CHAOS], policy="fixed", settings={CHAOS: {"right": 0.9}})

    async def main() -> Engine:
        async with Engine(config(section), model=model) as engine:
            for key, (prompt, params) in work.items():
                engine.add(key, prompt, params)
            await anyio.sleep(rng.random() * 0.05)
            await engine.kill("target")
            await engine.finish()
            return engine

    compare(simulate(main), answers)
