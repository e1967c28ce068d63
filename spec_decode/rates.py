"""How likely is a draft accepted, given that all before it were: by request, method and position. No torch, no clock.

Only steps that reached a position count for it. A request's own rate is a moving mean, drawn to its method's mean as if
that had been seen 16 times; a method's mean at a position is drawn to its mean at the position before. A new method is
thought good until a few drafts say otherwise: one thought bad would never be asked, and never show what it can.
"""

from collections.abc import Sequence

_WEIGHT = 0.1  # least, of a request's newest observation: more would follow chance, and slots would go to the lucky
_PRIOR = 16.0  # observations that the mean is worth
_START_PRIOR = 4.0  # and those that the start is worth to the first mean: hope, soon given up
_MOST_OWN = 32  # observations of its own that a request is credited with: the moving mean remembers no more
_FORGET = 1024.0
_START = 0.8
_LEAST, _MOST = 0.01, 0.995


class MethodRates:
    """One method over all requests."""

    def __init__(self, most: int) -> None:
        """``most``: positions that are told apart."""
        self._reached = [0.0] * most
        self._accepted = [0.0] * most
        self._confidence = [0.0] * most
        """Moving mean of what the method said itself; 0 = it said nothing yet."""
        self._means: list[float] = []

    def means(self) -> list[float]:
        """The conditional rate at each position."""
        if not self._means:
            mean, weight = _START, _START_PRIOR
            for reached, accepted in zip(self._reached, self._accepted, strict=True):
                mean = (accepted + weight * mean) / (reached + weight)
                weight = _PRIOR
                self._means.append(mean)
        return self._means

    def observe(self, num_drafts: int, num_accepted: int, confidence: Sequence[float] | None) -> None:
        """One request's step."""
        self._means = []
        for j in range(min(num_accepted + 1, num_drafts, len(self._reached))):
            self._reached[j] += 1.0
            self._accepted[j] += j < num_accepted
            if self._reached[j] >= _FORGET:
                self._reached[j] /= 2
                self._accepted[j] /= 2
            if confidence is not None and j < len(confidence):
                before = self._confidence[j]
                self._confidence[j] = before + (confidence[j] - before) * (0.02 if before else 1.0)

    def mean_confidence(self, position: int) -> float:
        """What the method says on average of drafts here that were verified; 0 = unknown."""
        return self._confidence[position]


class RequestRates:
    """One method on one request."""

    __slots__ = ("_method", "_num", "_own")

    def __init__(self, method: MethodRates, most: int) -> None:
        self._method = method
        self._num = [0] * most
        self._own = [0.0] * most

    def observe(self, num_drafts: int, num_accepted: int, confidence: Sequence[float] | None = None) -> None:
        """A step verified ``num_drafts`` and accepted the first ``num_accepted``."""
        for j in range(min(num_accepted + 1, num_drafts, len(self._num))):
            hit = float(j < num_accepted)
            self._own[j] += (hit - self._own[j]) * max(_WEIGHT, 1.0 / (self._num[j] + 1))
            self._num[j] = min(self._num[j] + 1, _MOST_OWN)
        self._method.observe(num_drafts, num_accepted, confidence)

    def survival(self, num_drafts: int, confidence: Sequence[float] | None = None) -> list[float]:
        """The chance that each of the next drafts is accepted, falling.

        ``confidence``, the method's own word on each, scales the rate by how far it is above or below what it usually
        says: the coupled rule allows that, because there no draft's value can change what is committed.
        """
        survival: list[float] = []
        product = 1.0
        for j, mean in enumerate(self._method.means()[:num_drafts]):
            num = self._num[j]
            rate = (num * self._own[j] + _PRIOR * mean) / (num + _PRIOR)
            if confidence is not None and (usual := self._method.mean_confidence(j)):
                rate *= confidence[j] / usual
            product *= min(max(rate, _LEAST), _MOST)
            survival.append(product)
        return survival
