"""Work in a thread of its own, at a priority that slows nobody."""

import os
import subprocess
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


_AS_AN_ACTOR = """
import anyio
from paceline.actors.background import run_in_background
def nice():
    return open("/proc/self/autogroup").read().split()[-1]
print(nice(), anyio.run(run_in_background, nice), nice())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="this kernel does not group by session")
def test_a_process_with_a_session_to_itself_stands_back_as_a_whole() -> None:
    """Else its idle thread would get half of the cores beside another session's busy one."""
    command = [sys.executable, "-P", "-c", _AS_AN_ACTOR]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "19", "0"]


def test_what_it_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        anyio.run(run_in_background, work)
