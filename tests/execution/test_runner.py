"""The runner under random plans gives, token by token, what the naive loop gives."""

import random

import pytest
import torch
from naive import generate, judge
from random_params import some_params
from random_plans import RandomPlans, Stream
from toy_model import ToyModel

from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.spec_decode.rules import coupled

BLOCK = 4
POOL = 40


def runner_of(model: ToyModel, num_blocks: int = POOL) -> Runner:
    return Runner(model, allocate(model.config, num_blocks, BLOCK, torch.float32), coupled.build())


def streams_of(model: ToyModel, rng: random.Random, kind: str, count: int) -> list[Stream]:
    vocab = model.config.vocab_size
    shared = [rng.randrange(vocab) for _ in range(18)]
    streams = []
    for i in range(count):
        own = [rng.randrange(vocab) for _ in range(rng.randint(1, 20))]
        prompt = shared[: rng.choice([0, 9, 18])] + own
        params = some_params(rng, vocab, kind)
        answer = generate(model, prompt, params, dtype=torch.float32)
        streams.append(Stream(f"r{i}", prompt, params, answer))
    return streams


@pytest.mark.parametrize(("depth", "trees"), [(0, False), (1, False), (5, False), (3, True)])
@pytest.mark.parametrize("kind", ["greedy", "seeded", "everything"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_schedule_gives_the_naive_tokens(kind: str, depth: int, trees: bool, seed: int) -> None:
    rng = random.Random(f"{kind}{depth}{seed}")
    model = ToyModel(seed=seed)
    streams = streams_of(model, rng, kind, 12)
    plans = RandomPlans(streams, num_blocks=POOL, block_size=BLOCK, depth=depth, seed=seed, trees=trees)
    plans.run(runner_of(model))
    for stream in plans.streams:
        expected = judge(model, stream.prompt, stream.params, dtype=torch.float32)
        assert stream.output == expected.token_ids
        assert stream.logprobs == (expected.logprobs or [])
        assert [e for _, e in sorted(stream.prompt_logprobs.items())] == (expected.prompt_logprobs or [])
    assert plans.num_preempted > 0 and plans.num_shared > 0, "the schedule was too tame to show anything"
    assert depth == 0 or sum(s.accepted for s in plans.streams) > 0
