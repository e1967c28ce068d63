"""The lines of a batch file, in OpenAI's form: ``{"custom_id", "method", "url", "body"}``, one JSON object each.

A file is gone through once to find its lines, and each is read again when its turn comes: a file of gigabytes costs an
entry a line. What is wrong with a line is a value, because the others shall be answered all the same.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from ...engine.errors import ConfigError

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
MAX_LINE_BYTES = 32 << 20
"""As many as a server takes by default."""
MAX_ID_CHARS = 512


class Line(msgspec.Struct, frozen=True):
    """Where a sound line is, and what must be known of it before its turn."""

    number: int
    """From 1."""
    offset: int
    num_bytes: int
    custom_id: str
    url: str
    model: str | None


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be sent."""

    number: int
    custom_id: str | None
    message: str


class _Request(msgspec.Struct):
    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    model: Any = None
    stream: Any = None


_REQUEST = msgspec.json.Decoder(_Request)
_BODY = msgspec.json.Decoder(_Body)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BatchFile:
    """A batch file, open for reading. It must not change meanwhile.

    Raises:
        ConfigError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as e:
            raise ConfigError(f"{path}: cannot be read ({e.strerror or e}); pass a file of requests") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def lines(self) -> Iterator[Line | BadLine]:
        """All lines that are not blank, in order."""
        numbers: dict[str, int] = {}
        self._file.seek(0)
        number = offset = 0
        while raw := self._file.readline(MAX_LINE_BYTES + 1):
            number, begun, offset = number + 1, offset, offset + len(raw)
            if len(raw) > MAX_LINE_BYTES:
                offset += self._skip()
                yield BadLine(number, None, f"is longer than {MAX_LINE_BYTES} bytes; split it")
            elif raw.strip():
                line = _parse(raw, number, begun)
                if isinstance(line, Line):
                    first = numbers.setdefault(line.custom_id, number)
                    if first != number:
                        what = f"custom_id {_shown(line.custom_id)} is that of line {first}; each needs its own"
                        line = BadLine(number, line.custom_id, what)
                yield line

    def body(self, line: Line, model: str | None = None) -> bytes:
        """The body of a line, with its model replaced where ``model`` is given."""
        raw = os.pread(self._file.fileno(), line.num_bytes, line.offset)
        body = _REQUEST.decode(raw).body
        if model is None:
            return bytes(body)
        fields: dict[str, Any] = _FIELDS.decode(body)
        return msgspec.json.encode(fields | {"model": model})

    def _skip(self) -> int:
        """Go to the end of the line; bytes passed."""
        passed = 0
        while raw := self._file.readline(MAX_LINE_BYTES):
            passed += len(raw)
            if raw.endswith(b"\n"):
                break
        return passed


def _parse(raw: bytes, number: int, offset: int) -> Line | BadLine:
    try:
        raw.decode()  # msgspec looks at no text that it skips
        request = _REQUEST.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        why = str(e).replace("JSON is malformed: ", "").partition(" - at")[0]
        return BadLine(number, None, f"is no JSON object ({why}); correct it")
    custom_id = request.custom_id
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARS:
        return BadLine(number, None, f"custom_id must be a text of 1 to {MAX_ID_CHARS} characters; give it one")
    try:
        body = _BODY.decode(request.body)
    except (msgspec.DecodeError, RecursionError):
        return BadLine(number, custom_id, "body must be an object; write the request there")
    if request.method != "POST":
        return BadLine(number, custom_id, f'method is {_shown(request.method)}; it must be "POST"')
    if request.url not in URLS:
        return BadLine(number, custom_id, f"url is {_shown(request.url)}; it must be one of {', '.join(URLS)}")
    if body.stream:
        return BadLine(number, custom_id, "body.stream is set, but a line has one answer; leave it out")
    if not isinstance(body.model, str | None):
        return BadLine(number, custom_id, "body.model must be a text; name a model or leave it out")
    return Line(number, offset, len(raw), custom_id, request.url, body.model)


def _shown(value: Any) -> str:
    return repr(value)[:80]
