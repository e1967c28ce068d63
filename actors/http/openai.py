"""Handlers of /v1/completions and /v1/chat/completions: body in, answer or event stream out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import msgspec
from starlette.types import Receive, Scope, Send

from ...engine.errors import ActorError
from ..messages import Admitted, Detokenize, TextDelta
from .errors import JSON_TYPE, ClientGone, Header
from .facts import CallFacts
from .limits import BodyDecoder, check_content_type, read_body
from .meter import CallMeter
from .openai_answers import AnswerHead, Gathered, chat_answer, completion_answer
from .openai_calls import ParsedCall, parse_completion
from .openai_chat_calls import parse_chat
from .openai_chunks import ChatChunks, ChunkWriter, CompletionChunks
from .openai_fields import ChatBody, CompletionBody
from .openai_stream import StreamedCall
from .service import Service
from .stream import EventStream


class Completions:
    """POST /v1/completions, as an ASGI application."""

    id_prefix = "cmpl-"
    decoder = BodyDecoder(CompletionBody)
    parse: Callable[..., ParsedCall] = staticmethod(parse_completion)
    answer: Callable[..., dict[str, Any]] = staticmethod(completion_answer)
    chunks: type[ChunkWriter] = CompletionChunks

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        service, facts = self._service, CallFacts.of(scope)
        check_content_type(scope)
        body = await read_body(receive)
        bounds = service.bounds()
        typed, fields = self.decoder.decode(body)
        service.check_model(typed.model)
        call = self.parse(typed, fields, bounds, facts.given_id)
        facts.request_id = call.request_id
        head = AnswerHead(
            f"{self.id_prefix}{call.request_id}", int(time.time()), service.model_name, service.fingerprint
        )
        meter = CallMeter(service.registry, call, facts.began_s)
        headers = [(b"x-paceline-ignored", ", ".join(call.ignored).encode())] if call.ignored else []
        serve = self._stream if call.stream else self._whole
        await serve(scope, receive, send, call, head, meter, headers)

    async def _whole(
        self, scope: Scope, receive: Receive, send: Send,
        call: ParsedCall, head: AnswerHead, meter: CallMeter, headers: list[Header],
    ) -> None:  # fmt: skip
        body = b""

        async def work() -> None:
            nonlocal body
            choices = [Gathered() for _ in range(call.num_choices)]
            async with aclosing(self._service.engine.generate(call.generate)) as events:
                admitted = await self._admitted(events, meter)
                async for delta in events:
                    if isinstance(delta, TextDelta):
                        choices[delta.index].add(delta)
                        meter.delta(delta)
            first_texts = await self._first_texts(call, admitted)
            body = msgspec.json.encode(self.answer(call, head, admitted, choices, first_texts))

        await self._service.calls.attend(receive, call.generate.timeout_s, call.num_choices, work)
        await send_json(send, 200, body, headers)

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send,
        call: ParsedCall, head: AnswerHead, meter: CallMeter, headers: list[Header],
    ) -> None:  # fmt: skip
        stream = EventStream(scope, send, headers)

        async def work() -> None:
            async with aclosing(self._service.engine.generate(call.generate)) as events:
                admitted = await self._admitted(events, meter)
                first_texts = await self._first_texts(call, admitted)
                writer = self.chunks(head, call.num_choices)
                streamed = StreamedCall(call, writer, admitted, first_texts)
                await stream.open()
                async for delta in events:
                    if isinstance(delta, TextDelta):
                        meter.delta(delta)
                        if chunks := streamed.add(delta):
                            await stream.send(chunks)
            await stream.end(streamed.last())

        try:
            await self._service.calls.attend(receive, call.generate.timeout_s, call.num_choices, work)
        except ClientGone:
            raise
        except Exception as e:
            if not stream.is_open:
                raise
            await stream.fail(e)

    async def _admitted(self, events: AsyncGenerator[Admitted | TextDelta, None], meter: CallMeter) -> Admitted:
        first = await anext(events, None)
        if not isinstance(first, Admitted):
            raise ActorError("the engine answered a call before it was admitted; try again")
        meter.admitted(first)
        return first

    async def _first_texts(self, call: ParsedCall, admitted: Admitted) -> dict[int, str]:
        """Texts of the prompts' first ids: echoed log-probabilities name them, but have no entry for them."""
        texts: dict[int, str] = {}
        if call.generate.echo and call.generate.prompts is not None and call.wants_logprobs:
            for first in {p.token_ids[0] for p in admitted.prompts if p.token_ids}:
                texts[first] = (await self._service.engine.detokenize(Detokenize(uuid4().hex, [first]))).text
        return texts


class ChatCompletions(Completions):
    """POST /v1/chat/completions, as an ASGI application."""

    id_prefix = "chatcmpl-"
    decoder = BodyDecoder(ChatBody)
    parse = staticmethod(parse_chat)
    answer = staticmethod(chat_answer)
    chunks = ChatChunks


async def send_json(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    """A whole JSON answer."""
    head = [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})
