"""Every sampling feature with every method: what a request gets is what it gets without speculation.

One crowd of requests asks for each feature alone, greedy and sampled; each method serves it, with small prompt chunks,
a warm prefix cache, one or two plans in flight, and a drafter that misbehaves. The judge is ``naive.py``.
"""

import functools
import random
from typing import Any

import anyio
import pytest
import torch
from naive import Generated, judge
from outside import chaos_speculator
from repeating_model import Loop
from simulation import simulate
from spec_engine import Engine, config

from paceline.actors.messages import Abort
from paceline.engine.config import Speculation
from paceline.engine.core.plan import RequestOutput
from paceline.engine.types import SamplingParams

CHAOS = "outside.chaos_speculator"
PHRASES = [[7, 3, 9, 1, 4, 3, 9], [2, 2, 5], [10, 4, 6, 8, 1, 0, 3, 5, 9, 7, 2, 6] * 3, [1] * 9, [6, 8], [5, 0, 10, 3]]
"""Prompts: repeating, short, longer than a chunk, all the same."""
LOW = list(range(11))
"""Ids that the model's repetitions are made of."""

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.3},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.05},
    "all filters": {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "temperature": 0.7},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.7},
    "repetition": {"repetition_penalty": 1.3},
    "all penalties": {"presence_penalty": 0.5, "frequency_penalty": -0.4, "repetition_penalty": 0.8},
    "bias": {"logit_bias": {3: 4.0, 9: -100.0, 50: 2.0}},
    "allowed": {"allowed_token_ids": [*LOW[::2], 40, 41]},
    "bad words": {"bad_words": [[3], [9, 1], [4, 3, 9], [1, 1, 1, 1]]},
    "end": {"end_ids": [3, 8]},
    "end ignored": {"end_ids": [3, 8], "ignore_eos": True},
    "min_tokens": {"end_ids": [3, 8, 1], "min_tokens": 9},
    "stop ids": {"stop_token_ids": [9], "min_tokens": 2},
    "one token": {"max_tokens": 1},
    "two tokens": {"max_tokens": 2},
    "logprobs": {"logprobs": 3},
    "own logprobs": {"logprobs": 0, "top_k": 4},
    "all logprobs": {"logprobs": -1, "max_tokens": 5},
    "logprobs of ids": {"logprobs": 0, "logprob_token_ids": [1, 50]},
    "prompt logprobs": {"prompt_logprobs": 2, "logprobs": 1},
    "all at once": {
        "top_p": 0.9, "presence_penalty": 0.4, "repetition_penalty": 1.1, "logit_bias": {5: 1.0}, "min_tokens": 4,
        "bad_words": [[9, 1]], "end_ids": [8], "logprobs": 2,
    },
}  # fmt: skip
Work = dict[str, tuple[list[int], SamplingParams]]


@functools.cache
def crowd() -> tuple[Work, dict[str, Generated]]:
    """Every feature, greedy and sampled, over every phrase; and what is right."""
    work: Work = {}
    for number, (feature, fields) in enumerate(FEATURES.items()):
        for temperature in (0.0, 1.0):
            if temperature == 0.0 and "temperature" in fields:
                continue
            for place, phrase in enumerate(PHRASES):
                asked = {"max_tokens": 20, "temperature": temperature, "seed": 100 * number + place, **fields}
                work[f"{feature} {temperature:g} {place}"] = phrase, SamplingParams(**asked)
    return work, {name: judge(model(), *asked, dtype=torch.float32) for name, asked in work.items()}


@functools.cache
def model() -> Loop:
    return Loop(seed=5)


def section(*methods: str, depth: int = 5, **keys: Any) -> Speculation:
    settings: dict[str, dict[str, Any]] = {CHAOS: {"wild": True, "right": 0.85}} if CHAOS in methods else {}
    if "draft_model" in methods:
        settings["draft_model"] = {"model": "a model of the test's", **keys}
    return Speculation(methods=list(methods), policy="fixed", max_draft_tokens=depth, settings=settings)


METHODS: dict[str, Speculation] = {
    "ngram": section("ngram"),
    "suffix": section("suffix"),
    "chaos": section(CHAOS),
    "draft_model, sync": section("draft_model"),
    "draft_model, ahead": section("draft_model", mode="ahead"),
    "draft_model, enumerate": section("draft_model", mode="enumerate", fanout=2),
    "suffix and draft_model": section("suffix", "draft_model"),
    "goodput": Speculation(methods=["suffix"]),
}


