"""When a request's output ends: end ids, stop ids, length limits. Pure functions of ids; stop strings are elsewhere."""

from typing import NamedTuple

from ..types import FinishReason, SamplingParams


class Stop(NamedTuple):
    """Where and why an output ends: the first ``keep`` of the tokens just looked at belong to it."""

    keep: int
    finish_reason: FinishReason
    stop_reason: int | None


class StopRules:
    """One request's rules, prepared so that the common answer "goes on" costs one set look-up."""

    __slots__ = ("end_ids", "ids", "max_output", "min_tokens")

    def __init__(self, params: SamplingParams, num_prompt: int, max_model_len: int) -> None:
        self.end_ids = frozenset(() if params.ignore_eos else params.end_ids)
        self.ids = self.end_ids | frozenset(params.stop_token_ids)
        """Every id that may end the output."""
        self.min_tokens = params.min_tokens
        self.max_output = min(params.max_tokens, max_model_len - num_prompt)

    def find(self, token_ids: list[int], num_output: int) -> Stop | None:
        """The first end among ``token_ids``, which follow ``num_output`` output tokens; None = goes on.

        An end id is part of the output, and gives no stop reason; one of ``stop_token_ids`` gives itself. Neither ends
        an output shorter than ``min_tokens``, the ending token counted (the sampler masks them until then).
        """
        for keep, token in enumerate(token_ids, 1):
            count = num_output + keep
            if token in self.ids and count >= self.min_tokens:
                return Stop(keep, "stop", None if token in self.end_ids else token)
            if count >= self.max_output:
                return Stop(keep, "length", None)
        return None
