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
from .gathered import AnswerHead, Gathered
from .limits import BodyDecoder, check_content_type, read_body
from .openai_calls import ignored_fields
from .openai_chat_calls import parse_chat, parse_conversation
from .parsed_call import Bounds, ParsedCall
from .service import Service
from .stream import EVENTS_TYPE, event
from .tokenization import json_response
from .wording import in_words_of


class MessagesExchange:
    """One call."""

    def __init__(self, call: ParsedCall, head: AnswerHead) -> None:
        self.call = call
        self._head = head.named(call.request_id)

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """The whole message."""
        choice = choices[0]
        text = "".join(choice.text)
        content = [{"type": "text", "text": text}] if text else []
        return self.message(content) | stop_of(choice) | {"usage": usage(admitted, choice)}

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
    """A stream: one text block between the events that open and close the message."""

    def __init__(self, exchange: MessagesExchange, admitted: Admitted) -> None:
        self._exchange = exchange
        self._admitted = admitted
        self._gathered = Gathered()
        self._is_block_open = False

    def begin(self) -> bytes:
        """The message, of which only the prompt is known."""
        start = {"stop_reason": None, "stop_sequence": None, "usage": usage(self._admitted, self._gathered)}
        return _event("message_start", message=self._exchange.message([]) | start) + _event("ping")

    def add(self, delta: TextDelta) -> bytes:
        """New text; the first opens the block."""
        self._gathered.add(delta)
        if not delta.text:
            return b""
        head = b""
        if not self._is_block_open:
            self._is_block_open = True
            head = _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        return head + _event("content_block_delta", index=0, delta={"type": "text_delta", "text": delta.text})

    def last(self) -> bytes:
        """Why it ended, and the final counts."""
        end = _event("content_block_stop", index=0) if self._is_block_open else b""
        told = usage(self._admitted, self._gathered)
        return end + _event("message_delta", delta=stop_of(self._gathered), usage=told) + _event("message_stop")

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
