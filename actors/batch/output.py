"""The answers of a batch, one JSON object a line, appended as they come. What is there already is not done again.

A process may die at any moment: each answer is one write, and of a line that is not whole the next start takes nothing.
Where failed lines shall be done again, they are taken out first, and the file is replaced in one step.
"""

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec

from ...engine.errors import ConfigError
from .lines import BadLine

_ID_PREFIX = "batch_req_"
_BEGINNING = b'{"id":"' + _ID_PREFIX.encode()


class Response(msgspec.Struct, frozen=True):
    """What the server answered, whatever its status."""

    status_code: int
    request_id: str
    body: Any


class Failure(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """Of the batch file, for a line that cannot be sent."""


class Record(msgspec.Struct, frozen=True):
    """One line, as OpenAI writes it."""

    id: str
    custom_id: str | None
    response: Response | None
    error: Failure | None

    @property
    def is_answer(self) -> bool:
        """Whether the request was done."""
        return self.response is not None and self.response.status_code == 200


class _Known(msgspec.Struct):
    """Of a record, what says that it is one and what it is about; its body may be large."""

    id: str
    custom_id: str | None
    response: "_Status | None"
    error: Failure | None

    @property
    def is_answer(self) -> bool:
        """See ``Record``."""
        return self.response is not None and self.response.status_code == 200


class _Status(msgspec.Struct):
    status_code: int


_KNOWN = msgspec.json.Decoder(_Known)


class OutputFile:
    """An output file, locked and open for appending; ``drops_failed``: without the lines that are no answers.

    Raises:
        ConfigError: it cannot be written, holds something else, or another process writes it.
    """

    def __init__(self, path: Path, *, drops_failed: bool = False) -> None:
        self.done_ids: set[str] = set()
        """Custom ids of the requests that have a line, answered or not."""
        self.done_numbers: set[int] = set()
        """Numbers of the bad lines that have been told."""
        self.num_failed = 0
        """Lines here that are no answers."""
        self._path = path
        with ExitStack() as stack:
            self._fd = self._open(path, stack)
            self._read()
            if drops_failed and self.num_failed:
                self._drop_failed(stack)
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.close()

    def answered(self, custom_id: str, status: int, request_id: str, body: bytes) -> Record:
        """Append a server's answer; a body that is no JSON is kept as text."""
        try:
            content: Any = msgspec.Raw(body)
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            content = body.decode("utf-8", "replace")
        return self._append(Record(_new_id(), custom_id, Response(status, request_id, content), None))

    def failed(self, custom_id: str, code: str, message: str) -> Record:
        """Append a request that nobody answered."""
        return self._append(Record(_new_id(), custom_id, None, Failure(code, message)))

    def bad(self, line: BadLine) -> Record:
        """Append a line of the batch file that cannot be sent."""
        failure = Failure("invalid_line", f"line {line.number}: {line.message}", line=line.number)
        return self._append(Record(_new_id(), line.custom_id, None, failure))

    def _append(self, record: Record) -> Record:
        rest = memoryview(msgspec.json.encode(record) + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as e:
            raise self._cannot(e) from e
        self.num_failed += not record.is_answer
        return record

    def _open(self, path: Path, stack: ExitStack, mode: int = 0o644) -> int:
        """A file that is locked until ``stack`` closes."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
        except OSError as e:
            raise self._cannot(e) from e
        stack.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise ConfigError(f"{self._path}: another paceline batch writes to it; wait for it or pass -o") from e
        return fd

    def _drop_failed(self, stack: ExitStack) -> None:
        """The old file stays locked too: who opened it a moment ago must not think that it is free."""
        path = Path(os.path.realpath(self._path))
        new = path.with_name(f"{path.name}.new")
        old, self._fd = self._fd, self._open(new, stack, os.stat(path).st_mode & 0o777)
        try:
            with os.fdopen(os.dup(old), "rb") as before, os.fdopen(os.dup(self._fd), "wb") as after:
                after.truncate(0)  # what a process that died left
                before.seek(0)
                after.writelines(raw for raw in before if _KNOWN.decode(raw).is_answer)
                after.flush()
                os.fsync(after.fileno())
            os.replace(new, path)
        except OSError as e:
            new.unlink(missing_ok=True)
            raise self._cannot(e) from e
        self.done_ids, self.done_numbers, self.num_failed = set(), set(), 0
        self._read()

    def _read(self) -> None:
        """Note what is done, and cut off a last line that is not whole."""
        end = 0
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    if not (raw.startswith(_BEGINNING) or _BEGINNING.startswith(raw)):
                        raise self._foreign(number)
                    os.ftruncate(self._fd, end)
                    break
                end += len(raw)
                self._note(raw, number)

    def _note(self, raw: bytes, number: int) -> None:
        try:
            known = _KNOWN.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._foreign(number) from None
        if not known.id.startswith(_ID_PREFIX):
            raise self._foreign(number)
        if known.error is not None and known.error.line is not None:
            self.done_numbers.add(known.error.line)
        elif known.custom_id is not None:
            self.done_ids.add(known.custom_id)
        self.num_failed += not known.is_answer

    def _foreign(self, number: int) -> ConfigError:
        return ConfigError(f"{self._path}:{number}: is no line of a batch's output; pass another file with -o")

    def _cannot(self, error: OSError) -> ConfigError:
        why = error.strerror or error
        return ConfigError(f"{self._path}: cannot be written ({why}); mend that and run the same command again")


def _new_id() -> str:
    return _ID_PREFIX + uuid4().hex
