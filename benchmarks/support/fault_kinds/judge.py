"""What a fault is judged by: texts and usage of the same calls undisturbed, and what the server holds before and after.

Pure: no server, no clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from load import Reply

HEAD = ["fault", "in flight", "failed", "other text", "seen s", "back s", "verdict", "note"]

_BACK_OFF_S = (0.1, 0.5, 2.0, 5.0, 10.0, 30.0)
_SERVED_S = 60.0
_FLUCTUATION = 6
"""Descriptors that one process may have more of than at first: a request for its state; a socket to a neighbour that
died, which the messaging library closes when it makes the next one."""


@dataclass
class Outcome:
    """One fault, once. ``faults`` holds what fell short of the promise; none of it is a pass."""

    fault: str
    in_flight: int = 0
    failed: int = 0
    different: int = 0
    seen_s: float | None = None
    """Until the server knew."""
    back_s: float | None = None
    """Until all was as before."""
    note: str = ""
    faults: list[str] = field(default_factory=list)

    def want(self, is_so: bool, otherwise: str) -> None:
        """A promise that was kept, or what to say of it."""
        if not is_so:
            self.faults.append(otherwise)

    def row(self) -> list[Any]:
        """For a table with ``HEAD``."""

        def seconds(value: float | None) -> str:
            return "-" if value is None else f"{value:.2f}"

        verdict = "ok" if not self.faults else "; ".join(self.faults)
        return [self.fault, self.in_flight, self.failed, self.different, seconds(self.seen_s), seconds(self.back_s),
                verdict, self.note]  # fmt: skip


Told = tuple[str, int, int]
"""Text, and the usage: tokens of the prompt and of the output."""


def told(replies: Iterable[Reply]) -> dict[str, Told]:
    """What came of each call, by its name.

    Raises:
        ValueError: one of them failed, so that they cannot be the measure of anything.
    """
    found: dict[str, Told] = {}
    for reply in replies:
        if reply.error:
            raise ValueError(f"call {reply.name} failed although nothing was done to the server: {reply.error}")
        found[reply.name] = (reply.text, reply.prompt_tokens, reply.output_tokens)
    return found


def different(replies: Iterable[Reply], right: Mapping[str, Told]) -> list[str]:
    """Names of the calls that ended well and yet not as they should."""
    return [r.name for r in replies if not r.error and (r.text, r.prompt_tokens, r.output_tokens) != right[r.name]]


@dataclass(frozen=True)
class State:
    """What a server holds."""

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    is_ok: bool
    pids: dict[str, int]
    """By actor, with "supervisor"."""
    fds: dict[str, int]
    """Descriptors by actor."""
    num_processes: int
    memory: dict[str, int] = field(default_factory=dict)
    """Proportional set size in bytes by actor, where it was asked for."""


def leftovers(before: State, after: State, replaced: Iterable[str] = ()) -> list[str]:
    """What is not as it was. Only the actors in ``replaced`` may have another process."""
    found: list[str] = []
    if not after.is_ok:
        found.append("the server is not well")
    if after.running or after.waiting:
        found.append(f"{after.running} requests run and {after.waiting} wait")
    if after.free_blocks != after.total_blocks:
        found.append(f"{after.total_blocks - after.free_blocks} blocks are not free")
    if after.total_blocks != before.total_blocks:
        found.append(f"{after.total_blocks} blocks, not {before.total_blocks}")
    if after.num_processes > before.num_processes:
        found.append(f"{after.num_processes} processes, not {before.num_processes}")
    for name, pid in before.pids.items():
        if (after.pids.get(name) != pid) != (name in replaced):
            found.append(f"{name} is {'the same' if name in replaced else 'another'} process")
        if (more := after.fds.get(name, 0) - before.fds.get(name, 0)) > _FLUCTUATION:
            found.append(f"{name} holds {more} descriptors more")
    return found


class BackOff:
    """How long the supervisor waits before it starts an actor again: longer with each death that comes soon."""

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        self._started_s: dict[str, float] = {}
        self._in_row: dict[str, int] = {}

    def died(self, actor: str, now_s: float) -> float:
        """The wait that this death brings."""
        served = now_s - self._started_s.get(actor, self._begun_s) > _SERVED_S
        self._in_row[actor] = 1 if served else self._in_row.get(actor, 0) + 1
        return _BACK_OFF_S[min(self._in_row[actor], len(_BACK_OFF_S)) - 1]

    def started(self, actor: str, now_s: float) -> None:
        """The next process has begun."""
        self._started_s[actor] = now_s

    def rest_s(self, actor: str, now_s: float) -> float:
        """Seconds without a death until the next one counts as the first: needed now and then, or the wait is all
        that is measured, and five deaths within a minute are told as a crash loop.
        """
        if self._in_row.get(actor, 0) < 3:
            return 0.0
        return max(0.0, self._started_s.get(actor, self._begun_s) + _SERVED_S + 1.0 - now_s)
