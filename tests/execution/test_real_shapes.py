"""The runner over a real (tiny, random) Llama with the default int8 kernels and bf16 pages gives the naive tokens."""

import random

import pytest
import torch
from naive import Generated, judge, load
from random_params import some_params
from random_plans import RandomPlans, Stream
from tiny_models import make_llama

from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.nn.model import Model
from paceline.spec_decode.rules import coupled


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_llama(tmp_path_factory.mktemp("llama")))


@pytest.mark.parametrize("kind", ["greedy", "everything"])
@pytest.mark.parametrize("depth", [0, 3])
def test_any_schedule_gives_the_naive_tokens(llama: Model, kind: str, depth: int) -> None:
    rng = random.Random(f"{kind}{depth}")
    vocab = llama.config.vocab_size
    shared = [rng.randrange(vocab) for _ in range(40)]
    streams: list[Stream] = []
    answers: list[Generated] = []
    for i in range(8):
        prompt = shared[: rng.choice([0, 20, 40])] + [rng.randrange(vocab) for _ in range(rng.randint(1, 30))]
        params = some_params(rng, vocab, kind)
        answers.append(judge(llama, prompt, params))
        streams.append(Stream(f"r{i}", prompt, params, answers[-1].token_ids))
    plans = RandomPlans(streams, num_blocks=36, block_size=8, depth=depth, seed=depth)
    plans.run(Runner(llama, allocate(llama.config, 36, 8, torch.bfloat16), coupled.build()))
    for stream, answer in zip(streams, answers, strict=True):
        assert stream.output == answer.token_ids
        assert stream.logprobs == (answer.logprobs or [])
        assert [e for _, e in sorted(stream.prompt_logprobs.items())] == (answer.prompt_logprobs or [])
    assert plans.num_shared > 0 and plans.step > 20
