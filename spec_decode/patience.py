"""How long a step waits for drafts that are made elsewhere, and when it is no use to ask. Knows no message, no clock.

A wait is bounded by twice what the answer should take. Who lets one pass is neither waited for nor asked until it
shows itself again: a stopped process costs one wait, not one a step. How much slower answers come than was measured
at start is learnt, so that a drafter that shares a busy machine is neither given up too early nor thought cheap.
"""

from ..engine.types import RequestId

_FACTOR = 2.0
_HOP_S = 0.002
"""Two messages and two wake-ups."""
_SILENCE_S = 1.0
"""An answer may have been lost: after so long the next question is asked all the same."""
_WEIGHT = 0.2
_MOST_SLOWDOWN = 8.0


class Patience:
    """See the module's docstring. Times are seconds of any one clock."""

    def __init__(self, timeout_s: float = 0.0) -> None:
        """``timeout_s``: how long to wait, whatever an answer should take; 0 = twice that."""
        self.slowdown = 1.0
        """Seconds that answers take, in those that they should take."""
        self.num_answered = 0
        self.num_late = 0
        """Requests whose drafts were waited for in vain."""
        self._timeout_s = timeout_s
        self._asked: dict[RequestId, int] = {}  # the length at which drafts were asked for
        self._is_waiting = False
        self._asked_s = 0.0
        self._until_s = 0.0
        self._expected_s = 0.0

    def ask(
        self, lengths: dict[RequestId, int], expected_s: float, now_s: float, *, wait: bool, learn: bool = True
    ) -> None:
        """Drafts were asked for behind ``lengths``; with ``wait`` the next step should wait for them.

        Without ``learn`` the time of the answer tells nothing: prompts are to be read first.
        """
        learn = learn and not self._asked
        self._asked |= lengths
        self._asked_s, self._expected_s = now_s, expected_s if learn else 0.0
        self._is_waiting = wait
        self._until_s = now_s + (self._timeout_s or _FACTOR * self.slowdown * expected_s + _HOP_S)

    def may_ask(self, now_s: float) -> bool:
        """False while an answer is overdue."""
        return not self._asked or now_s < self._until_s or now_s >= self._until_s + _SILENCE_S

    def answered(self, request_id: RequestId, length: int, now_s: float) -> bool:
        """Drafts came that were made behind ``length``; were they the ones that were asked for?"""
        if self._asked.get(request_id) != length:
            return False
        del self._asked[request_id]
        self.num_answered += 1
        if not self._asked:
            self._is_waiting = False
            if self._expected_s > 0:
                ratio = (now_s - self._asked_s) / self._expected_s
                ratio = min(max(ratio, 1 / _MOST_SLOWDOWN), _MOST_SLOWDOWN)
                self.slowdown += _WEIGHT * (ratio - self.slowdown)
        return True

    def left_s(self, now_s: float) -> float:
        """How much longer the next step should wait; 0 = it should not."""
        if not self._is_waiting or not self._asked:
            return 0.0
        if now_s >= self._until_s:
            self._is_waiting = False
            self.num_late += len(self._asked)
            return 0.0
        return self._until_s - now_s

    def forget(self, request_id: RequestId) -> None:
        """No answer about it is expected any more."""
        self._asked.pop(request_id, None)

    def clear(self) -> None:
        """Whoever was asked is gone."""
        self._asked.clear()
        self._is_waiting = False
        self.slowdown = 1.0
