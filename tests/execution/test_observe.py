"""What an observer beside the target is told: every committed position once, with the states of a plain pass."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from model_runs import load
from naive import generate
from random_params import some_params
from random_plans import RandomPlans, Stream
from tiny_models import make_llama
from toy_model import ToyModel

from paceline.engine.core.plan import Drafts, NewRequest, Row, StepPlan
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.observe import Seen
from paceline.engine.execution.runner import Runner
from paceline.engine.nn.model import Batch, Model
from paceline.engine.types import SamplingParams
from paceline.kernels import ops
from paceline.spec_decode.rules import coupled

BLOCK = 4


class Recorder:
    """Keeps the tokens and states of each request's newest epoch, and refuses gaps."""

    def __init__(self, wanted_layers: tuple[int, ...] = ()) -> None:
        self.wanted_layers = wanted_layers
        self.tokens: dict[str, dict[int, int]] = {}
        self.hidden: dict[str, dict[int, torch.Tensor]] = {}
        self.layers: dict[str, dict[tuple[int, int], torch.Tensor]] = {}
        self.open: dict[str, int] = {}
        self.drafts: list[Drafts] = []

    def opened(self, new: NewRequest) -> None:
        self.open[new.request_id] = new.epoch
        self.tokens[new.request_id], self.hidden[new.request_id], self.layers[new.request_id] = {}, {}, {}

    def closed(self, request_id: str) -> None:
        self.open.pop(request_id, None)

    def observe(self, seen: Sequence[Seen]) -> None:
        for s in seen:
            assert self.open[s.request_id] == s.epoch
            tokens, hidden = self.tokens[s.request_id], self.hidden[s.request_id]
            assert not hidden or max(hidden) == s.start - 1, "a gap"
            assert len(s.hidden) == len(s.token_ids) > 0
            assert all(len(states) == len(s.hidden) for states in s.layers.values())
            ids = s.token_ids if s.next_id is None else [*s.token_ids, s.next_id]
            for i, token in enumerate(ids):
                assert tokens.setdefault(s.start + i, token) == token
            for i, states in enumerate(s.hidden):
                hidden[s.start + i] = states.clone()
                for layer in s.layers:
                    self.layers[s.request_id][s.start + i, layer] = s.layers[layer][i].clone()
            self.drafts = [Drafts(s.request_id, s.epoch, max(tokens) + 1, [1], source="rec")] if s.yielded else []

    def propose(self, plan: StepPlan) -> list[Drafts]:
        return self.drafts


def states(model: Model, token_ids: list[int]) -> torch.Tensor:
    """Hidden states of all positions in one pass."""
    count = len(token_ids)
    kv = allocate(model.config, 1, count, torch.float32)
    where = torch.arange(count, dtype=torch.int32)
    bounds = torch.tensor([0, count], dtype=torch.int32)
    zero = torch.zeros(1, 1, dtype=torch.int32)
    return model.forward(
        Batch(torch.tensor(token_ids, dtype=torch.int32), where, where.clone(), bounds, bounds[1:], zero), kv
    )


@pytest.mark.parametrize("depth", [0, 4])
def test_positions_and_states_under_any_schedule(depth: int) -> None:
    rng = random.Random(depth)
    model = ToyModel()
    streams = []
    for i in range(8):
        prompt = [rng.randrange(97) for _ in range(rng.randint(1, 24))]
        params = some_params(rng, 97, "seeded")
        streams.append(Stream(f"r{i}", prompt, params, generate(model, prompt, params, dtype=torch.float32)))
    plans = RandomPlans(streams, num_blocks=40, block_size=BLOCK, depth=depth, seed=depth)
    recorder = Recorder()
    plans.run(Runner(model, allocate(model.config, 40, BLOCK, torch.float32), coupled.build(), observer=recorder))
    assert not recorder.open and plans.num_preempted
    for stream in streams:
        hidden, tokens = recorder.hidden[stream.request_id], recorder.tokens[stream.request_id]
        assert sorted(hidden) == list(range(min(hidden), len(stream.ids) - 1))
        assert [tokens[p] for p in sorted(tokens)] == stream.ids[min(tokens) :]
        expected = states(model, stream.ids)
        assert all(torch.equal(hidden[p], expected[p]) for p in hidden)


def test_layers_and_drafts_of_a_real_model(tmp_path: Path) -> None:
    model = load(make_llama(tmp_path))
    last = model.config.num_layers - 1
    recorder = Recorder((0, last))
    runner = Runner(model, allocate(model.config, 4, 16, torch.float32), coupled.build(), observer=recorder)
    new = NewRequest("a", 0, [5, 6, 7], 3, [0], SamplingParams(max_tokens=9, temperature=0.0))
    result = runner.run(StepPlan(0, [], [new], [Row("a", 0, 0, 3, 1, [], True)]))
    assert result.drafts == [Drafts("a", 0, 4, [1], source="rec")]
    for position, hidden in recorder.hidden["a"].items():
        residual = recorder.layers["a"][position, last].unsqueeze(0)
        norm = model.blocks[last].next_norm  # pyright: ignore[reportAttributeAccessIssue]
        assert torch.equal(ops.rms_norm(residual, norm.weight, norm.eps)[0], hidden)
        assert not torch.equal(recorder.layers["a"][position, 0], residual[0])
    runner.forget()
    assert not recorder.open
