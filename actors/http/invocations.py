"""POST /invocations, as SageMaker calls a model: what the body holds says which route is meant."""

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...engine.errors import InvalidRequestError
from .limits import BodyDecoder, check_content_type, read_body


class InvocationBody(msgspec.Struct, frozen=True):
    """Read for its field names only."""


class Invocations:
    """``messages`` is a chat, ``prompt`` a completion, ``input`` asks for vectors; the first of them that is there."""

    def __init__(self, *, chat: ASGIApp, completion: ASGIApp, embeddings: ASGIApp) -> None:
        self._routes = {"messages": chat, "prompt": completion, "input": embeddings}
        self._decoder = BodyDecoder(InvocationBody)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        check_content_type(scope)
        body = await read_body(receive)
        _, fields = self._decoder.decode(body)
        given = {name for name, raw in fields.items() if bytes(raw) != b"null"}
        route = next((self._routes[name] for name in self._routes if name in given), None)
        if route is None:
            raise InvalidRequestError("the body has neither messages nor prompt nor input; send one of them")
        is_read = False

        async def again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await route(scope, again, send)
