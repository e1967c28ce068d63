"""The supervisor's judgements: back-off, crash loops, hangs, and the engine's state."""

import pytest

from paceline.actors.messages import Heartbeat, Hello
from paceline.actors.posts import HANG_S, LOOP_S, RESTART_DELAYS_S, START_S, Post, condition, first_error


def working(name: str = "target", now_s: float = 0.0) -> Post:
    post = Post(name)
    post.begin(now_s)
    post.welcome(Hello(name, 1, post.epoch), now_s)
    return post


def test_delays_grow_with_deaths_in_a_row_and_start_over_after_a_long_life() -> None:
    post, now_s, delays = Post("target"), 0.0, []
    for _ in range(8):
        post.begin(now_s)
        now_s += 20.0  # five deaths take longer than a loop's window
        delays.append(post.died("x", now_s))
    assert delays == [*RESTART_DELAYS_S, RESTART_DELAYS_S[-1], RESTART_DELAYS_S[-1]]
    assert not post.loops
    post.begin(now_s)
    post.welcome(Hello("target", 1, post.epoch), now_s)
    assert post.died("x", now_s + LOOP_S + 1) == RESTART_DELAYS_S[0]


def test_five_deaths_in_a_minute_are_a_loop_until_a_hello() -> None:
    post = Post("target")
    for i in range(5):
        assert not post.loops
        post.begin(10.0 * i)
        post.died(f"cause {i}", 10.0 * i + 5)
    assert post.loops and post.view(50.0).state == "failed"
    assert condition([post, working("scheduler")], was_ready=True, draining=False) == "failed"
    assert first_error([working("scheduler"), post]) == "target: cause 4"
    post.begin(80.0)
    assert post.view(80.0).state == "failed"  # trying again is not yet being well
    post.welcome(Hello("target", 1, post.epoch), 81.0)
    assert condition([post], was_ready=True, draining=False) == "ok"
    assert first_error([post]) is None
    assert post.view(81.0).restarts == 5


def test_starts_stay_under_ten_a_minute() -> None:
    post, now_s, starts = Post("target"), 0.0, []
    while now_s < 600.0:
        starts.append(now_s)
        post.begin(now_s)
        now_s += post.died("at once", now_s)
    assert max(sum(s <= t < s + 60 for t in starts) for s in starts) < 10


def beat(step: int, busy: bool, age_s: float = 0.0) -> Heartbeat:
    return Heartbeat("target", 0, step, busy, age_s)


def test_silence_is_a_hang() -> None:
    post = working()
    post.beat(beat(1, False), 1.0)
    assert not post.is_stuck(1.0 + HANG_S)
    assert post.is_stuck(1.1 + HANG_S)


def test_a_step_that_does_not_end_is_a_hang_although_reports_come() -> None:
    post = working()
    for t in range(1, 30):
        post.beat(beat(7, True, t), float(t))
        assert post.is_stuck(float(t)) == (t > HANG_S)


def test_long_steps_that_end_raise_the_bound() -> None:
    post = working()
    post.beat(beat(1, True, 3.0), 3.0)
    post.beat(beat(2, True, 0.1), 4.0)
    post.beat(beat(2, True, 59.0), 63.0)
    assert not post.is_stuck(63.0)
    post.beat(beat(2, True, 61.0), 65.0)
    assert post.is_stuck(65.0)


def test_a_start_may_take_minutes_but_not_for_ever() -> None:
    post = Post("target")
    post.begin(0.0)
    assert not post.is_stuck(START_S)
    assert post.is_stuck(START_S + 1)
    post.died("x", START_S + 1)
    assert not post.is_stuck(10 * START_S)


@pytest.mark.parametrize(
    ("was_ready", "draining", "expected"),
    [(False, False, "starting"), (True, False, "recovering"), (True, True, "draining")],
)
def test_one_actor_that_is_not_well_is_the_engines_state(was_ready: bool, draining: bool, expected: str) -> None:
    post = Post("target")
    post.begin(0.0)
    assert condition([working(), post], was_ready=was_ready, draining=draining) == expected


def test_messages_go_to_the_process_that_is_there_or_to_its_replacement() -> None:
    post = Post("target")
    assert post.next_epoch == 0
    post.begin(0.0)
    assert post.next_epoch == 0
    post.died("x", 1.0)
    assert post.next_epoch == 1
    assert post.begin(2.0) == 1


def test_idle_time_counts_from_the_last_progress() -> None:
    post = working()
    post.beat(beat(3, True, 0.5), 10.0)
    post.beat(beat(3, True, 1.5), 11.0)
    assert post.view(12.0).idle_s == 2.0
