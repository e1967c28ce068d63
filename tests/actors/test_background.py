"""Work in a thread of its own, at a priority that slows nobody."""

import os
import sys
import threading

import anyio
import pytest

from paceline.actors.background import run_in_background


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities belong to processes")
def test_the_work_and_what_it_starts_yield_to_others_and_nobody_else_does() -> None:
    def mine() -> tuple[int, int]:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), os.sched_getscheduler(0)

    def work() -> tuple[tuple[int, int], tuple[int, int]]:
        theirs: list[tuple[int, int]] = []
        thread = threading.Thread(target=lambda: theirs.append(mine()))
        thread.start()
        thread.join()
        return mine(), theirs[0]

    before = mine()
    assert anyio.run(run_in_background, work) == ((19, os.SCHED_IDLE), (19, os.SCHED_IDLE))
    assert mine() == before != (19, os.SCHED_IDLE)


def test_what_it_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        anyio.run(run_in_background, work)
