"""Vectors of prompts: those of transformers, and the same bits under any load, chunking, pool and plans in flight."""

import random
import warnings
from collections import deque
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from model_runs import load
from tiny_models import make_llama, make_qwen2

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import NewRequest, RequestOutput, Row, StepPlan, StepResult
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.pooling import Pool
from paceline.engine.execution.runner import Runner
from paceline.engine.nn.model import Model
from paceline.engine.types import Pooling, SamplingParams
from paceline.spec_decode.rules import coupled

BLOCK = 4
Kind = Literal["last", "mean"]


def params(kind: Kind, dimensions: int = 0) -> SamplingParams:
    return SamplingParams(max_tokens=0, pooling=Pooling(kind, dimensions))


def floats(vector: bytes | None) -> np.ndarray:
    assert vector is not None
    return np.frombuffer(vector, "<f4")


class Engine:
    """Core and runner without sockets."""

    def __init__(self, model: Model, *, num_blocks: int = 200, in_flight: int = 1, budget: int = 24) -> None:
        config = CoreConfig(
            num_blocks=num_blocks, block_size=BLOCK, max_num_seqs=8, max_num_batched_tokens=budget,
            max_in_flight=in_flight, max_model_len=96, vocab_size=model.config.vocab_size,
        )  # fmt: skip
        self.core = Scheduler(config)
        self.runner = Runner(model, allocate(model.config, num_blocks, BLOCK, torch.float32), coupled.build())
        self.last: dict[str, RequestOutput] = {}
        self._unanswered: deque[tuple[StepPlan, StepResult]] = deque()

    def add(self, name: str, prompt: list[int], wish: SamplingParams) -> None:
        self.core.add(name, prompt, wish, now=0.0)

    def step(self) -> None:
        while (plan := self.core.schedule(0.0)) is not None:
            self._unanswered.append((plan, self.runner.run(plan)))
        if self._unanswered:
            self.last |= {o.request_id: o for o in self.core.apply(*self._unanswered.popleft()) if o.finish_reason}
        self.core.check()

    def run(self) -> dict[str, RequestOutput]:
        while self.core.has_work():
            self.step()
        return self.last


def alone(model: Model, prompt: list[int], kind: Kind, budget: int = 96) -> bytes | None:
    engine = Engine(model, budget=budget)
    engine.add("a", prompt, params(kind))
    return engine.run()["a"].embedding


def some_prompts(rng: random.Random, count: int) -> list[list[int]]:
    shared = [rng.randrange(500) for _ in range(18)]
    return [
        shared[: rng.choice([0, 9, 18])] + [rng.randrange(500) for _ in range(rng.randint(1, 40))] for _ in range(count)
    ]


@pytest.mark.parametrize("make", [make_llama, make_qwen2])
@pytest.mark.parametrize("kind", ["last", "mean"])
def test_vectors_are_those_of_transformers(tmp_path: Path, make: Any, kind: Kind) -> None:
    from transformers import AutoModel
    from transformers.utils import logging

    folder = make(tmp_path)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model = load(folder)
    for prompt in some_prompts(random.Random(1), 6):
        with torch.inference_mode():
            states = judge(torch.tensor([prompt])).last_hidden_state[0]
        want = torch.nn.functional.normalize(states[-1] if kind == "last" else states.mean(0), dim=0)
        got = floats(alone(model, prompt, kind, budget=7))
        assert got.shape == (64,) and abs(float(np.linalg.norm(got)) - 1) < 1e-6
        np.testing.assert_allclose(got, want.numpy(), atol=2e-5)


