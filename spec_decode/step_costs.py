"""What a step costs by its number of rows: a table measured at start, corrected by every real step. No torch, no clock.

Between the measured widths cost is linear, behind the last one it goes on with the last slope. Corrections are in
ratios. The two neighbouring widths take most of one, a common factor the rest: it stands for what all steps share
(contexts grow, another process takes a core), but a width that is in use all the time must not drag the others along.
One that was not seen for long learns faster, because what it knows is old.
"""

from bisect import bisect_right
from collections.abc import Sequence

_UNKNOWN: tuple[tuple[int, float], ...] = ((1, 1.0), (64, 4.0))
"""The shape assumed where nothing was measured: a further row costs a twentieth of a step. Its unit comes with the
first real step."""
_COMMON, _OWN, _OWN_OLD = 0.03, 0.15, 0.4
_OLD = 8  # steps
_MOST_RATIO = 1.5
"""A step that took longer still was disturbed; what really changed shows again."""


class StepCosts:
    """Seconds of a step that verifies and decodes."""

    def __init__(self, measured: Sequence[tuple[int, float]] = ()) -> None:
        """``measured``: (rows, seconds), rows rising; times that fall with more rows are noise and are raised."""
        self._is_scaled = bool(measured)
        self._rows = [rows for rows, _ in measured or _UNKNOWN]
        self._seconds: list[float] = []
        for _, seconds in measured or _UNKNOWN:
            self._seconds.append(max(seconds, 1e-9, *self._seconds[-1:]))
        self._factor = 1.0
        self._num_seen = 0
        self._last_seen = [0] * len(self._rows)

    def span(self, first: int, num: int) -> list[float]:
        """Seconds of a step of ``first``, ``first + 1``, ... ``first + num`` rows."""
        rows, seconds, factor = self._rows, self._seconds, self._factor
        if len(rows) == 1:
            return [seconds[0] * factor] * (num + 1)
        costs: list[float] = []
        at, last = first, first + num
        while at <= last:
            right = min(max(bisect_right(rows, at), 1), len(rows) - 1)
            slope = (seconds[right] - seconds[right - 1]) / (rows[right] - rows[right - 1])
            end = last + 1 if right == len(rows) - 1 else min(last + 1, rows[right])
            base = seconds[right - 1] - slope * rows[right - 1]
            costs += [(base + slope * r) * factor for r in range(at, end)]
            at = end
        return costs

    def at(self, num_rows: int) -> float:
        """Seconds of a step of ``num_rows`` rows."""
        return self.span(num_rows, 0)[0]

    def observe(self, num_rows: int, elapsed_s: float) -> None:
        """A real step without prompt tokens took this long."""
        if elapsed_s <= 0 or num_rows < 1:
            return
        ratio = elapsed_s / self.at(num_rows)
        if not self._is_scaled:
            self._is_scaled = True
            self._factor *= ratio
            return
        ratio = min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO)
        self._factor *= ratio**_COMMON
        self._num_seen += 1
        rows = self._rows
        right = min(max(bisect_right(rows, num_rows), 1), len(rows) - 1)
        if right < 1:
            self._correct(0, ratio**_OWN)
            return
        share = min(max((num_rows - rows[right - 1]) / (rows[right] - rows[right - 1]), 0.0), 1.0)
        for place, weight in ((right - 1, 1.0 - share), (right, share)):
            if weight:
                is_old = self._num_seen - self._last_seen[place] > _OLD
                self._correct(place, ratio ** (weight * (_OWN_OLD if is_old else _OWN)))

    def _correct(self, place: int, ratio: float) -> None:
        """Of one width; those that would then cost more with fewer rows follow it."""
        self._last_seen[place] = self._num_seen
        seconds = self._seconds
        told = seconds[place] = seconds[place] * ratio
        for other in range(place):
            seconds[other] = min(seconds[other], told)
        for other in range(place + 1, len(seconds)):
            seconds[other] = max(seconds[other], told)
