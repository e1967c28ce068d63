"""A real Llama in small, weights in int8 as served: text with speculation, greedy and sampled, equals text without."""

import random

import pytest
import torch
from naive import judge, load
from simulation import simulate
from spec_engine import Engine, config
from tiny_models import make_llama

from paceline.engine.config import Speculation
from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_llama(tmp_path_factory.mktemp("llama")), "int8")


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("method", ["ngram", "suffix"])
def test_text_is_the_same(model: Model, method: str, in_flight: int) -> None:
    rng = random.Random(f"{method}{in_flight}")
    work: dict[str, tuple[list[int], SamplingParams]] = {}
    for i in range(12):
        phrase = [rng.randrange(500) for _ in range(6)]
        warm, penalty = rng.choice([0.0, 0.0, 0.2, 0.8]), rng.choice([1.0, 0.7])
        params = SamplingParams(max_tokens=40, temperature=warm, seed=i, repetition_penalty=penalty)
        work[f"r{i}"] = phrase * 2 + phrase[: rng.randint(1, 6)], params
    section = Speculation(methods=[method], policy="fixed")

    async def main() -> Engine:
        async with Engine(config(section, max_in_flight=in_flight), model=model, num_blocks=400) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params)
            await engine.finish()
            return engine

    engine = simulate(main)
    for name, (prompt, params) in work.items():
        assert engine.tokens(name) == judge(model, prompt, params, dtype=torch.float32).token_ids
    reports = [outputs[-1].speculation for outputs in engine.outputs.values()]
    assert sum(r.num_accepted for r in reports if r is not None) > 5
