"""How much the holder of one API key may ask for: requests at once, and requests a minute."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import HttpError

_WINDOW_S = 60.0


class Quota:
    """The use of one key. Counts the requests of the last minute one by one, so the bound is exact."""

    def __init__(self, name: str, max_concurrent: int, requests_per_minute: int) -> None:
        self.name = name
        """For the log."""
        self._max_concurrent = max_concurrent
        self._per_minute = requests_per_minute
        self._num_open = 0
        self._begun: deque[float] = deque()

    @contextmanager
    def used(self, now_s: float) -> Iterator[None]:
        """Count one request while the block runs. 0 in a bound means none.

        Raises:
            HttpError: 429, with the seconds after which it would be taken.
        """
        if self._max_concurrent and self._num_open >= self._max_concurrent:
            what = f"this key has {self._num_open} requests open, its limit"
            raise _limited(f"{what}; wait for one to end", 1.0)
        if self._per_minute:
            while self._begun and now_s - self._begun[0] >= _WINDOW_S:
                self._begun.popleft()
            if len(self._begun) >= self._per_minute:
                wait_s = _WINDOW_S - (now_s - self._begun[0])
                what = f"this key has made {self._per_minute} requests within a minute, its limit"
                raise _limited(f"{what}; try again in {wait_s:.0f} s", wait_s)
            self._begun.append(now_s)
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1


def _limited(message: str, retry_after_s: float) -> HttpError:
    return HttpError(429, message, code="rate_limited", type="rate_limit_error", retry_after_s=retry_after_s)
