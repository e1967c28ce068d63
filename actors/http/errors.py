"""Our error tree -> HTTP status and OpenAI's error object. What a reply may hold is bounded and cleaned here.

``{"error": {"message", "type", "param", "code"}}``: always all four keys. 422 and 501 are not used: clients retry every
5xx, so "not supported" is a 400.
"""

import re
from typing import Any

import msgspec

from ...engine.errors import PacelineError
from ...engine.types import ErrorInfo

MAX_MESSAGE_CHARS = 1000
MAX_QUOTED_CHARS = 200
_MAX_PARAM_CHARS = 200
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 120.0
"""Official clients ignore a retry-after beyond 120 s."""

Header = tuple[bytes, bytes]
JSON_TYPE: Header = (b"content-type", b"application/json")

_STATUS: dict[str, tuple[int, str]] = {
    "invalid": (400, "invalid_request_error"),
    "not_found": (404, "not_found_error"),
    "unavailable": (503, "unavailable_error"),
    "deadline": (504, "server_error"),
    "internal": (500, "server_error"),
}
_NO_RETRY: Header = (b"x-should-retry", b"false")
_NOT_FOR_CLIENTS = re.compile(
    r"^\w*(Error|Exception|Interrupt)\b:?|(?<![\w.:/])/(?:[\w.+-]+/)+[\w.+-]*|\b0x[0-9a-fA-F]{6,}\b"
)
"""A raw Python exception, a path of this machine, an address."""
_INTERNAL = "internal error; the server's log has the cause"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One error as a client sees it."""

    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    headers: tuple[Header, ...] = ()

    def error(self, *, in_stream: bool = False) -> dict[str, Any]:
        """The error object; in a stream, which has no headers left, it tells when to try again."""
        inner = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if in_stream and self.retry_after_s is not None:
            inner["retry_after"] = self.retry_after_s
        return {"error": inner}

    def body(self) -> bytes:
        """The reply's body."""
        return msgspec.json.encode(self.error())

    def all_headers(self) -> list[Header]:
        """Headers of the reply, without its length."""
        headers = [JSON_TYPE, *self.headers]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % -int(-self.retry_after_s // 1)))
            headers.append((b"retry-after-ms", b"%d" % int(self.retry_after_s * 1000)))
        return headers


class HttpError(PacelineError):
    """An error that only HTTP knows: method, body size, keys."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        type: str = "invalid_request_error",
        headers: tuple[Header, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        if status in (429, 503):
            retry_after_s = min(max(retry_after_s or _MIN_RETRY_S, _MIN_RETRY_S), _MAX_RETRY_S)
        self.problem = Problem(
            status=status, type=type, message=clean(message), code=code, retry_after_s=retry_after_s, headers=headers
        )


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


def problem_of(error: BaseException) -> Problem:
    """What to tell the client. Anything that is not one of ours is a bug, and told as such."""
    if isinstance(error, HttpError):
        return error.problem
    info = error.info() if isinstance(error, PacelineError) else ErrorInfo("internal", _INTERNAL, "internal_error")
    return problem_of_info(info)


def problem_of_info(info: ErrorInfo) -> Problem:
    """The same for an error that travelled."""
    status, type_ = _STATUS[info.kind]
    message = clean(info.message)
    retry_after_s = None
    if status == 503:
        retry_after_s = min(max(info.retry_after_s or _MIN_RETRY_S, _MIN_RETRY_S), _MAX_RETRY_S)
    code, headers = info.code, ()
    if status >= 500:
        message = (
            _INTERNAL if status == 500 and _NOT_FOR_CLIENTS.match(message) else _NOT_FOR_CLIENTS.sub("...", message)
        )
    if status == 500 and code != "request_quarantined":
        code = "internal_error"
    if status == 504 or code == "request_quarantined":
        headers = (_NO_RETRY,)
    return Problem(
        status=status,
        type=type_,
        message=message,
        code=code,
        param=None if info.param is None else clean(info.param, _MAX_PARAM_CHARS),
        retry_after_s=retry_after_s,
        headers=headers,
    )


def clean(text: str, most: int = MAX_MESSAGE_CHARS) -> str:
    """One printable line of at most ``most`` characters."""
    text = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 3] + "..."


def describe(value: Any) -> str:
    """``value`` as quoted in a message: scalars shortened, containers named and never rendered."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if -(10**18) < value < 10**18 else "an integer of more than 18 digits"
        case float():
            return f"{value:g}"
        case str():
            shown = clean(value, MAX_QUOTED_CHARS // 2)
            return f'"{shown}"'
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"
