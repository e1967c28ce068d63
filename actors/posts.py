"""What the supervisor knows of each actor, and the judgements it draws from that. Pure: time is an argument.

Knows no processes and no sockets.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from .messages import ActorState, Heartbeat, Hello

RESTART_DELAYS_S = (0.1, 0.5, 2.0, 5.0, 10.0, 30.0)
LOOP_DEATHS = 5
LOOP_S = 60.0
"""``LOOP_DEATHS`` deaths within ``LOOP_S`` are a crash loop: the engine has failed until a start succeeds."""
HANG_S = 10.0
HANG_STEPS = 20.0
"""Without progress for ``max(HANG_S, HANG_STEPS x the longest step so far)`` an actor is stuck."""
START_S = 600.0
"""Bound on the time from a process's start to its Hello: a big model on a slow disk takes minutes."""


class Post:
    """One actor's place: who fills it now, and how it went so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_needed = not name.startswith("draft")
        """Whether the engine is of use without it."""
        self.state: Literal["starting", "ok", "stalled", "lost"] = "starting"
        self.loops = False
        """In a crash loop: set by the death that makes one, cleared by a Hello."""
        self.is_there = False
        """From the start of a process to its death."""
        self.epoch = -1
        self.pid = 0
        self.hello: Hello | None = None
        self.error: str | None = None
        """The last root cause, kept until the next one."""
        self._deaths: deque[float] = deque(maxlen=LOOP_DEATHS)
        self._in_row = 0
        self._started_s = 0.0
        self._heard_s = 0.0
        self._progress_s = 0.0
        self._beat: Heartbeat | None = None
        self._longest_step_s = 0.0

    @property
    def next_epoch(self) -> int:
        """The epoch to which messages should be sent: of the process that is there, else of its replacement."""
        return self.epoch if self.is_there else self.epoch + 1

    def begin(self, now_s: float) -> int:
        """A new process is about to start; its epoch."""
        self.epoch += 1
        self.is_there = True
        self.state = "starting"
        self.hello = None
        self._beat = None
        self._started_s = self._heard_s = self._progress_s = now_s
        return self.epoch

    def welcome(self, hello: Hello, now_s: float) -> None:
        """It can work."""
        self.state = "ok"
        self.loops = False
        self.hello = hello
        self._heard_s = self._progress_s = now_s

    def beat(self, beat: Heartbeat, now_s: float) -> None:
        """A report of progress."""
        last, self._beat = self._beat, beat
        self._heard_s = now_s
        if last is None or beat.step != last.step or not beat.busy:
            self._progress_s = now_s
            if last is not None and last.busy:
                self._longest_step_s = max(self._longest_step_s, last.step_age_s)

    def is_stuck(self, now_s: float) -> bool:
        """No report, or busy in one step for too long; or never ready."""
        if self.state == "starting":
            return now_s - self._started_s > START_S
        if self.state != "ok":
            return False
        bound_s = max(HANG_S, HANG_STEPS * self._longest_step_s)
        in_step_s = self._beat.step_age_s if self._beat is not None and self._beat.busy else 0.0
        return now_s - self._heard_s > bound_s or in_step_s > bound_s

    def died(self, cause: str, now_s: float) -> float:
        """It is gone; seconds to wait before the next start."""
        self.error = cause
        self.pid = 0
        self.hello = None
        self.is_there = False
        served = self.state != "starting" and now_s - self._started_s > LOOP_S
        self._in_row = 1 if served else self._in_row + 1
        self.state = "lost"
        self._deaths.append(now_s)
        if len(self._deaths) == LOOP_DEATHS and now_s - self._deaths[0] <= LOOP_S:
            self.loops = True
        return RESTART_DELAYS_S[-1 if self.loops else min(self._in_row, len(RESTART_DELAYS_S)) - 1]

    def view(self, now_s: float) -> ActorState:
        """As others are told."""
        return ActorState(
            self.name,
            "failed" if self.loops else self.state,
            self.pid,
            max(0, self.epoch),
            round(max(0.0, now_s - self._progress_s), 1),
            self.error,
        )


EngineCondition = Literal["starting", "ok", "degraded", "recovering", "draining", "failed"]


def condition(posts: Sequence[Post], *, was_ready: bool, draining: bool) -> EngineCondition:
    """The engine's state from those of its actors."""
    if any(post.loops and post.is_needed for post in posts):
        return "failed"
    if draining:
        return "draining"
    if all(post.state == "ok" for post in posts):
        return "ok"
    if was_ready and all(post.state == "ok" for post in posts if post.is_needed):
        return "degraded"
    return "recovering" if was_ready else "starting"


def first_error(posts: Sequence[Post]) -> str | None:
    """The root cause to name while the engine is not well."""
    for post in sorted(posts, key=lambda post: not post.loops):
        if (post.loops or post.state != "ok") and post.error is not None:
            return f"{post.name}: {post.error}"
    return None
