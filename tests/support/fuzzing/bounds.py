"""One input at a time within bounds of processor time and memory, which become findings when they are passed."""

import resource
import signal
import sys
from types import FrameType
from typing import NoReturn

from .target import Target

TIME_S = 2.0
"""Processor time of one input; the slowest good ones take some milliseconds."""
KILLED_AFTER_S = 0.05
"""In place of it, where in service a process is killed."""
GROWTH = 256 << 20
"""Bytes by which one input may raise the peak of resident memory."""
SPACE = 1 << 30
"""Bytes of address space beside what is there before the first input."""


class TooSlow(BaseException):
    """No ``except Exception`` of the code under test may swallow it."""


class TooMuchMemory(AssertionError):
    """Resident memory has grown too much over one input."""


class Bounded:
    """Runs a target's inputs. The timer counts this process's own time: a busy machine makes no findings."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._peak = _peak()
        self.num_refused = 0
        """Inputs that ended in an expected error."""
        signal.signal(signal.SIGVTALRM, _too_slow)

    def __call__(self, data: bytes) -> None:
        """Feed one input.

        Raises:
            BaseException: a finding.
        """
        killable = self._target.is_killable
        signal.setitimer(signal.ITIMER_VIRTUAL, KILLED_AFTER_S if killable else TIME_S)
        try:
            self._target.run(data[: self._target.most_bytes])
        except self._target.expected:
            self.num_refused += 1
        except TooSlow:
            if not killable:
                raise
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        peak = _peak()
        grown, self._peak = peak - self._peak, peak
        if grown > GROWTH and not killable:
            raise TooMuchMemory(f"resident memory grew by {grown >> 20} MB over {len(data)} bytes of input")


def limit_memory() -> None:
    """Bound this process's address space, so that a finding is an error here and no distress of the machine."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _too_slow(number: int, frame: FrameType | None) -> NoReturn:
    raise TooSlow(f"more than {TIME_S:g} s of processor time")
