"""Order, victims and margins."""

import pytest

from paceline.engine.core import policy
from paceline.engine.core.request import Request, State
from paceline.engine.types import SamplingParams


def request(priority: int = 0, arrival: int = 0, computed: int = 0, matched: int = 0, lost: int = 0) -> Request:
    made = Request(
        f"r{arrival}",
        [1] * 100,
        [],
        SamplingParams(max_tokens=1),
        rank=(priority, arrival),
        arrival_s=0.0,
        deadline_s=None,
        cache_salt="",
        fork_of=None,
        state=State.QUEUED,
        max_model_len=200,
    )
    made.num_computed, made.num_matched, made.num_lost = computed, matched, lost
    return made


def test_lists_stay_in_rank_order() -> None:
    requests: list[Request] = []
    made = [request(p, a) for p, a in [(1, 0), (0, 1), (1, 2), (-1, 3), (0, 4)]]
    for each in made:
        policy.insert(requests, each)
    assert [r.rank for r in requests] == [(-1, 3), (0, 1), (0, 4), (1, 0), (1, 2)]
    policy.remove(requests, made[1])
    assert [r.rank for r in requests] == [(-1, 3), (0, 4), (1, 0), (1, 2)]
    with pytest.raises(AssertionError, match=r"r1 of rank \(0, 1\) is not in its list"):
        policy.remove(requests, made[1])
    with pytest.raises(AssertionError, match="not in its list"):
        policy.remove(requests, request(9, 9))


def test_the_least_sunk_cost_gives_way() -> None:
    cheap, dear = request(arrival=0, computed=5), request(arrival=1, computed=50)
    assert policy.victim([dear, cheap]) is cheap


def test_found_tokens_cost_nothing_and_lost_ones_count() -> None:
    found, computed = request(arrival=0, computed=50, matched=48), request(arrival=1, computed=10)
    assert policy.victim([found, computed]) is found
    found.num_lost = 20
    assert policy.victim([found, computed]) is computed


def test_priority_comes_before_cost_and_arrival_breaks_ties() -> None:
    vital, first, second = request(-1, 0), request(0, 1, computed=9), request(0, 2, computed=9)
    assert policy.victim([vital, first, second]) is second


def test_budgets() -> None:
    assert policy.admission_margin(0) == 0 and policy.admission_margin(5) == 2
    assert policy.draft_budget(16, 6, prompts_wait=False) == 10
    assert policy.draft_budget(16, 6, prompts_wait=True) == 5
    assert policy.draft_budget(4, 6, prompts_wait=False) == 0


def test_retry_after_is_bounded() -> None:
    assert policy.retry_after_s(0, 16, 0.1) == 1.0
    assert policy.retry_after_s(1600, 16, 0.1) == pytest.approx(10.0)
    assert policy.retry_after_s(10**9, 16, 0.1) == 60.0


def test_the_lifecycle_is_a_table() -> None:
    made = request()
    made.enter(State.PREFILLING)
    made.enter(State.DECODING)
    made.enter(State.QUEUED)
    with pytest.raises(AssertionError, match="request r0 cannot go from queued to decoding"):
        made.enter(State.DECODING)
