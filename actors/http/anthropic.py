"""The dialect of /v1/messages, and the route that counts tokens."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..messages import Admitted, TextDelta, Tokenize
from .anthropic_calls import WORDS, CountBody, MessagesBody, chat_body, counted_body
from .envelopes import anthropic
from .errors import Problem
from .facts import CallFacts
from .gathered import AnswerHead, Block, Gathered, json_object
from .limits import BodyDecoder, check_content_type, read_body
from .openai_calls import ignored_fields
from .openai_chat_calls import parse_chat, parse_conversation
from .parsed_call import Bounds, ParsedCall
from .service import Service
from .stream import EVENTS_TYPE, event
from .tokenization import json_response
from .wording import in_words_of

_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "arguments": ("input_json_delta", "partial_json"),
}


class MessagesExchange:
    """One call."""

    def __init__(self, call: ParsedCall, head: AnswerHead) -> None:
        self.call = call
        self._head = head.named(call.request_id)

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """The whole message."""
        choice = choices[0]
        content = [self.block(b) for b in choice.blocks if b.text or b.kind == "call"]
        return self.message(content) | stop_of(choice) | {"usage": usage(admitted, choice)}

    def block(self, block: Block, *, is_empty: bool = False) -> dict[str, Any]:
        """A block of content; ``is_empty`` as it is opened in a stream."""
        text = "" if is_empty else block.text
        match block.kind:
            case "content":
                return {"type": "text", "text": text}
            case "reasoning":
                return {"type": "thinking", "thinking": text, "signature": ""}
            case _:
                given: Any = {} if is_empty else json_object(text)
                name = self.call.tool_call_id(0, block.index)
                return {"type": "tool_use", "id": name, "name": block.name, "input": given}

    def writer(self, admitted: Admitted, first_texts: dict[int, str]) -> "MessageEvents":
        """The events of a stream."""
        return MessageEvents(self, admitted)

    def message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        """A message without its end."""
        return {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": content,
        }


class MessageEvents:
    """A stream: one block of content after the other, between the events that open and close the message."""

    def __init__(self, exchange: MessagesExchange, admitted: Admitted) -> None:
        self._exchange = exchange
        self._admitted = admitted
        self._gathered = Gathered()
        self._num_blocks = 0  # that were opened

    def begin(self) -> bytes:
        """The message, of which only the prompt is known."""
        start = {"stop_reason": None, "stop_sequence": None, "usage": usage(self._admitted, self._gathered)}
        return _event("message_start", message=self._exchange.message([]) | start) + _event("ping")

    def add(self, delta: TextDelta) -> bytes:
        """What is new in each block; a block is opened with its first piece."""
        events: list[bytes] = []
        for part in delta.pieces:
            self._gathered.put(part)
            if len(self._gathered.blocks) > self._num_blocks:
                events.append(self._close() + self._open())
            if kind := _DELTAS.get(part.kind):
                told = {"type": kind[0], kind[1]: part.text}
                events.append(_event("content_block_delta", index=self._num_blocks - 1, delta=told))
        self._gathered.note(delta)
        return b"".join(events)

    def last(self) -> bytes:
        """Why it ended, and the final counts."""
        told = usage(self._admitted, self._gathered)
        end = _event("message_delta", delta=stop_of(self._gathered), usage=told)
        return self._close() + end + _event("message_stop")

    def _open(self) -> bytes:
        self._num_blocks += 1
        block = self._exchange.block(self._gathered.blocks[-1], is_empty=True)
        return _event("content_block_start", index=self._num_blocks - 1, content_block=block)

    def _close(self) -> bytes:
        return _event("content_block_stop", index=self._num_blocks - 1) if self._num_blocks else b""

    def failed(self, problem: Problem) -> bytes:
        """The error as the last event."""
        return event("error", anthropic(problem, self._exchange.call.request_id))


class MessagesDialect:
    """POST /v1/messages."""

    decoder = BodyDecoder(MessagesBody)
    id_prefix = "msg_"
    media_type = EVENTS_TYPE
    takes_any_type = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def open(
        self, body: MessagesBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> MessagesExchange:
        """Check a body; see ``Dialect``."""
        self._service.check_model(body.model)
        with in_words_of(WORDS):
            call = parse_chat(chat_body(body), {}, bounds, facts.given_id)
        return MessagesExchange(msgspec.structs.replace(call, ignored=ignored_fields(body, fields)), head)


class CountTokens:
    """POST /v1/messages/count_tokens."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoder = BodyDecoder(CountBody)

    async def count(self, request: Request) -> Response:
        """Tokens of the prompt that the same body would make."""
        check_content_type(request.scope)
        raw = await read_body(request.receive)
        bounds = self._service.bounds()
        body, _ = self._decoder.decode(raw)
        self._service.check_model(body.model)
        chat = parse_conversation(counted_body(body), bounds)
        told = await self._service.engine.tokenize(Tokenize(uuid4().hex, None, chat, False))
        return json_response({"input_tokens": len(told.token_ids)})


def stop_of(choice: Gathered) -> dict[str, Any]:
    """Why a message ended, in their words."""
    if choice.finish_reason == "stop" and choice.calls:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if choice.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(choice.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_reason}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def usage(admitted: Admitted, choice: Gathered) -> dict[str, int]:
    """Counts; what came from the prefix cache is not counted twice."""
    num_prompt = sum(p.num_tokens for p in admitted.prompts)
    return {
        "input_tokens": num_prompt - choice.num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": choice.num_cached,
        "output_tokens": choice.num_tokens,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return event(kind, {"type": kind, **fields})
