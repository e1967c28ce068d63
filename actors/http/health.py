"""Is the engine there? Told by the supervisor and by the actors' last reports, never by generating.

============ ======= ====== =====================================================
state        /health /ready meaning
============ ======= ====== =====================================================
starting     503     503    loading; the port already answers
ok, degraded 200     200    degraded: the draft is away, everything else serves
recovering   503     503    an actor is dead or stuck; calls wait, new ones queue
draining     200     503    calls in flight finish
failed       503     503    crash loop; the error has the root cause
============ ======= ====== =====================================================
"""

from typing import Any, Protocol

import anyio

from ...engine.errors import UnavailableError
from ..messages import EngineState, Stats
from .errors import clean

_STARTING_RETRY_S = 2.0
_RECOVERING_RETRY_S = 2.0
_DRAINING_RETRY_S = 2.0
_FAILED_RETRY_S = 30.0


class Reports(Protocol):
    """Where the latest reports are; ``EngineClient`` keeps them."""

    state: EngineState | None
    stats: dict[str, Stats]


class Health:
    """The answers of /health and /ready."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.draining = False
        self._seen: EngineState | None = None
        self._seen_s = 0.0

    @property
    def state(self) -> str:
        """One word; the table in the module's docstring."""
        told = self._reports.state
        if told is None:
            return "starting"
        return "draining" if self.draining and told.state != "failed" else told.state

    def why_not_healthy(self) -> UnavailableError | None:
        """The error of /health; None while it is well."""
        return None if self.state == "draining" else self.why_not_ready()

    def why_not_ready(self) -> UnavailableError | None:
        """The error of /ready; None while new work is taken."""
        told = self._reports.state
        cause = clean(told.error) if told is not None and told.error else ""
        match self.state:
            case "ok" | "degraded":
                return None
            case "starting":
                return _unavailable("the model is loading; try again soon", "starting", _STARTING_RETRY_S)
            case "draining":
                return _unavailable("the server is shutting down; try again soon", "draining", _DRAINING_RETRY_S)
            case "failed":
                what = f"the engine has failed: {cause or 'see the log'}"
                return _unavailable(what, "engine_unavailable", _FAILED_RETRY_S)
            case _:
                what = f"the engine is recovering: {cause}" if cause else "the engine is recovering"
                return _unavailable(f"{what}; try again soon", "engine_unavailable", _RECOVERING_RETRY_S)

    def why_no_calls(self) -> UnavailableError | None:
        """The refusal of a new call. While the engine recovers calls are taken: they wait, up to the queue's cap."""
        told = self._reports.state
        if self.state == "recovering" and told is not None and told.hello is not None:
            return None
        if self.state in ("ok", "degraded") and (told is None or told.hello is None):
            return _unavailable("the model is loading; try again soon", "starting", _STARTING_RETRY_S)
        return self.why_not_ready()

    def report(self) -> dict[str, Any]:
        """The body of /ready."""
        told = self._reports.state
        if told is not self._seen:
            self._seen, self._seen_s = told, anyio.current_time()
        since_s = anyio.current_time() - self._seen_s
        values = {k: v for s in self._reports.stats.values() for k, v in s.values.items()}

        def gauge(name: str) -> int:
            return int(values.get(name, 0))

        total = gauge("kv_blocks_total") or (
            told.hello.num_blocks if told is not None and told.hello is not None else 0
        )
        return {
            "status": self.state,
            "running": gauge("num_requests_running"),
            "waiting": gauge("num_requests_waiting"),
            "free_blocks": gauge("kv_blocks_free") if "kv_blocks_free" in values else total,
            "total_blocks": total,
            "actors": {
                a.name: {
                    "state": a.state,
                    "pid": a.pid or None,  # a 0 handed on to ``kill`` would end the whole process group
                    "restarts": a.restarts,
                    "idle_s": round(a.idle_s + since_s, 1),
                    "error": None if a.error is None else clean(a.error),
                }
                for a in (told.actors if told is not None else [])
            },
        }


def _unavailable(message: str, code: str, retry_after_s: float) -> UnavailableError:
    return UnavailableError(message, code=code, retry_after_s=retry_after_s)
