"""Bounds on what a client sends before anything is made of it: headers, body, JSON. Nothing else decodes a body.

Half a header block is the business of ``connection.py``; a whole one is counted here.
"""

import re
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.types import Message, Receive, Scope

from ...engine.errors import InvalidRequestError
from .errors import ClientGone, HttpError, describe

MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_FIELDS = 256
BODY_S = 30.0
BODY_SILENCE_S = 5.0
"""Longest wait for the next byte of a body."""
MAX_DEPTH = 64
MAX_NODES = 200_000
"""Values in a free-form part of a body."""

T = TypeVar("T")


def check_headers(scope: Scope) -> None:
    """Refuse a header block over the cap.

    Raises:
        HttpError: 431.
    """
    headers = scope["headers"]
    if len(headers) > MAX_HEADER_FIELDS or sum(len(k) + len(v) + 4 for k, v in headers) > MAX_HEADER_BYTES:
        what = f"the request has {len(headers)} header fields"
        raise HttpError(
            431,
            f"{what}: at most {MAX_HEADER_FIELDS} and {MAX_HEADER_BYTES} bytes; send fewer",
            code="headers_too_large",
        )


class BodyGuard:
    """An ASGI ``receive`` that counts and times the request's body. Once it is complete, waiting costs nothing."""

    def __init__(self, receive: Receive, scope: Scope, max_bytes: int) -> None:
        self._receive = receive
        self._scope = scope
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._deadline_s = 0.0
        self.is_complete = False

    async def __call__(self) -> Message:
        """The next event.

        Raises:
            HttpError: 413 at the byte over the cap, 408 when it takes too long.
        """
        if self.is_complete:
            return await self._receive()
        now_s = anyio.current_time()
        if not self._deadline_s:
            self._deadline_s = now_s + BODY_S
            self._check_declared()
        message: Message | None = None
        with anyio.move_on_after(max(0.0, min(BODY_SILENCE_S, self._deadline_s - now_s))):
            message = await self._receive()
        if message is None:
            what = f"the body is not complete after {self._num_bytes} bytes"
            bound = f"it may take {BODY_S:g} s, and never {BODY_SILENCE_S:g} s without a byte"
            raise HttpError(408, f"{what}: {bound}; send it faster", code="request_timeout")
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
            if self._num_bytes > self._max_bytes:
                raise self._too_large()
        return message

    def _check_declared(self) -> None:
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._max_bytes:
                raise self._too_large()

    def _too_large(self) -> HttpError:
        what = f"the body has more than {self._max_bytes} bytes"
        return HttpError(413, f"{what}, the server's limit; send less", code="body_too_large")


async def read_body(receive: Receive) -> bytes:
    """The whole body.

    Raises:
        ClientGone: it will never be complete.
    """
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def check_content_type(scope: Scope) -> None:
    """Refuse a body that does not call itself JSON.

    Raises:
        InvalidRequestError: naming what it is.
    """
    given = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
    if given.partition(b";")[0].strip().lower() != b"application/json":
        shown = describe(given.decode("latin-1")) if given else "missing"
        raise InvalidRequestError(
            f"content-type is {shown}: must be application/json; set the header", code="unsupported_media_type"
        )


class BodyDecoder:
    """JSON objects of one type. Turns every way in which a body can be broken into one error."""

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._typed = msgspec.json.Decoder(type_)
        self._raw = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def decode(self, body: bytes) -> tuple[Any, dict[str, msgspec.Raw]]:
        """The body as its Struct, and all its fields undecoded, by name.

        Raises:
            InvalidRequestError: it is no JSON, or a field has the wrong type.
        """
        try:
            text = body.decode()  # msgspec looks at no text that it skips
            return self._decode(text), self._raw.decode(text)
        except msgspec.ValidationError as e:
            raise _wrong_type(str(e)) from None
        except UnicodeDecodeError as e:
            raise _no_json(f"it is not UTF-8 at byte {e.start}") from None
        except RecursionError:
            raise _no_json("it is nested too deeply") from None
        except MemoryError:
            raise _no_json("it is too large to decode") from None
        except msgspec.DecodeError as e:
            # "truncated" is also what msgspec says of a lone surrogate
            cut = "truncated" in str(e)
            why = (
                "it ends too early, or holds half a surrogate pair"
                if cut
                else str(e).replace("JSON is malformed: ", "")
            )
            raise _no_json(why) from None

    def _decode(self, text: str) -> Any:
        try:
            return self._typed.decode(text)
        except msgspec.ValidationError as e:
            if "got `float`" not in str(e):
                raise
        # JSON has one kind of number: where it says integer, 8.0 is one, and some languages write it so.
        return msgspec.convert(_whole(msgspec.json.decode(text)), self._type)


def _whole(value: Any) -> Any:
    """``value`` with numbers such as 8.0 as integers."""
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def convert(fields: dict[str, msgspec.Raw], type_: type[T], param: str) -> T:
    """An object inside a body, of which all fields are known undecoded, as its Struct.

    Raises:
        InvalidRequestError: a field has the wrong type.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(fields), type=type_)
    except msgspec.ValidationError as e:
        raise _wrong_type(str(e), f"{param}.") from None


def check_plain(value: Any, param: str) -> None:
    """Bound a free-form value, so that it can cross to another process and be walked there.

    Raises:
        InvalidRequestError: too deep, too many values, or an integer beyond 64 bits.
    """
    todo, num_nodes, depth = [value], 0, 0
    while todo:
        deeper: list[Any] = []
        for node in todo:
            if type(node) is dict or type(node) is list:
                deeper.extend(node.values() if type(node) is dict else node)
            elif type(node) is int and not -(2**63) <= node < 2**64:
                raise InvalidRequestError(f"{param} holds {describe(node)}: integers have at most 64 bits", param=param)
        depth, num_nodes, todo = depth + 1, num_nodes + len(deeper), deeper
        if depth > MAX_DEPTH or num_nodes > MAX_NODES:
            what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"of more than {MAX_NODES} values"
            raise InvalidRequestError(f"{param} is {what}; send a simpler one", param=param)


def _no_json(why: str) -> InvalidRequestError:
    what = f"the body is not valid JSON: {why}"
    return InvalidRequestError(f"{what}; send one JSON object as UTF-8", code="invalid_json")


_WORDS = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "true or false", "array": "a list",
    "object": "an object", "null": "null",
}  # fmt: skip


def _wrong_type(text: str, prefix: str = "") -> InvalidRequestError:
    """msgspec's complaint in our words: ``Expected `int | null`, got `str` - at `$.n` ``."""
    complaint, _, path = text.partition(" - at `")
    dotted = re.sub(r"\[(\d+)\]", r".\1", path.rstrip("`").replace("[...]", ""))
    dotted = dotted.removeprefix("$").removeprefix(".")
    param = prefix + dotted if dotted else prefix.rstrip(".") or None
    parts = complaint.split("`")
    if len(parts) == 5 and complaint.startswith("Expected"):
        wanted = [_WORDS.get(w, w) for w in parts[1].split(" | ") if w != "null"]
        complaint = f"must be {' or '.join(wanted)}, not {_WORDS.get(parts[3], parts[3])}"
    elif "out of range" in complaint:
        complaint = "is out of range; send a smaller number"
    else:
        complaint = f"is not valid: {complaint}"
    return InvalidRequestError(f"{param or 'the body'} {complaint}", param=param)
