"""The queue's limits, and deadlines."""

import pytest
from core_sim import Harness, config, naive

from paceline.engine.core.plan import StepResult
from paceline.engine.errors import InvalidRequestError, UnavailableError
from paceline.engine.types import SamplingParams


def test_free_seats_do_not_count_as_queueing() -> None:
    harness = Harness(config(max_num_seqs=2, max_queued_requests=1))
    for i in range(3):
        harness.add(f"r{i}", [i + 1] * 4)
    with pytest.raises(UnavailableError) as caught:
        harness.add("r3", [9])
    assert caught.value.code == "queue_full" and caught.value.retry_after_s == 1.0
    assert str(caught.value) == "3 requests wait, max_queued_requests is 1; try again in 1 s"
    harness.schedule()  # two are seated: one waits, one may
    with pytest.raises(UnavailableError):
        harness.add("r3", [9])
    harness.run().verify()
    harness.add("r3", [9])
    harness.run().verify()


def test_forks_that_wait_count_too() -> None:
    harness = Harness(config(max_num_seqs=1, max_queued_requests=1))
    harness.add("r0", [1] * 4)
    harness.add("r1", [1] * 4, fork_of="r0")
    with pytest.raises(UnavailableError):
        harness.add("r2", [1] * 4, fork_of="r0")
    harness.run().verify()


def test_queued_tokens_are_bounded_and_the_estimate_follows_the_step_time() -> None:
    harness = Harness(config(max_num_seqs=1, max_num_batched_tokens=4, max_queued_tokens=30))
    harness.edit = lambda result: StepResult(result.step, result.rows, elapsed_s=2.0)
    harness.add("r0", [1] * 8)
    harness.step()
    harness.add("r1", [1] * 20)
    with pytest.raises(UnavailableError) as caught:
        harness.add("r2", [1] * 11)
    assert str(caught.value) == "20 tokens are queued, 11 more exceed 30; try again in 10 s"
    harness.add("r2", [1] * 10)
    harness.run().verify()


def test_a_prompt_above_the_token_limit_still_gets_into_an_empty_queue() -> None:
    harness = Harness(config(max_queued_tokens=4))
    harness.add("r0", [1] * 8)
    harness.run().verify()


def test_a_request_that_goes_on_is_never_refused_for_load() -> None:
    harness = Harness(config(max_num_seqs=1, max_queued_requests=1))
    harness.add("r0", [1])
    harness.add("r1", [1])
    harness.core.drain()
    params = SamplingParams(max_tokens=3)
    tokens, _, _ = naive([5, 6], params)
    harness.add("r2", [5, 6], params, output_ids=tokens[:1])
    harness.run().verify()


def test_ids_in_use_are_refused_until_they_end() -> None:
    harness = Harness(config())
    harness.add("r0", [1])
    with pytest.raises(InvalidRequestError, match="request id r0 is in use"):
        harness.core.add("r0", [2], SamplingParams(max_tokens=1), now=0.0)
    harness.run().verify()
    harness.add("r0", [2])
    harness.run().verify()


def test_draining_refuses_what_is_new_and_finishes_what_is_not() -> None:
    harness = Harness(config())
    harness.add("r0", [1])
    harness.core.drain()
    with pytest.raises(UnavailableError) as caught:
        harness.add("r1", [1])
    assert caught.value.code == "draining"
    harness.run().verify()


def test_deadlines_end_queued_and_running_requests_alike() -> None:
    harness = Harness(config(max_num_seqs=1))
    harness.add("running", [1] * 4, deadline=5.0)
    harness.add("queued", [1] * 4, deadline=7.0)
    harness.add("patient", [1] * 4, deadline=100.0)
    harness.add("endless", [1] * 4)
    harness.step()
    assert harness.core.next_deadline() == 5.0
    harness.now = 4.9
    harness.step()
    assert harness.streams["running"].last is None
    harness.now = 7.0
    harness.schedule()
    for name in ("running", "queued"):
        last = harness.streams[name].last
        assert last is not None and last.finish_reason == "error" and last.error is not None
        assert (last.error.kind, last.error.code) == ("deadline", "deadline_exceeded")
    assert harness.core.next_deadline() == 100.0
    harness.run().verify()


def test_deadlines_are_kept_when_every_plan_is_open() -> None:
    harness = Harness(config())
    harness.add("r0", [1], deadline=1.0)
    harness.schedule()
    harness.now = 1.0
    assert harness.schedule() is None
    assert harness.streams["r0"].last is not None


def test_ended_requests_leave_no_deadline_behind() -> None:
    harness = Harness(config(max_queued_requests=500))
    harness.add("stays", [1], deadline=1000.0)
    for i in range(400):
        harness.add(f"r{i}", [1], deadline=10.0 + i)
        harness.abort(f"r{i}")
    assert len(harness.core._deadlines._heap) < 100
    assert harness.core.next_deadline() == 1000.0
    harness.add("r0", [1], deadline=50.0)
    harness.now = 49.0
    harness.schedule()
    assert harness.streams["r0"].last is None
    harness.now = 50.0
    harness.schedule()
    assert harness.streams["r0"].last is not None


def test_a_deadline_that_is_no_time_is_refused() -> None:
    """NaN is neither before nor after anything: it would hide the deadlines of others behind it."""
    harness = Harness(config())
    with pytest.raises(InvalidRequestError, match="the deadline is NaN"):
        harness.add("r0", [1], deadline=float("nan"))
    harness.add("never", [1], deadline=float("inf"))
    harness.add("soon", [1], deadline=5.0)
    assert harness.core.next_deadline() == 5.0


def test_check_sees_damage() -> None:
    harness = Harness(config())
    harness.add("r0", [1] * 4)
    harness.add("r1", [1] * 4, fork_of="r0")
    harness.core.check()
    room = harness.core._waiting
    room.num_tokens += 1
    with pytest.raises(AssertionError, match="9 queued tokens counted, 8 there"):
        harness.core.check()
    room.num_tokens -= 1
    room.num_forking = 0
    with pytest.raises(AssertionError, match="0 forks counted, 1 are waiting"):
        harness.core.check()
    room.num_forking = 1
    parent = harness.core._requests["r0"]
    children, parent.children = parent.children, []
    with pytest.raises(AssertionError, match="r1 waits for r0, which owes it nothing"):
        harness.core.check()
    parent.children = children
    room.queue.clear()
    with pytest.raises(AssertionError, match="0 requests in the queue, 1 are queued"):
        harness.core.check()
