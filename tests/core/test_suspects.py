"""A request that kills the target: it is found, runs alone, and ends; nobody else does, and no text changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.engine.types import SamplingParams

from ..support.core_sim import Harness, Stream, bounded, config, naive

POISON = 31
"""A target that computes a row with this token dies."""


def kills(plan: object, harness: Harness) -> bool:
    """Whether a plan has a row of a request with poison among the tokens that this row computes."""
    for row in plan.rows:  # pyright: ignore[reportAttributeAccessIssue]
        stream = harness.streams[row.request_id]
        tokens = stream.prompt + naive(stream.prompt, stream.params)[0]
        if POISON in tokens[row.start : row.start + row.num_tokens]:
            return True
    return False


def run(harness: Harness, most: int = 3000) -> int:
    """Until everything is done; the target dies of poison. How often it did."""
    deaths = 0
    for _ in range(most):
        if not harness.core.has_work():
            return deaths
        plan = harness.schedule()
        if harness.unanswered and (plan is None or len(harness.unanswered) == harness.config.max_in_flight):
            if kills(harness.unanswered[0], harness):
                deaths += 1
                harness.lose_target()
            else:
                harness.answer()
    raise AssertionError("stuck")


def error_code(stream: Stream) -> str | None:
    assert stream.last is not None
    return stream.last.error.code if stream.last.error is not None else None


@pytest.mark.parametrize("in_flight", [1, 2])
def test_poison_runs_alone_and_ends_after_three_deaths(in_flight: int) -> None:
    harness = Harness(config(max_in_flight=in_flight, max_num_seqs=4))
    params = SamplingParams(max_tokens=8, seed=3)
    prompts = [p for p in ([i, i + 1, i + 2] for i in range(20)) if POISON not in naive(p, params)[0]]
    good = [harness.add(f"good-{i}", prompt, params) for i, prompt in enumerate(prompts[:5])]
    bad = harness.add("bad", [1, 2, 3, 4, 5, POISON, 6], params)
    assert run(harness) == 3
    assert error_code(bad) == "request_quarantined"
    for stream in good:
        assert error_code(stream) is None
        stream.verify()
    # Between the second and the third death nobody else was in a plan.
    last = max(i for i, plan in enumerate(harness.plans) if any(row.request_id == "bad" for row in plan.rows))
    assert [row.request_id for row in harness.plans[last].rows] == ["bad"]


def test_deaths_of_another_cause_never_add_up() -> None:
    harness = Harness(config(max_model_len=64))
    streams = [harness.add(str(i), [i, i + 3], SamplingParams(max_tokens=24, seed=i)) for i in range(6)]
    for _ in range(12):  # more often than any request may die of itself
        harness.step()
        harness.step()
        harness.step()
        harness.schedule()
        harness.lose_target()
    harness.run()
    for stream in streams:
        stream.verify()


def test_suspects_that_are_innocent_go_on() -> None:
    harness = Harness(config())
    streams = [harness.add(str(i), [i, i + 3], SamplingParams(max_tokens=6, seed=i)) for i in range(4)]
    for _ in range(2):  # before anybody gets a token
        harness.schedule()
        harness.lose_target()
    alone: list[set[str]] = []
    for _ in range(4):
        plan = harness.schedule()
        assert plan is not None
        alone.append({row.request_id for row in plan.rows})
        assert harness.schedule() is None  # and no second plan beside it
        harness.answer()
    assert alone == [{"0"}, {"1"}, {"2"}, {"3"}]
    harness.run()
    for stream in streams:
        stream.verify()


@bounded(60)
@given(
    st.lists(st.lists(st.integers(0, POISON), min_size=1, max_size=12), min_size=1, max_size=8),
    st.sampled_from([1, 2]),
    st.integers(16, 64),
)
def test_the_others_complete_whatever_kills(prompts: list[list[int]], in_flight: int, num_blocks: int) -> None:
    harness = Harness(config(max_in_flight=in_flight, num_blocks=num_blocks))
    streams = [harness.add(str(i), prompt, SamplingParams(max_tokens=5, seed=i)) for i, prompt in enumerate(prompts)]
    run(harness)
    for stream in streams:
        computed = [*stream.prompt, *stream.output]
        if error_code(stream) is not None:
            assert error_code(stream) == "request_quarantined" and POISON in computed
        else:
            assert POISON not in computed[:-1]
            stream.verify()
