"""The start-up table of step times: which widths, how long it may take, and that nothing is left behind."""

import time

import msgspec
import pytest
import torch
from toy_model import ToyModel

from paceline.engine.core.plan import StepPlan, StepResult
from paceline.engine.execution import profile
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.spec_decode.rules import coupled


class Recorder:
    """A runner that notes the widths of the steps it ran, and may claim that each row took a while."""

    def __init__(self, num_blocks: int, row_s: float = 0.0) -> None:
        model = ToyModel()
        self.runner = Runner(model, allocate(model.config, num_blocks, 4, torch.float32), coupled.build())
        self.row_s = row_s
        self.widths: list[int] = []

    def run(self, plan: StepPlan) -> StepResult:
        result = self.runner.run(plan)
        assert not any(row.error for row in result.rows)
        width = sum(row.num_tokens + len(row.draft_ids) for row in plan.rows)
        if width:
            self.widths.append(width)
            time.sleep(self.row_s * width)
        return msgspec.structs.replace(result, elapsed_s=result.elapsed_s + self.row_s * width)

    def forget(self) -> None:
        self.runner.forget()


def measure(recorder: Recorder, **changes: int | float) -> list[tuple[int, float]]:
    sizes: dict[str, int | float] = {
        "num_blocks": 200, "block_size": 4, "max_num_seqs": 8, "max_num_batched_tokens": 64, "depth": 4,
    } | changes  # fmt: skip
    return profile.measure(recorder, **sizes)  # pyright: ignore[reportArgumentType]


def test_it_measures_one_row_one_request_and_the_widest() -> None:
    recorder = Recorder(200)
    costs = measure(recorder)
    assert [rows for rows, _ in costs] == [1, 2, 4, 5, 8, 16, 32, 40]
    assert all(seconds > 0 for _, seconds in costs)
    assert recorder.runner.num_held == 0


@pytest.mark.parametrize(
    ("changes", "widest"),
    [({"max_num_batched_tokens": 12}, 12), ({"num_blocks": 12}, 8), ({"max_num_seqs": 1}, 5), ({"depth": 1}, 16)],
)
def test_it_stays_within_the_engines_sizes(changes: dict[str, int], widest: int) -> None:
    assert max(rows for rows, _ in measure(Recorder(changes.get("num_blocks", 200)), **changes)) == widest


def test_it_ends_in_time_and_keeps_what_tells_most() -> None:
    recorder = Recorder(200, row_s=0.004)
    began_s = time.perf_counter()
    costs = measure(recorder, budget_s=0.1)
    assert time.perf_counter() - began_s < 0.4
    assert {1, 5} <= {rows for rows, _ in costs} and 40 not in recorder.widths
