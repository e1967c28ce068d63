"""The one path of every call that generates, whatever its dialect: body in, answer or stream of events out.

A dialect turns a body into an ``Exchange``: the checked call, and how its answer is written. Admission, the client that
leaves, the deadline, metrics and failures are handled here, once. Knows no field and no shape of any dialect.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol
from uuid import uuid4

import msgspec
from starlette.types import Receive, Scope, Send

from ...engine.errors import ActorError
from ..messages import Admitted, Detokenize, TextDelta
from .access import header
from .errors import JSON_TYPE, ClientGone, Header, Problem
from .facts import CallFacts
from .gathered import AnswerHead, Gathered
from .limits import BodyDecoder, check_content_type, read_body
from .meter import CallMeter
from .parsed_call import Bounds, ParsedCall
from .service import Service
from .stream import EventStream


class Writer(Protocol):
    """Writes one stream. Every method returns the bytes that are due, which may be none."""

    def begin(self) -> bytes:
        """The call is admitted."""
        ...

    def add(self, delta: TextDelta) -> bytes:
        """Output has come."""
        ...

    def last(self) -> bytes:
        """All choices have ended."""
        ...

    def failed(self, problem: Problem) -> bytes:
        """The call has failed after its head was sent."""
        ...


class Exchange(Protocol):
    """One call of a dialect."""

    call: ParsedCall

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> Any:
        """The whole answer, to be encoded as JSON."""
        ...

    def writer(self, admitted: Admitted, first_texts: dict[int, str]) -> Writer:
        """What writes the answer as a stream."""
        ...


class Told(msgspec.Struct, frozen=True):
    """An answer for which the engine is not needed."""

    body: Any
    ignored: list[str] = []
    """Fields to name in a header."""


class Dialect(Protocol):
    """One route's body and shapes."""

    decoder: BodyDecoder
    id_prefix: str
    media_type: bytes
    """Of a stream."""
    takes_any_type: bool
    """Whether a body may come under a wrong content type, as long as no page of a browser sends it."""

    def open(
        self,
        body: Any,
        fields: dict[str, msgspec.Raw],
        bounds: Bounds,
        facts: CallFacts,
        head: AnswerHead,
    ) -> Exchange | Told:
        """Check a decoded body.

        Raises:
            InvalidRequestError: naming the parameter.
        """
        ...


class Generation:
    """One route that generates, as an ASGI application."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self._service = service
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        service, dialect, facts = self._service, self._dialect, CallFacts.of(scope)
        began_s = time.monotonic()
        if not dialect.takes_any_type or header(scope, b"origin"):
            check_content_type(scope)
        body = await read_body(receive)
        if service.config.server.log_prompts:
            facts.body = body
        bounds = service.bounds()
        typed, fields = dialect.decoder.decode(body)
        head = AnswerHead(dialect.id_prefix, int(time.time()), service.model_name, service.fingerprint, began_s)
        exchange = dialect.open(typed, fields, bounds, facts, head)
        if isinstance(exchange, Told):
            await send_json(send, 200, msgspec.json.encode(exchange.body), ignored_header(exchange.ignored))
            return
        if exchange.call.wish is not None:
            inner = exchange.call.wish_in_thought
            exchange.call = exchange.call.with_grammar(
                await service.grammars.grammar(exchange.call.wish),
                await service.grammars.grammar(inner) if inner is not None else "",
            )
        call = exchange.call
        facts.request_id = call.request_id
        meter = facts.meter = CallMeter(service.registry, call, facts.began_s)
        headers = ignored_header(call.ignored)
        serve = self._stream if call.stream else self._whole
        await serve(scope, receive, send, exchange, meter, headers)

    async def _whole(
        self, scope: Scope, receive: Receive, send: Send,
        exchange: Exchange, meter: CallMeter, headers: list[Header],
    ) -> None:  # fmt: skip
        body, call = b"", exchange.call

        async def work() -> None:
            nonlocal body
            choices = [Gathered() for _ in range(call.num_choices)]
            async with aclosing(self._service.engine.generate(call.generate)) as events:
                admitted = await _admitted(events, meter)
                async for delta in events:
                    if isinstance(delta, TextDelta):
                        choices[delta.index].add(delta)
                        meter.delta(delta)
            first_texts = await self._first_texts(call, admitted)
            body = msgspec.json.encode(exchange.answer(admitted, choices, first_texts))

        await self._service.calls.attend(receive, call.generate.timeout_s, call.num_choices, work)
        await send_json(send, 200, body, headers)

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send,
        exchange: Exchange, meter: CallMeter, headers: list[Header],
    ) -> None:  # fmt: skip
        call = exchange.call
        stream = EventStream(scope, send, [(b"content-type", self._dialect.media_type), *headers])

        async def work() -> None:
            async with aclosing(self._service.engine.generate(call.generate)) as events:
                admitted = await _admitted(events, meter)
                writer = exchange.writer(admitted, await self._first_texts(call, admitted))
                await stream.open(writer.failed)
                if events_due := writer.begin():
                    await stream.send(events_due)
                async for delta in events:
                    if isinstance(delta, TextDelta):
                        meter.delta(delta)
                        if events_due := writer.add(delta):
                            await stream.send(events_due)
            await stream.end(writer.last())

        try:
            await self._service.calls.attend(receive, call.generate.timeout_s, call.num_choices, work)
        except ClientGone:
            raise
        except Exception as e:
            if not stream.is_open:
                raise
            await stream.fail(e)

    async def _first_texts(self, call: ParsedCall, admitted: Admitted) -> dict[int, str]:
        """Texts of the prompts' first ids: echoed log-probabilities name them, but have no entry for them."""
        texts: dict[int, str] = {}
        if call.generate.echo and call.generate.prompts is not None and call.wants_logprobs:
            for first in {p.token_ids[0] for p in admitted.prompts if p.token_ids}:
                texts[first] = (await self._service.engine.detokenize(Detokenize(uuid4().hex, [first]))).text
        return texts


async def _admitted(events: AsyncGenerator[Admitted | TextDelta, None], meter: CallMeter) -> Admitted:
    first = await anext(events, None)
    if not isinstance(first, Admitted):
        raise ActorError("the engine answered a call before it was admitted; try again")
    meter.admitted(first)
    return first


def ignored_header(names: Sequence[str]) -> list[Header]:
    """The header that names fields without effect; none where there are none."""
    return [(b"x-paceline-ignored", ", ".join(names).encode())] if names else []


async def send_json(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    """A whole JSON answer."""
    head = [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})
