"""What the gateway measures of each call: times of tokens, and lengths. The names are those of ``actors/stats.py``."""

from typing import Protocol

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
        registry.observe("request_params_n", call.generate.n)
        if call.generate.sampling.max_tokens is not None:
            registry.observe("request_params_max_tokens", call.generate.sampling.max_tokens)

    def admitted(self, admitted: Admitted) -> None:
        """The prompts' lengths are known."""
        for prompt in admitted.prompts:
            self._registry.observe("request_prompt_tokens", prompt.num_tokens)

    def delta(self, delta: TextDelta) -> None:
        """Output has come."""
        now_s, index = anyio.current_time(), delta.index
        new = delta.num_tokens - self._num_tokens.get(index, 0)
        last_s = self._last_s.get(index)
        if last_s is None:
            self._first_s[index] = now_s
            self._registry.observe("request_queue_time", delta.queue_s)
            if new > 0:
                self._registry.observe("time_to_first_token", now_s - self._began_s)
        elif new > 0:
            self._registry.observe("inter_token_latency", (now_s - last_s) / new)
        self._last_s[index] = now_s
        self._num_tokens[index] = delta.num_tokens
        if delta.finish_reason is not None:
            self._finish(index, now_s)

    def _finish(self, index: int, now_s: float) -> None:
        num_tokens = self._num_tokens[index]
        self._registry.observe("e2e_request_latency", now_s - self._began_s)
        self._registry.observe("request_generation_tokens", num_tokens)
        if num_tokens > 1:
            mean_s = (now_s - self._first_s[index]) / (num_tokens - 1)
            self._registry.observe("request_time_per_output_token", mean_s)