def serve(
    speculation: Speculation,
    work: Work,
    answers: dict[str, Generated],
    *,
    num_blocks: int = 400,
    mischief: int | None = None,
    **scheduler: Any,
) -> Engine:
    """All of ``work`` at once; returns the finished engine."""
    chaos_speculator.ANSWERS.clear()
    chaos_speculator.ANSWERS.update({name: [*work[name][0], *a.token_ids] for name, a in answers.items()})
    settings = config(speculation, max_num_seqs=12, max_num_batched_tokens=24, **scheduler)
    drafter = Loop(seed=5, doubt=0.3) if "draft_model" in speculation.methods else None

    async def main() -> Engine:
        async with Engine(
            settings, model=model(), num_blocks=num_blocks, drafter=drafter, mischief=mischief
        ) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params)
            await engine.finish()
            return engine

    return simulate(main)


def compare(outputs: dict[str, list[RequestOutput]], answers: dict[str, Generated]) -> None:
    for name, answer in answers.items():
        mine = outputs[name]
        assert [token for output in mine for token in output.token_ids] == answer.token_ids, name
        assert mine[-1].finish_reason == answer.finish_reason, name
        assert [e for output in mine for e in output.logprobs or []] == (answer.logprobs or []), name
        assert (mine[0].prompt_logprobs or []) == (answer.prompt_logprobs or []), name


def accepted(engine: Engine) -> int:
    reports = [outputs[-1].speculation for outputs in engine.outputs.values() if outputs]
    return sum(report.num_accepted for report in reports if report is not None)


@pytest.mark.parametrize(
    ("method", "in_flight"), [*((method, 2) for method in METHODS), ("suffix", 1), ("chaos", 1), ("goodput", 1)]
)
def test_every_feature(method: str, in_flight: int) -> None:
    work, answers = crowd()
    assert len(work) > 200
    engine = serve(METHODS[method], work, answers, max_in_flight=in_flight)
    compare(engine.outputs, answers)
    assert accepted(engine) > 200


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_had_drafts_accepted(feature: str) -> None:
    """The matrix above says something of each of its rows: drafts were accepted there, and for most refused."""
    work, answers = crowd()
    mine = {name: asked for name, asked in work.items() if name.startswith(f"{feature} ")}
    engine = serve(METHODS["chaos"], mine, {name: answers[name] for name in mine})
    reports = [outputs[-1].speculation for outputs in engine.outputs.values()]
    found = [report for report in reports if report is not None]
    if FEATURES[feature].get("max_tokens", 20) <= 2:
        assert not found  # the first token needs the prompt, and the last one is the target's own
        return
    assert sum(report.num_accepted for report in found) > 0
    if FEATURES[feature].get("max_tokens", 20) == 20:
        assert sum(report.num_accepted for report in found) < sum(report.num_draft_tokens for report in found)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_greedy_text_at_every_accept_length(depth: int) -> None:
    """Steps in which 0, 1, ... depth drafts were accepted have all been seen, and the text is the greedy one."""
    work, answers = crowd()
    mine = {name: asked for name, asked in work.items() if asked[1].temperature == 0.0}
    engine = serve(section(CHAOS, depth=depth), mine, {name: answers[name] for name in mine})
    compare(engine.outputs, {name: answers[name] for name in mine})
    reports = [outputs[-1].speculation for outputs in engine.outputs.values()]
    histograms = [report.acceptance_histogram for report in reports if report is not None]
    assert all(sum(counts) > 0 for counts in zip(*histograms, strict=True))


