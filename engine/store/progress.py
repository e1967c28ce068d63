"""How far a fetch is, as values. Prints nothing and knows no terminal: a caller passes a ``Report``."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import msgspec

_WINDOW_S = 5.0
"""Speed is the mean over this many seconds: steady enough to read, quick enough to show a stall."""
_EVERY_S = 0.1
"""Reports are at least this far apart, but for the last one."""


class Progress(msgspec.Struct, frozen=True):
    """One moment of a fetch."""

    phase: Literal["wait", "fetch", "unpack", "verify"]
    """``wait`` = another process is fetching the same model."""
    what: str
    done: int = 0
    """Bytes."""
    total: int = 0
    """Bytes; 0 = not known."""
    rate: float = 0.0
    """Bytes a second over the last seconds."""
    eta_s: float | None = None
    """Seconds left at that rate."""


Report: TypeAlias = Callable[[Progress], None]


class Meter:
    """Turns byte counts into Progress values for one phase; ``report=None`` makes it silent."""

    def __init__(
        self,
        report: Report | None,
        phase: Literal["wait", "fetch", "unpack", "verify"],
        what: str,
        total: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._phase: Literal["wait", "fetch", "unpack", "verify"] = phase
        self._what = what
        self._total = total
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._told_s = float("-inf")

    def at(self, done: int, *, final: bool = False) -> None:
        """``done`` bytes are through. Reports unless the last report was a moment ago; ``final`` always does."""
        now = self._clock()
        if self._report is None or (now - self._told_s < _EVERY_S and not final):
            return
        if self._told_s == float("-inf"):
            self._marks = deque([(now, done)])  # what an earlier run had fetched is not this run's speed
        self._told_s = now
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW_S:
            self._marks.popleft()
        then, before = self._marks[0]
        rate = max(0.0, (done - before) / (now - then)) if now > then else 0.0
        left = self._total - done
        eta = left / rate if rate > 0 and self._total and left >= 0 else None
        self._report(Progress(self._phase, self._what, done, self._total, rate, eta))


@contextmanager
def watching(meter: Meter, measure: Callable[[], int], every_s: float = 0.2) -> Iterator[None]:
    """Report ``measure()`` in the background while the block runs: for fetchers that show no progress themselves.

    An error out of the report (a closed pipe) surfaces when the block ends, never in the background thread.
    """
    stop = threading.Event()
    failures: list[Exception] = []

    def loop() -> None:
        while not stop.wait(every_s):
            try:
                meter.at(measure())
            except Exception as e:
                failures.append(e)
                return

    thread = threading.Thread(target=loop, name="paceline-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
    meter.at(measure(), final=True)