@pytest.mark.parametrize("dtype", ["int4", "int8"])
@pytest.mark.parametrize(("num_blocks", "in_flight"), [(200, 1), (200, 2), (26, 2)])
def test_a_vector_alone_and_in_a_crowd_has_the_same_bits(
    tmp_path: Path, dtype: str, num_blocks: int, in_flight: int
) -> None:
    """Among running streams, in chunks, behind cached prefixes, preempted."""
    rng = random.Random(num_blocks + in_flight)
    model = load(make_llama(tmp_path), dtype)
    work: dict[str, tuple[list[int], SamplingParams]] = {}
    for i, prompt in enumerate(some_prompts(rng, 24)):
        wish = rng.choice([params("last"), params("mean"), SamplingParams(max_tokens=30, temperature=0.0)])
        work[f"r{i}"] = (prompt, wish)
    engine = Engine(model, num_blocks=num_blocks, in_flight=in_flight)
    for name, (prompt, wish) in work.items():
        engine.add(name, prompt, wish)
        if rng.random() < 0.7:
            engine.step()
    outputs = engine.run()
    cached = dict.fromkeys(("last", "mean"), 0)
    for name, (prompt, wish) in work.items():
        if wish.pooling is not None:
            assert outputs[name].embedding == alone(model, prompt, wish.pooling.kind), name
            assert (outputs[name].finish_reason, outputs[name].token_ids) == ("stop", [])
            cached[wish.pooling.kind] += outputs[name].num_cached
        else:
            assert outputs[name].embedding is None
    assert cached["last"] > 0 and cached["mean"] == 0
    assert num_blocks > 26 or engine.core.stats().num_preemptions > 0


def test_the_cut_into_chunks_changes_no_bit_of_a_mean() -> None:
    rng = np.random.default_rng(3)
    hidden = torch.from_numpy(rng.standard_normal((257, 48)).astype(np.float32))

    def vector(cuts: list[int]) -> bytes | None:
        pool, ends = Pool(Pooling("mean")), [*cuts, len(hidden)]
        for start, end in zip([0, *cuts], ends, strict=True):
            assert pool.add(hidden[start:end], start)
        return pool.vector()

    whole = vector([])
    assert all(vector(sorted(rng.choice(256, n, replace=False) + 1)) == whole for n in (1, 2, 17, 200, 256))
    want = torch.nn.functional.normalize(hidden.double().mean(0), dim=0)
    np.testing.assert_allclose(floats(whole), want.numpy(), atol=1e-7)


def test_a_cut_vector_has_length_one_again(tmp_path: Path) -> None:
    model = load(make_llama(tmp_path))
    engine = Engine(model)
    engine.add("whole", [5, 6, 7], params("last"))
    engine.add("cut", [5, 6, 7], params("last", 10))
    outputs = engine.run()
    whole, cut = floats(outputs["whole"].embedding), floats(outputs["cut"].embedding)
    np.testing.assert_allclose(cut, whole[:10] / np.linalg.norm(whole[:10]), atol=1e-6)


def test_a_state_without_direction_is_no_nan() -> None:
    pool = Pool(Pooling())
    assert pool.add(torch.zeros(1, 4), 0)
    assert not floats(pool.vector()).any()


class Broken:
    """A model that gives no numbers for one token."""

    def __init__(self, model: Model) -> None:
        self.config, self.logits, self._model = model.config, model.logits, model

    def forward(self, batch: Any, kv: Any, layers: Any = None) -> torch.Tensor:
        hidden = self._model.forward(batch, kv, layers)
        hidden[batch.token_ids == 13] = float("nan")
        return hidden


def test_states_that_are_no_numbers_end_their_request_alone(tmp_path: Path) -> None:
    engine = Engine(Broken(load(make_llama(tmp_path))))
    engine.add("bad", [5, 13], params("last"))
    engine.add("good", [5, 14], params("last"))
    outputs = engine.run()
    error = outputs["bad"].error
    assert error is not None and "no finite hidden states" in error.message and outputs["good"].embedding


def test_a_mean_that_misses_its_beginning_is_refused(tmp_path: Path) -> None:
    """The core never asks for it; a wrong vector would not be noticed by anybody."""
    model = load(make_llama(tmp_path))
    runner = Runner(model, allocate(model.config, 8, BLOCK, torch.float32), coupled.build())
    new = NewRequest("a", 0, [1] * 8, 8, [0, 1], params("mean"))
    [result] = runner.run(StepPlan(0, [], [new], [Row("a", 0, 4, 4, 2, [])])).rows
    assert result.error is not None and "needs all of it" in result.error.message
