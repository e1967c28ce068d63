"""Requests on which the target may be dying, told from those that were only there.

A target's death is blamed on whoever stands in an unanswered plan. A request that got further since its last death is
cleared, so deaths that have another cause never add up. Blamed twice at the same token, it runs alone, one suspect
after another: if it gets further then, it goes on as before; if it takes the target with it once more, it must end.
"""

from collections.abc import Iterable

from .request import Request, State

_SUSPECT = 2
"""Deaths at one token after which a request runs alone."""
_GUILTY = 3
"""Deaths at one token after which it ends."""


class Suspects:
    """Who must run alone now. Empty but for the time after two deaths in short succession."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def blame(self, requests: Iterable[Request]) -> list[Request]:
        """The target died with these in unanswered plans, each named once; those of them that must end."""
        guilty: list[Request] = []
        for request in requests:
            is_stuck = len(request.tokens) == request.died_at
            request.num_deaths = request.num_deaths + 1 if is_stuck else 1
            request.died_at = len(request.tokens)
            if request.num_deaths >= _GUILTY:
                guilty.append(request)
            elif request.num_deaths == _SUSPECT:
                self._requests.append(request)
        return guilty

    def next(self) -> Request | None:
        """The one that runs alone next; None = everybody may run."""
        while self._requests:
            request = self._requests[0]
            if request.state is not State.ENDED and len(request.tokens) == request.died_at:
                return request
            del self._requests[0]
        return None
