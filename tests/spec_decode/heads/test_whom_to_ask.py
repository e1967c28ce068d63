"""The policy decides whether a head works: one that is right is asked, one that never is costs next to nothing."""

from pathlib import Path
from typing import Any

import head_runs
import msgspec
import naive
import pytest
import tiny_heads
import torch
from simulation import simulate
from spec_engine import Engine, RunnerTarget, config

from paceline.actors.messages import Hello
from paceline.engine.config import Speculation
from paceline.engine.core.plan import StepPlan
from paceline.engine.types import SamplingParams, SpeculationControl

PARAMS = SamplingParams(max_tokens=120, temperature=0.0, ignore_eos=True)
PROMPTS = [[3 + 7 * i, 10 + i, 40 + 3 * i] for i in range(4)]


def serve(
    monkeypatch: pytest.MonkeyPatch, target: Any, head: Path, cost_s: float, control: Any = None, width: int = 1
) -> tuple[Engine, list[StepPlan]]:
    """Answer ``PROMPTS`` with a head whose draft is said to cost ``cost_s``, beside steps of 10 ms; the plans."""
    plans: list[StepPlan] = []
    plain = RunnerTarget.hello

    def hello(self: RunnerTarget) -> Hello:
        costs = [(1, cost_s)] if cost_s else []
        return msgspec.structs.replace(plain(self), draft_costs=costs, step_costs=[(1, 0.01), (64, 0.02)])

    def observer() -> Any:
        made = head_runs.build("medusa", head, target.model, width=width)
        propose = made.propose
        made.propose = lambda plan: (plans.append(plan), propose(plan))[1]
        return made

    monkeypatch.setattr(RunnerTarget, "hello", hello)
    table = {"model": str(head), "width": width}
    section = Speculation(methods=["medusa"], max_draft_tokens=4, settings={"medusa": table})

    async def main() -> Engine:
        async with Engine(config(section), model=target.model, make_observer=observer) as engine:
            for i, prompt in enumerate(PROMPTS):
                engine.add(f"r{i}", prompt, PARAMS, speculation=control)
            await engine.finish()
            return engine

    return simulate(main), plans


def num_accepted(engine: Engine) -> int:
    reports = [outputs[-1].speculation for outputs in engine.outputs.values()]
    return sum(report.num_accepted for report in reports if report is not None)


def test_a_good_head_is_asked(monkeypatch: pytest.MonkeyPatch, target: Any, tmp_path: Path) -> None:
    texts = [prompt + naive.generate(target.model, prompt, PARAMS, dtype=torch.float32) for prompt in PROMPTS]
    head = tiny_heads.make_medusa(tmp_path / "head", target.model, texts)
    engine, plans = serve(monkeypatch, target, head, 0.0)
    assert [PROMPTS[i] + engine.tokens(f"r{i}") for i in range(len(PROMPTS))] == texts
    assert num_accepted(engine) > 40
    assert any(max(plan.asks, default=0) > 0 for plan in plans)


@pytest.mark.parametrize("width", [1, 3])
def test_a_head_that_is_never_right_is_hardly_asked(
    monkeypatch: pytest.MonkeyPatch, target: Any, tmp_path: Path, width: int
) -> None:
    head = tiny_heads.make_medusa(tmp_path / "head", target.model, [[1] * 40])
    engine, plans = serve(monkeypatch, target, head, 0.002, width=width)
    assert num_accepted(engine) < 5
    later = plans[len(plans) // 2 :]
    assert sum(any(depth > 0 for depth in plan.asks) for plan in later) < len(later) / 3


def test_a_request_without_speculation_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, target: Any, tmp_path: Path
) -> None:
    head = tiny_heads.make_medusa(tmp_path / "head", target.model, [[1] * 40])
    _, plans = serve(monkeypatch, target, head, 0.0, SpeculationControl(enabled=False))
    assert plans and all(plan.asks == [] for plan in plans)
