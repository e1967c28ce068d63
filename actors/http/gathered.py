"""What has come of an answer so far, and what all its parts have in common. No dialect, no I/O."""

import time

import msgspec

from ...engine.errors import UnavailableError
from ...engine.types import SpeculationStats
from ..messages import PositionLogprobs, TextDelta


class AnswerHead(msgspec.Struct, frozen=True):
    """What all parts of an answer have in common."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str
    began_s: float = 0.0
    """When the call came in, on the monotonic clock."""

    def named(self, request_id: str) -> "AnswerHead":
        """The same with an id: ``id`` is only the dialect's prefix until the call is checked."""
        return msgspec.structs.replace(self, id=self.id + request_id)


class Gathered:
    """One choice, as far as it has come."""

    __slots__ = (
        "embedding", "finish_reason", "first_s", "last_s", "logprobs", "num_cached", "num_tokens", "prompt_logprobs",
        "speculation", "stop_reason", "text", "token_ids",
    )  # fmt: skip

    def __init__(self) -> None:
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[PositionLogprobs] = []
        self.prompt_logprobs: list[PositionLogprobs | None] | None = None
        self.num_tokens = 0
        self.num_cached = 0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.speculation: SpeculationStats | None = None
        self.embedding: bytes | None = None
        """fp32, little-endian; of a call for vectors."""
        self.first_s = 0.0
        """When its first output came, on the monotonic clock; 0 before."""
        self.last_s = 0.0

    def add(self, delta: TextDelta) -> None:
        """Take the next delta of this choice."""
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        self.text.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs or ())
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        self.num_tokens = delta.num_tokens
        self.num_cached = max(self.num_cached, delta.num_cached)
        if delta.finish_reason is not None:
            self.finish_reason = finish_reason(delta)
            self.stop_reason = delta.stop_reason
            self.speculation = delta.speculation
            self.embedding = delta.embedding


def finish_reason(delta: TextDelta) -> str | None:
    """``stop`` or ``length``; the other ways to end are errors.

    Raises:
        UnavailableError: the engine gave the request up.
    """
    if delta.finish_reason in ("abort", "error"):
        raise UnavailableError("the engine ended the request; send it again", code="engine_unavailable")
    return delta.finish_reason