@pytest.mark.parametrize("mode", ["sync", "ahead", "enumerate"])
def test_a_draft_actor_that_misbehaves(mode: str) -> None:
    """Late, lost, doubled, foreign, stale, wrong, untruthful and impossible drafts by mail, over all features."""
    work, answers = crowd()
    some = dict(random.Random(mode).sample(sorted(work.items()), 80))
    wanted = {name: answers[name] for name in some}
    engine = serve(section("draft_model", mode=mode), some, wanted, mischief=3)
    compare(engine.outputs, wanted)
    stats = engine.scheduler.stats()
    assert stats is not None and accepted(engine) > 20
    assert stats.values["spec_stale_drafts/epoch"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_under_preemption(method: str) -> None:
    work = {f"r{i}": (PHRASES[i % 6], SamplingParams(max_tokens=40, temperature=i % 2, seed=i)) for i in range(12)}
    answers = {name: judge(model(), *asked, dtype=torch.float32) for name, asked in work.items()}
    engine = serve(METHODS[method], work, answers, num_blocks=24)
    compare(engine.outputs, answers)
    stats = engine.scheduler.stats()
    assert stats is not None and stats.values["num_preemptions"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_prefix_cache_holds_no_draft(method: str) -> None:
    """The second wave begins with the first one's texts: a block that held a refused draft would change its tokens."""
    first: Work = {}
    for i, phrase in enumerate(PHRASES * 2):
        first[f"a{i}"] = phrase, SamplingParams(max_tokens=30, temperature=i % 2, seed=i)
    answers = {name: judge(model(), *asked, dtype=torch.float32) for name, asked in first.items()}
    second: Work = {}
    for i, (name, (prompt, params)) in enumerate(first.items()):
        prompt = [*prompt, *answers[name].token_ids[: 30 - i], i]
        second[f"b{i}"] = prompt, SamplingParams(max_tokens=12, temperature=params.temperature, seed=i)
    answers |= {name: judge(model(), *asked, dtype=torch.float32) for name, asked in second.items()}
    chaos_speculator.ANSWERS.clear()
    chaos_speculator.ANSWERS.update(
        {name: [*prompt, *answers[name].token_ids] for name, (prompt, _) in (first | second).items()}
    )
    drafter = Loop(seed=5, doubt=0.3) if "draft_model" in METHODS[method].methods else None

    async def main() -> Engine:
        async with Engine(config(METHODS[method]), model=model(), num_blocks=600, drafter=drafter) as engine:
            for work in (first, second):
                for name, (prompt, params) in work.items():
                    engine.add(name, prompt, params)
                await engine.finish()
            return engine

    engine = simulate(main)
    compare(engine.outputs, answers)
    assert sum(engine.outputs[name][0].num_cached for name in second) > 20 * len(second) / 2


@pytest.mark.parametrize("method", METHODS)
def test_choices_of_one_prompt(method: str) -> None:
    """n = 3: each choice is a request with a seed of its own, which waits for the first one's prompt."""
    names = [f"c{i}" for i in range(3)]
    work = {name: (PHRASES[2], SamplingParams(max_tokens=30, seed=i)) for i, name in enumerate(names)}
    answers = {name: judge(model(), *asked, dtype=torch.float32) for name, asked in work.items()}
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == 3
    chaos_speculator.ANSWERS.clear()
    chaos_speculator.ANSWERS.update({name: [*work[name][0], *a.token_ids] for name, a in answers.items()})
    drafter = Loop(seed=5, doubt=0.3) if "draft_model" in METHODS[method].methods else None

    async def main() -> Engine:
        async with Engine(config(METHODS[method]), model=model(), drafter=drafter) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params, fork_of=None if name == "c0" else "c0")
            await engine.finish()
            return engine

    compare(simulate(main).outputs, answers)


@pytest.mark.parametrize("method", METHODS)
def test_aborts_in_mid_run(method: str) -> None:
    """Those that stay get their text; of those that go, what came before is theirs; nothing is left behind."""
    work = {f"r{i}": (PHRASES[i % 6], SamplingParams(max_tokens=40, temperature=i % 2, seed=i)) for i in range(16)}
    answers = {name: judge(model(), *asked, dtype=torch.float32) for name, asked in work.items()}
    chaos_speculator.ANSWERS.clear()
    chaos_speculator.ANSWERS.update({name: [*work[name][0], *a.token_ids] for name, a in answers.items()})
    drafter = Loop(seed=5, doubt=0.3) if "draft_model" in METHODS[method].methods else None
    gone: dict[str, list[RequestOutput]] = {}

    async def main() -> Engine:
        async with Engine(config(METHODS[method], max_num_seqs=6), model=model(), drafter=drafter) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params)
            for i in range(0, 16, 3):
                await anyio.sleep(0.03)
                engine.tokenizer.send("scheduler", Abort(f"r{i}"))
                await anyio.sleep(0.005)
            for i in range(0, 16, 3):
                gone[f"r{i}"] = engine.outputs.pop(f"r{i}")
            await engine.finish()
            return engine

    engine = simulate(main)
    compare(engine.outputs, {name: answers[name] for name in engine.outputs})
    assert len(engine.outputs) == 10
    for name, outputs in gone.items():
        ids = [token for output in outputs for token in output.token_ids]
        assert ids == answers[name].token_ids[: len(ids)]


@pytest.mark.parametrize("seed", range(3))
def test_deaths_of_the_draft_actor(seed: int) -> None:
    rng = random.Random(seed)
    work = {f"r{i}": (PHRASES[i % 6], SamplingParams(max_tokens=50, temperature=i % 2, seed=i)) for i in range(12)}
    answers = {name: judge(model(), *asked, dtype=torch.float32) for name, asked in work.items()}

    async def main() -> Engine:
        settings = config(section("draft_model", mode=rng.choice(["sync", "ahead"])), max_num_seqs=4)
        async with Engine(settings, model=model(), drafter=Loop(seed=5), mischief=seed) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params)
            for _ in range(3):
                await anyio.sleep(rng.random() * 0.1)
                await engine.kill("draft", down_s=rng.random() * 0.2)
            await engine.finish()
            return engine

    engine = simulate(main)
    compare(engine.outputs, answers)
    assert accepted(engine) > 0
