"""Core and runner together give the naive tokens: any pool, depth, plans in flight; prefix hits and forks."""

import random
from collections import deque

import pytest
import torch
from naive import judge
from random_params import some_params
from toy_model import ToyModel

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import Drafts, RequestOutput, StepPlan, StepResult
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.types import SamplingParams
from paceline.spec_decode.rules import coupled

BLOCK = 4


class Engine:
    """The scheduler and target actors without their sockets."""

    def __init__(self, model: ToyModel, num_blocks: int, in_flight: int) -> None:
        config = CoreConfig(
            num_blocks=num_blocks, block_size=BLOCK, max_num_seqs=8, max_num_batched_tokens=24, max_in_flight=in_flight,
            max_model_len=64, vocab_size=model.config.vocab_size,
        )  # fmt: skip
        self.core = Scheduler(config)
        self.runner = Runner(model, allocate(model.config, num_blocks, BLOCK, torch.float32), coupled.build())
        self.outputs: dict[str, list[RequestOutput]] = {}
        self._unanswered: deque[tuple[StepPlan, StepResult]] = deque()
        self._now = 0.0

    def add(self, name: str, prompt: list[int], params: SamplingParams, fork_of: str | None = None) -> None:
        self.outputs[name] = []
        self.core.add(name, prompt, params, now=self._now, fork_of=fork_of)

    def step(self, depth: int) -> None:
        self._now += 1.0
        while (plan := self.core.schedule(self._now, depth)) is not None:
            self._unanswered.append((plan, self.runner.run(plan)))
        if self._unanswered:
            for output in self.core.apply(*self._unanswered.popleft()):
                self.outputs[output.request_id].append(output)
        self.core.check()

    def tokens(self, name: str) -> list[int]:
        return [t for output in self.outputs[name] for t in output.token_ids]


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize(("depth", "trees"), [(0, False), (4, False), (6, True)])
@pytest.mark.parametrize("num_blocks", [18, 200])
@pytest.mark.parametrize("kind", ["greedy", "everything"])
def test_a_crowd_through_the_core_gives_the_naive_tokens(
    kind: str, num_blocks: int, depth: int, trees: bool, in_flight: int
) -> None:
    rng = random.Random(f"{kind}{num_blocks}{depth}{in_flight}")
    model = ToyModel()
    engine = Engine(model, num_blocks, in_flight)
    shared = [rng.randrange(97) for _ in range(14)]
    work: dict[str, tuple[list[int], SamplingParams]] = {}
    for i in range(20):
        prompt = shared[: rng.choice([0, 14])] + [rng.randrange(97) for _ in range(rng.randint(1, 12))]
        work[f"r{i}"] = (prompt, some_params(rng, 97, kind))
        if rng.random() < 0.3:
            work[f"r{i}-fork"] = (prompt, some_params(rng, 97, kind))
    answers = {name: judge(model, *asked, dtype=torch.float32) for name, asked in work.items()}
    waiting = deque(work)
    while waiting or engine.core.has_work():
        if waiting and rng.random() < 0.8:
            name = waiting.popleft()
            engine.add(name, *work[name], fork_of=name[:-5] if name.endswith("-fork") else None)
        if depth:
            offer_drafts(engine, work, answers, rng, depth, trees)
        engine.step(depth)
    for name, answer in answers.items():
        outputs = engine.outputs[name]
        assert engine.tokens(name) == answer.token_ids
        assert outputs[-1].finish_reason == answer.finish_reason
        assert [e for o in outputs for e in o.logprobs or []] == (answer.logprobs or [])
        assert (outputs[0].prompt_logprobs or []) == (answer.prompt_logprobs or [])
    stats = engine.core.stats()
    assert num_blocks > 18 or stats.num_preemptions > 0
    assert num_blocks == 18 or sum(o.num_cached for all_of in engine.outputs.values() for o in all_of) > 0


def offer_drafts(engine: Engine, work: dict, answers: dict, rng: random.Random, depth: int, trees: bool) -> None:
    """Right or wrong drafts for whoever runs, stamped with the committed length and a guess at the epoch."""
    for name, outputs in engine.outputs.items():
        done = engine.tokens(name)
        if not outputs or outputs[-1].finish_reason is not None or rng.random() < 0.3:
            continue
        drafts = answers[name].token_ids[len(done) : len(done) + depth]
        if drafts and rng.random() < 0.4:
            drafts[rng.randrange(len(drafts))] = rng.randrange(97)
        parents = None
        if trees:  # a wrong child before each right one
            parents = [p for i in range(len(drafts)) for p in (2 * i - 1, 2 * i - 1)]
            drafts = [token for right in drafts for token in (rng.randrange(97), right)]
        if drafts:
            epoch, length = rng.choice([0, 0, 0, 1]), len(work[name][0]) + len(done)
            engine.core.offer(Drafts(name, epoch, length, drafts, parents))
