"""Prompt tokens beside running streams: as many as stretch a step so far and no further."""

import pytest

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.pace import Pace
from paceline.engine.core.plan import RowResult, StepPlan, StepResult
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.types import SamplingParams

STEP_S, TOKEN_S = 0.010, 0.001


def told(stretch: float) -> Pace:
    pace = Pace(stretch)
    for num in (0, 0, 100, 0, 50):
        pace.observe(1, num, STEP_S + num * TOKEN_S)
    return pace


@pytest.mark.parametrize(("stretch", "tokens"), [(2.5, 15), (2.0, 10), (1.0, 4), (0.5, 4), (50.0, 256)])
def test_a_step_is_stretched_so_far_and_no_further(stretch: float, tokens: int) -> None:
    assert told(stretch).prompt_budget(256, 4, num_decoding=4, num_prompts=1) == tokens
    assert told(stretch).prompt_budget(256, 4, num_decoding=16, num_prompts=1) == tokens


def test_the_more_prompts_wait_the_more_they_get() -> None:
    found = [told(2.5).prompt_budget(256, 4, num_decoding=4, num_prompts=num) for num in (1, 2, 4, 8, 100)]
    assert found == [15, 30, 60, 120, 256]


def test_a_burst_of_prompts_is_not_held_up_by_the_streams_of_those_that_came_first() -> None:
    found = [told(2.5).prompt_budget(256, 4, num_decoding=num, num_prompts=12) for num in (12, 16, 32, 64)]
    assert found == [60, 45, 45, 45]


def test_no_bound_without_a_stretch_or_a_stream_or_before_anything_is_known() -> None:
    assert told(0.0).prompt_budget(256, 4, 2, 1) == 256
    assert told(2.5).prompt_budget(256, 4, 0, 1) == 256
    fresh = Pace(2.5)
    fresh.observe(1, 100, STEP_S)
    assert fresh.prompt_budget(256, 4, 2, 1) == 256


def test_costs_are_followed_and_a_clock_that_stands_still_is_ignored() -> None:
    pace = told(2.5)
    for _ in range(40):
        pace.observe(1, 0, 0.0)
        pace.observe(1, 0, 4 * STEP_S)
        pace.observe(1, 20, 4 * STEP_S + 20 * TOKEN_S)
    assert 55 <= pace.prompt_budget(256, 4, 4, 1) <= 60


def test_a_step_of_many_rows_may_take_longer_than_one_of_few() -> None:
    pace = told(2.5)
    for _ in range(40):
        pace.observe(32, 0, 3 * STEP_S)
    found = [pace.prompt_budget(256, 4, num, 1) for num in (4, 31, 32, 64)]
    assert found == [15, 15, 45, 45]


def test_what_a_burst_takes_without_prompts_is_worked_out() -> None:
    """So many rows have only been seen beside prompts; once they go alone, what is measured counts."""
    pace = told(2.5)
    for _ in range(40):
        pace.observe(32, 50, 3 * STEP_S + 50 * TOKEN_S)
    assert pace.prompt_budget(256, 4, 32, 1) == pytest.approx(45, abs=1)
    pace.observe(32, 0, STEP_S)
    assert pace.prompt_budget(256, 4, 32, 1) == 15


def chunks(stretch: float) -> list[int]:
    """Prompt tokens of each step of a long prompt that comes while another request streams."""
    config = CoreConfig(
        num_blocks=200, block_size=4, max_num_seqs=4, max_num_batched_tokens=256, max_in_flight=1, max_model_len=700,
        vocab_size=100, prompt_stretch=stretch,
    )  # fmt: skip
    core = Scheduler(config)
    params = SamplingParams(max_tokens=400)
    core.add("stream", [1] * 40, params, now=0.0)
    found: list[int] = []
    for step in range(100):
        if step == 8:
            core.add("long", [2] * 200, params, now=0.0)
        plan = core.schedule(0.0)
        assert plan is not None
        found += [row.num_tokens for row in plan.rows if row.request_id == "long" and row.start < 200]
        core.apply(plan, answer(plan))
        if sum(found) == 200:
            break
    return found


def answer(plan: StepPlan) -> StepResult:
    rows = [RowResult(row.request_id, row.epoch, [5] if row.yields else []) for row in plan.rows]
    num_prompt = sum(row.num_tokens - 1 for row in plan.rows)
    return StepResult(plan.step, rows, STEP_S + num_prompt * TOKEN_S)


def test_a_long_prompt_goes_in_smaller_chunks_beside_a_stream() -> None:
    assert chunks(0.0) == [200]
    bounded = chunks(2.5)
    assert sum(bounded) == 200
    assert all(40 <= num <= 64 for num in bounded[:-1])  # one prompt beside one stream: four times 15
