"""Who goes first, who gives way, and how much is kept back: pure functions of requests and numbers.

Rank is (priority, order of arrival), lower first; under first come first served all priorities are equal. Lists of
requests are kept in rank order.
"""

from bisect import bisect_left
from collections.abc import Iterable

from .request import Request


def rank_of(request: Request) -> tuple[int, int]:
    """The sort key of every list of requests."""
    return request.rank


def insert(requests: list[Request], request: Request) -> None:
    """Put ``request`` at its place in a list in rank order."""
    requests.insert(bisect_left(requests, request.rank, key=rank_of), request)


def remove(requests: list[Request], request: Request) -> None:
    """Take ``request`` out of a list in rank order."""
    index = bisect_left(requests, request.rank, key=rank_of)
    if index == len(requests) or requests[index] is not request:
        raise AssertionError(f"request {request.request_id} of rank {request.rank} is not in its list")
    del requests[index]


def victim(running: Iterable[Request]) -> Request:
    """Who is preempted when blocks run out: the worst priority, then the least sunk cost, then the latest arrival.

    Sunk cost counts the work of all epochs, so that each preemption makes the next one less likely. And progress is
    certain: of the best priority, the one with the highest cost gives way to nobody, and alone it fits the pool.
    """
    return min(running, key=lambda r: (-r.rank[0], r.sunk, -r.rank[1]))


def admission_margin(num_decoding: int) -> int:
    """Blocks left free by an admission, so that it is not undone by the next few tokens of those who run already.

    Each decoding request takes a block every ``block_size`` steps; half of them do so within half of that.
    """
    return num_decoding // 2


def draft_budget(budget: int, num_decoding: int, *, prompts_wait: bool) -> int:
    """Tokens of a step that drafts may take: what one token for each decoding request leaves, and half of it while
    prompts wait for the rest."""
    left = max(0, budget - num_decoding)
    return left // 2 if prompts_wait else left


def retry_after_s(queued_tokens: int, budget: int, step_s: float) -> float:
    """Seconds in which the queue should have been computed, from the token budget and the mean duration of a step."""
    return min(max(queued_tokens / budget * step_s, 1.0), 60.0)
