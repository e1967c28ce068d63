"""What is known of a request beside its scope: id, route, time, status. Travels in the scope, ends in a log line."""

import re
from uuid import uuid4

import anyio
from starlette.types import Scope

from .access import header
from .meter import CallMeter

_KEY = "paceline"
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class CallFacts:
    """Made by the outermost layer, filled in by the handlers."""

    __slots__ = ("began_s", "body", "given_id", "handler", "key_name", "meter", "request_id", "status")

    def __init__(self, scope: Scope) -> None:
        given = header(scope, b"x-request-id")
        self.began_s = anyio.current_time()
        self.given_id = given.decode() if _PRINTABLE.fullmatch(given) else None
        """The header's; it wins over a body's ``request_id``."""
        self.request_id = self.given_id or uuid4().hex
        self.handler = "none"
        """The route, as metrics name it."""
        self.key_name = "-"
        """Of the API key, if any."""
        self.status = 0
        self.meter: CallMeter | None = None
        """Of a call that generates."""
        self.body: bytes | None = None
        """What was sent, where the log may show it."""
        scope[_KEY] = self

    @staticmethod
    def of(scope: Scope) -> "CallFacts":
        """The facts of the request of ``scope``."""
        return scope[_KEY]
