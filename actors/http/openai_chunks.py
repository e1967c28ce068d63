"""Chunks of a stream as bytes. All that is constant in a call is encoded once: the chunk rate is the gateway's cost."""

from typing import Any

import msgspec

from ..messages import Part
from .gathered import AnswerHead
from .parsed_call import ParsedCall

DONE = b"data: [DONE]\n\n"
_END = b"}\n\n"
_encode = msgspec.json.encode


class Piece(msgspec.Struct):
    """What is new in one choice."""

    index: int
    text: str
    logprobs: dict[str, Any] | None = None
    token_ids: list[int] | None = None
    """None unless asked for."""
    prompt_token_ids: list[int] | None = None
    """Only in a choice's first piece, and if asked for."""
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    """Likewise."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    parts: list[Part] = []
    """Where there is more than text: all that is new, in order."""

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but text."""
        return (
            not self.parts
            and self.logprobs is None
            and self.token_ids is None
            and self.finish_reason is None
            and self.prompt_token_ids is None
            and self.prompt_logprobs is None
        )


class ChunkWriter:
    """The part that both routes share."""

    kind: str
    _plain_tail: bytes

    def __init__(self, head: AnswerHead, call: ParsedCall) -> None:
        self._call = call
        root = {"id": head.id, "object": self.kind, "created": head.created, "model": head.model}
        self._root = b"data: " + _encode(root)[:-1] + b',"choices":['
        self._starts = [self._root + self._start(index) for index in range(call.num_choices)]

    def piece(self, piece: Piece, usage: bytes, *, is_first: bool) -> bytes:
        """The event or events of one piece; ``usage`` is encoded already, and empty unless it goes with each chunk."""
        raise NotImplementedError

    def last(self, usage: bytes, metrics: bytes = b"") -> bytes:
        """The chunk that has only the usage, and the metrics where there are any."""
        told = (b',"metrics":', metrics) if metrics else ()
        return b"".join((self._root, b'],"usage":', usage, *told, _END))

    def _start(self, index: int) -> bytes:
        raise NotImplementedError

    def _event(self, index: int, *parts: bytes, usage: bytes) -> bytes:
        tail = (b'}],"usage":', usage, _END) if usage else (b"}]", _END)
        return b"".join((self._starts[index], *parts, *tail))


class CompletionChunks(ChunkWriter):
    """Of /v1/completions."""

    kind = "text_completion"
    _plain_tail = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]}\n\n'

    def piece(self, piece: Piece, usage: bytes, *, is_first: bool) -> bytes:
        """One event; the first and the finishing one are like the others."""
        if piece.is_plain and not usage:
            return b"".join((self._starts[piece.index], _encode(piece.text), self._plain_tail))
        rest: dict[str, Any] = {
            "logprobs": piece.logprobs,
            "finish_reason": piece.finish_reason,
            "stop_reason": piece.stop_reason,
        }
        for name in ("token_ids", "prompt_token_ids", "prompt_logprobs"):
            if (value := getattr(piece, name)) is not None:
                rest[name] = value
        return self._event(piece.index, _encode(piece.text), b",", _encode(rest)[1:-1], usage=usage)

    def _start(self, index: int) -> bytes:
        return b'{"index":%d,"text":' % index


class ChatChunks(ChunkWriter):
    """Of /v1/chat/completions: the role, then reasoning, calls and content as they come, then the finish alone."""

    kind = "chat.completion.chunk"
    _plain_tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def piece(self, piece: Piece, usage: bytes, *, is_first: bool) -> bytes:
        """An event for each part, one before the first and one behind the last."""
        events = [self._role(piece, usage)] if is_first else []
        if piece.is_plain and not usage:
            if piece.text:
                events.append(
                    b"".join((self._starts[piece.index], b'{"content":', _encode(piece.text), self._plain_tail))
                )
            return b"".join(events)
        if piece.parts or piece.text or piece.logprobs is not None or piece.token_ids:
            rest: dict[str, Any] = {"logprobs": piece.logprobs, "finish_reason": None}
            if piece.token_ids is not None:
                rest["token_ids"] = piece.token_ids
            for part in piece.parts or [Part("content", piece.text)]:
                delta = (_encode(self._delta(piece.index, part)), b",", _encode(rest)[1:-1])
                events.append(self._event(piece.index, *delta, usage=usage))
                rest = {"logprobs": None, "finish_reason": None}  # what belongs to tokens is told once
        if piece.finish_reason is not None:
            end = {"logprobs": None, "finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
            events.append(self._event(piece.index, b"{},", _encode(end)[1:-1], usage=usage))
        return b"".join(events)

    def _delta(self, index: int, part: Part) -> dict[str, Any]:
        match part.kind:
            case "content" | "reasoning":
                return {part.kind: part.text}
            case "call":
                name = self._call.tool_call_id(index, part.index)
                call: dict[str, Any] = {"id": name, "type": "function"}
                function = {"name": part.text, "arguments": ""}
            case _:
                call, function = {}, {"arguments": part.text}
        return {"tool_calls": [{"index": part.index, **call, "function": function}]}

    def _role(self, piece: Piece, usage: bytes) -> bytes:
        event = self._event(
            piece.index,
            b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null',
            usage=usage,
        )
        asked = {"prompt_token_ids": piece.prompt_token_ids, "prompt_logprobs": piece.prompt_logprobs}
        root = {name: value for name, value in asked.items() if value is not None}
        return event[: -len(_END)] + b"," + _encode(root)[1:-1] + _END if root else event

    def _start(self, index: int) -> bytes:
        return b'{"index":%d,"delta":' % index
