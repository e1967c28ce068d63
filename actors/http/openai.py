"""The dialect of /v1/completions and /v1/chat/completions."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..messages import Admitted
from .facts import CallFacts
from .gathered import AnswerHead, Gathered
from .limits import BodyDecoder
from .openai_answers import chat_answer, completion_answer
from .openai_calls import parse_completion
from .openai_chat_calls import parse_chat
from .openai_chunks import ChatChunks, ChunkWriter, CompletionChunks
from .openai_fields import Body, ChatBody, CompletionBody
from .openai_stream import StreamedCall
from .parsed_call import Bounds, ParsedCall
from .service import Service
from .stream import EVENTS_TYPE


class OpenAIExchange:
    """One call of either route."""

    def __init__(
        self, call: ParsedCall, head: AnswerHead, answer: Callable[..., dict[str, Any]], chunks: type[ChunkWriter]
    ) -> None:
        self.call = call
        self._head = head.named(call.request_id)
        self._answer = answer
        self._chunks = chunks

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """The whole answer."""
        return self._answer(self.call, self._head, admitted, choices, first_texts)

    def writer(self, admitted: Admitted, first_texts: dict[int, str]) -> StreamedCall:
        """The chunks of a stream."""
        chunks = self._chunks(self._head, self.call)
        return StreamedCall(self.call, chunks, admitted, first_texts)


class CompletionsDialect:
    """POST /v1/completions."""

    decoder = BodyDecoder(CompletionBody)
    id_prefix = "cmpl-"
    media_type = EVENTS_TYPE
    takes_any_type = False
    parse: Callable[..., ParsedCall] = staticmethod(parse_completion)
    answer: Callable[..., dict[str, Any]] = staticmethod(completion_answer)
    chunks: type[ChunkWriter] = CompletionChunks

    def __init__(self, service: Service) -> None:
        self._service = service

    def open(
        self, body: Body, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> OpenAIExchange:
        """Check a body; see ``Dialect``."""
        self._service.check_model(body.model)
        return OpenAIExchange(self.parse(body, fields, bounds, facts.given_id), head, self.answer, self.chunks)


class ChatDialect(CompletionsDialect):
    """POST /v1/chat/completions."""

    decoder = BodyDecoder(ChatBody)
    id_prefix = "chatcmpl-"
    parse = staticmethod(parse_chat)
    answer = staticmethod(chat_answer)
    chunks = ChatChunks
