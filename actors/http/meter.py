"""What the gateway measures of each call: times of tokens, and lengths. The names are those of ``actors/stats.py``."""

from typing import Any, Protocol

import anyio

from ..messages import Admitted, TextDelta
from .parsed_call import ParsedCall


class Registry(Protocol):
    """What is used of ``actors.stats.MetricsRegistry``."""

    def inc(self, key: str, amount: float = 1, *labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, key: str, value: float, *labels: str) -> None:
        """Count one sample."""
        ...

    def render(self) -> bytes:
        """The text of /metrics."""
        ...


class CallMeter:
    """Times of one call, from the arrival of its request line."""

    def __init__(self, registry: Registry, call: ParsedCall, began_s: float) -> None:
        self._registry = registry
        self._began_s = began_s
        self._first_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        self._num_tokens: dict[int, int] = {}
        self._num_prompt_tokens = self._num_cached = self._num_drafts = self._num_accepted = 0
        self._queue_s = 0.0
        self._ends: dict[int, str] = {}
        registry.observe("request_params_n", call.generate.n)
        if call.generate.sampling.max_tokens is not None:
            registry.observe("request_params_max_tokens", call.generate.sampling.max_tokens)

    def admitted(self, admitted: Admitted) -> None:
        """The prompts' lengths are known."""
        for prompt in admitted.prompts:
            self._num_prompt_tokens += prompt.num_tokens
            self._registry.observe("request_prompt_tokens", prompt.num_tokens)

    def told(self) -> dict[str, Any]:
        """For the log: tokens of prompts, of these cached, of output; ms until the first left the queue and came."""
        first_s = min(self._first_s.values(), default=None)
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "cached_tokens": self._num_cached,
            "output_tokens": sum(self._num_tokens.values()),
            "queue_ms": round(self._queue_s * 1000, 1) if first_s is not None else None,
            "first_token_ms": round((first_s - self._began_s) * 1000, 1) if first_s is not None else None,
            "draft_tokens": self._num_drafts or None,
            "accepted_tokens": self._num_accepted if self._num_drafts else None,
            "finish": ",".join(self._ends[index] for index in sorted(self._ends)) or None,
        }

    def delta(self, delta: TextDelta) -> None:
        """Output has come."""
        now_s, index = anyio.current_time(), delta.index
        new = delta.num_tokens - self._num_tokens.get(index, 0)
        last_s = self._last_s.get(index)
        if last_s is None:
            self._first_s[index] = now_s
            self._queue_s = max(self._queue_s, delta.queue_s)
            self._registry.observe("request_queue_time", delta.queue_s)
            if new > 0:
                self._registry.observe("time_to_first_token", now_s - self._began_s)
        elif new > 0:
            self._registry.observe("inter_token_latency", (now_s - last_s) / new)
        self._last_s[index] = now_s
        self._num_tokens[index] = delta.num_tokens
        if delta.finish_reason is not None:
            self._ends[index] = delta.finish_reason
            self._num_cached += delta.num_cached
            if delta.speculation is not None:
                self._num_drafts += delta.speculation.num_draft_tokens
                self._num_accepted += sum(delta.speculation.accepted.values())
            self._finish(index, now_s)

    def _finish(self, index: int, now_s: float) -> None:
        num_tokens = self._num_tokens[index]
        self._registry.observe("e2e_request_latency", now_s - self._began_s)
        self._registry.observe("request_generation_tokens", num_tokens)
        if num_tokens > 1:
            mean_s = (now_s - self._first_s[index]) / (num_tokens - 1)
            self._registry.observe("request_time_per_output_token", mean_s)
