"""Speed and time left from byte counts, on a clock of the test."""

import time

import pytest

from paceline.engine.store.progress import Meter, Progress, watching


def test_speed_and_time_left() -> None:
    now = 0.0
    seen: list[Progress] = []
    meter = Meter(seen.append, "fetch", "x", 1000, clock=lambda: now)
    for second in range(4):
        now = float(second)
        meter.at(100 * second)
    assert [p.rate for p in seen] == [0, 100, 100, 100]
    assert seen[-1].eta_s == 7.0 and seen[0].eta_s is None
    now = 60.0
    meter.at(300)
    assert seen[-1].rate == pytest.approx(0, abs=2)


def test_what_an_earlier_run_fetched_is_not_speed() -> None:
    now = 100.0
    seen: list[Progress] = []
    meter = Meter(seen.append, "fetch", "x", 1000, clock=lambda: now)
    now = 101.0
    meter.at(900)
    now = 102.0
    meter.at(950)
    assert seen[-1].rate == 50 and seen[-1].eta_s == 1.0


def test_reports_are_rare_but_the_last_one_comes() -> None:
    now = 0.0
    seen: list[Progress] = []
    meter = Meter(seen.append, "fetch", "x", 10**6, clock=lambda: now)
    for done in range(1000):
        now = done / 1000
        meter.at(done)
    assert 5 <= len(seen) <= 12
    meter.at(10**6, final=True)
    assert seen[-1].done == 10**6


def test_without_a_report_nothing_happens() -> None:
    Meter(None, "fetch", "x").at(5, final=True)


def test_watching_reports_from_the_side_and_at_the_end() -> None:
    seen: list[Progress] = []
    count = iter(range(10**6))
    with watching(Meter(seen.append, "fetch", "x", 9), lambda: next(count), every_s=0.01):
        time.sleep(0.3)
    assert len(seen) >= 2 and seen[-1].done > seen[0].done


def test_a_failing_report_surfaces_in_the_caller() -> None:
    def broken(_: Progress) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), watching(Meter(broken, "fetch", "x"), lambda: 1, every_s=0.01):
        time.sleep(0.1)
