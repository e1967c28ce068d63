"""A streamed call's state: from text deltas to chunks, one choice at a time, and the usage at the end. No I/O."""

from typing import Any

import msgspec

from ...engine.types import SpeculationStats
from ..messages import Admitted, Part, PositionLogprobs, TextDelta
from .errors import Problem
from .gathered import finish_reason
from .openai_answers import chat_logprobs, legacy_logprobs, prompt_logprobs, usage, with_calls
from .openai_chunks import DONE, ChunkWriter, Piece
from .openai_speculation import metrics
from .parsed_call import ParsedCall


class _Choice:
    """How far one choice has been streamed."""

    __slots__ = (
        "has_calls", "held", "is_begun", "num_cached", "num_chars", "num_reasoning", "num_sent", "num_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_begun = False
        self.held: list[TextDelta] = []
        self.num_tokens = 0
        self.num_sent = 0
        """Tokens whose text was sent."""
        self.num_cached = 0
        self.num_reasoning = 0
        self.has_calls = False
        self.num_chars = 0
        """Characters that the tokens of ``logprobs`` cover, as ``text_offset`` counts them."""


class StreamedCall:
    """Feed it every delta; it answers with the events that are due."""

    def __init__(
        self, call: ParsedCall, writer: ChunkWriter, admitted: Admitted, first_texts: dict[int, str] | None = None
    ) -> None:
        self._call = call
        self._writer = writer
        self._admitted = admitted
        self._first_texts = first_texts or {}
        self._is_chat = call.generate.chat is not None
        self._speculation: SpeculationStats | None = None
        self._choices = [_Choice() for _ in range(call.num_choices)]

    def begin(self) -> bytes:
        """Nothing yet: a choice's first chunk comes with its first text."""
        return b""

    def add(self, delta: TextDelta) -> bytes:
        """Events that this delta completes; may be empty."""
        choice = self._choices[delta.index]
        choice.num_tokens = delta.num_tokens
        choice.num_cached = max(choice.num_cached, delta.num_cached)
        choice.num_reasoning = delta.num_reasoning
        choice.has_calls = choice.has_calls or any(p.kind == "call" for p in delta.parts)
        choice.held.append(delta)
        if delta.speculation is not None and len(self._choices) == 1:
            self._speculation = delta.speculation
        is_due = (
            not choice.is_begun
            or delta.finish_reason is not None
            or delta.num_tokens - choice.num_sent >= self._call.stream_interval
        )
        if not is_due:
            return b""
        piece = self._piece(choice)
        is_first, choice.is_begun = not choice.is_begun, True
        choice.num_sent = delta.num_tokens
        choice.held = []
        if not is_first and not piece.text and piece.is_plain:
            return b""  # the token is only part of a character yet
        return self._writer.piece(piece, self._usage() if self._call.continuous_usage else b"", is_first=is_first)

    def last(self) -> bytes:
        """What follows the choices."""
        if not self._call.include_usage:
            return DONE
        told = b"" if self._speculation is None else msgspec.json.encode(metrics(self._speculation))
        return self._writer.last(self._usage(), told) + DONE

    def failed(self, problem: Problem) -> bytes:
        """The last event of a call that failed; no ``[DONE]`` follows it."""
        return b"data: " + msgspec.json.encode(problem.error(in_stream=True)) + b"\n\n"

    def _usage(self) -> bytes:
        num_output = sum(c.num_tokens for c in self._choices)
        num_cached = sum(c.num_cached for c in self._choices[:: self._call.generate.n])
        num_reasoning = sum(c.num_reasoning for c in self._choices)
        return msgspec.json.encode(usage(self._admitted, num_output, num_cached, num_reasoning))

    def _piece(self, choice: _Choice) -> Piece:
        held, call = choice.held, self._call
        last = held[-1]
        text = last.text if len(held) == 1 else "".join(d.text for d in held)
        reason = with_calls(finish_reason(last), call, has_calls=choice.has_calls)
        piece = Piece(last.index, text, finish_reason=reason, stop_reason=last.stop_reason)
        if any(d.parts for d in held):
            piece.parts = joined_parts([p for d in held for p in d.pieces])
        if call.generate.return_token_ids:
            piece.token_ids = [i for d in held for i in d.token_ids]
        positions: list[PositionLogprobs | None] = [p for d in held for p in d.logprobs or ()]
        first_text = "" if choice.is_begun else self._begin(piece, positions)
        if call.wants_logprobs and positions:
            piece.logprobs = self._logprobs(choice, positions, first_text)
        return piece

    def _begin(self, piece: Piece, positions: list[PositionLogprobs | None]) -> str:
        """Add what only a choice's first piece has; the text of the prompt's first id, where it is told."""
        call = self._call
        prompt = self._admitted.prompts[piece.index // call.generate.n]
        told = self._choices[piece.index].held[0].prompt_logprobs
        if call.generate.return_token_ids:
            piece.prompt_token_ids = prompt.token_ids
        if call.wants_prompt_logprobs:
            piece.prompt_logprobs = prompt_logprobs(told)
        if not call.generate.echo:
            return ""
        piece.text = (prompt.text or "") + piece.text
        if piece.parts and prompt.text:
            piece.parts.insert(0, Part("content", prompt.text))
        if self._is_chat:
            return ""
        positions[:0] = told or []
        return self._first_texts.get(prompt.token_ids[0], "") if prompt.token_ids else ""

    def _logprobs(self, choice: _Choice, positions: list[PositionLogprobs | None], first_text: str) -> dict[str, Any]:
        if self._is_chat:
            return chat_logprobs([p for p in positions if p is not None], self._call)
        offset = choice.num_chars
        choice.num_chars += sum(len(first_text if p is None else p.chosen.text) for p in positions)
        return legacy_logprobs(positions, self._call.tokens_as_ids, first_text, offset)


def joined_parts(parts: list[Part]) -> list[Part]:
    """The same with neighbours of one kind as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and part.kind != "call" and (last.kind, last.index) == (part.kind, part.index):
            found[-1] = Part(part.kind, last.text + part.text, part.index)
        else:
            found.append(part)
    return found
