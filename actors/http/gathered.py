"""What has come of an answer so far, and what all its parts have in common. No dialect, no I/O."""

import time
from typing import Literal, TypeAlias

import msgspec

from ...engine.errors import UnavailableError
from ...engine.types import SpeculationStats
from ..messages import Part, PositionLogprobs, TextDelta


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


BlockKind: TypeAlias = Literal["content", "reasoning", "call"]


class Block:
    """A run of one kind in a message: text, reasoning, or one call of a tool with its arguments as JSON text."""

    __slots__ = ("index", "kind", "name", "texts")

    def __init__(self, kind: BlockKind, index: int = 0, name: str = "") -> None:
        self.kind: BlockKind = kind
        self.index = index
        """Of a call, from 0."""
        self.name = name
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)


class Gathered:
    """One choice, as far as it has come."""

    __slots__ = (
        "blocks", "embedding", "finish_reason", "first_s", "last_s", "logprobs", "num_cached", "num_reasoning",
        "num_tokens", "prompt_logprobs", "speculation", "stop_reason", "token_ids",
    )  # fmt: skip

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        """The message, in order."""
        self.token_ids: list[int] = []
        self.logprobs: list[PositionLogprobs] = []
        self.prompt_logprobs: list[PositionLogprobs | None] | None = None
        self.num_tokens = 0
        self.num_cached = 0
        self.num_reasoning = 0
        """Of the tokens, those of reasoning."""
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
        for part in delta.pieces:
            self.put(part)
        self.note(delta)

    def note(self, delta: TextDelta) -> None:
        """Take all of a delta but what it says."""
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
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
        self.num_reasoning = delta.num_reasoning

    @property
    def content(self) -> str:
        """The text of the message."""
        return "".join(b.text for b in self.blocks if b.kind == "content")

    @property
    def reasoning(self) -> str:
        """What was thought before it."""
        return "".join(b.text for b in self.blocks if b.kind == "reasoning")

    @property
    def calls(self) -> list[Block]:
        """Calls of tools."""
        return [b for b in self.blocks if b.kind == "call"]

    def put(self, part: Part) -> None:
        """Take a piece of what it says."""
        last = self.blocks[-1] if self.blocks else None
        if part.kind == "call":
            self.blocks.append(Block("call", part.index, part.text))
        elif part.kind == "arguments":
            if last is not None and last.kind == "call":
                last.texts.append(part.text)
        else:
            if last is None or last.kind != part.kind:
                last = Block(part.kind)
                self.blocks.append(last)
            last.texts.append(part.text)


def json_object(text: str) -> msgspec.Raw:
    """Arguments as a value of an answer; an empty object where they are cut or broken."""
    try:
        found = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        found = None
    return msgspec.Raw(b"{}" if found is None else text.encode())


def finish_reason(delta: TextDelta) -> str | None:
    """``stop`` or ``length``; the other ways to end are errors.

    Raises:
        UnavailableError: the engine gave the request up.
    """
    if delta.finish_reason in ("abort", "error"):
        raise UnavailableError("the engine ended the request; send it again", code="engine_unavailable")
    return delta.finish_reason
