"""A chat template that runs in processes which can be killed, one conversation in each at a time.

A conversation on which the template takes too long, or too much memory, costs its own client a 400 and us one process.
A model whose template does not even compile within the bounds is refused when its server starts.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from ...engine.errors import BadModelFileError, InvalidRequestError, UnavailableError
from .template_sandbox import MAX_OUTPUT_CHARS
from .template_worker import BAD_TEMPLATE, DONE, HEAD

LIMIT_S = 5.0
_MAX_REPLY = 4 * MAX_OUTPUT_CHARS + 4096
_PIECE = 1 << 16


class _Died(Exception):
    """The process ended over a question, or said what none says."""


class TemplateProcess:
    """Runs one template. ``__call__`` may be used from several threads, each of which gets a process of its own."""

    def __init__(self, source: str, limit_s: float = LIMIT_S) -> None:
        """Starts the first process, which begins to compile."""
        self._source = source
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._is_closed = False
        self._busy: set[_Worker] = set()
        self._idle = [_Worker(source)]

    def check(self) -> None:
        """Wait for the first process.

        Raises:
            BadModelFileError: the template does not compile, or not within the bounds.
        """
        worker = self._taken()
        is_sound = False
        try:
            kind, said = worker.answered(time.monotonic() + self._limit_s)
            is_sound = kind == DONE
        except TimeoutError:
            what = f"chat template: takes more than {self._limit_s:g} s to compile"
            raise BadModelFileError(f"{what}; replace the model's template") from None
        except _Died:
            what = "chat template: takes too much memory to compile"
            raise BadModelFileError(f"{what}; replace the model's template") from None
        finally:
            self._returned(worker, is_sound)
        if kind != DONE:
            raise BadModelFileError(said)

    def __call__(self, values: dict[str, Any]) -> str:
        """The text that the template makes of plain values.

        Raises:
            InvalidRequestError: it refused them, failed, or went over a bound.
            UnavailableError: the machine is out of processes.
        """
        try:
            frame = json.dumps(values).encode()
        except (ValueError, RecursionError) as e:  # such as an integer of 5,000 digits in a tool call's arguments
            raise InvalidRequestError(f"the conversation cannot be rendered: {e}; simplify it", param="messages") from e
        deadline_s = time.monotonic() + self._limit_s
        worker = self._taken()
        is_sound = False
        try:
            worker.send(frame, deadline_s)
            kind, said = worker.answered(deadline_s)
            is_sound = True
        except TimeoutError:
            what = f"the model's chat template takes more than {self._limit_s:g} s on this conversation"
            raise InvalidRequestError(f"{what}; shorten it", param="messages") from None
        except _Died:
            what = "the model's chat template takes too much memory on this conversation"
            raise InvalidRequestError(f"{what}; shorten it", param="messages") from None
        finally:
            self._returned(worker, is_sound)
        if kind != DONE:
            raise InvalidRequestError(said, param="messages")
        return said

    def close(self) -> None:
        """End the processes; who waits for one gets an error."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.end()
        for worker in idle:
            worker.kill()

    def _taken(self) -> "_Worker":
        with self._lock:
            try:
                worker = self._idle.pop() if self._idle else _Worker(self._source)
            except OSError as e:  # no more processes, no more files
                what = f"no process can be started for the chat template ({e.strerror})"
                raise UnavailableError(f"{what}; try again soon", code="engine_unavailable") from e
            self._busy.add(worker)
        return worker

    def _returned(self, worker: "_Worker", is_sound: bool) -> None:
        """A process that has not answered in time would give that answer to the next one."""
        with self._lock:
            self._busy.discard(worker)
            if is_sound and not self._is_closed:
                self._idle.append(worker)
                return
        worker.kill()


class _Worker:
    """One process."""

    def __init__(self, source: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.template_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._num_unread = 1
        """Answers that are still to come: the first one is about the template."""
        given, told = self._process.stdin, self._process.stdout
        if given is None or told is None:
            raise RuntimeError("a process was started without pipes")
        self._given, self._told = given.fileno(), told.fileno()
        os.set_blocking(self._given, False)
        self._unsent = _framed(source.encode("utf-8", "surrogatepass"))

    def send(self, frame: bytes, deadline_s: float) -> None:
        """Ask for one conversation.

        Raises:
            TimeoutError: it does not read.
            _Died: it has ended.
        """
        self._unsent += _framed(frame)
        self._num_unread += 1
        self._flush(deadline_s)

    def answered(self, deadline_s: float) -> tuple[bytes, str]:
        """The last answer that is due.

        Raises:
            TimeoutError: it has not come.
            _Died: it never will.
        """
        self._flush(deadline_s)
        said = BAD_TEMPLATE
        while self._num_unread:
            (length,) = HEAD.unpack(self._read(HEAD.size, deadline_s))
            if not 1 <= length <= _MAX_REPLY:
                raise _Died
            said = self._read(length, deadline_s)
            self._num_unread -= 1
        return said[:1], said[1:].decode("utf-8", "surrogatepass")

    def end(self) -> None:
        """Stop it; whoever waits for its answer hears that it died, and cleans up."""
        self._process.kill()

    def kill(self) -> None:
        """Stop it and clean up."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _flush(self, deadline_s: float) -> None:
        sent = 0
        while sent < len(self._unsent):
            _wait(self._given, select.POLLOUT, deadline_s)
            try:
                sent += os.write(self._given, self._unsent[sent : sent + _PIECE])
            except BlockingIOError:
                continue
            except OSError:
                raise _Died from None
        self._unsent = b""

    def _read(self, num: int, deadline_s: float) -> bytes:
        pieces: list[bytes] = []
        while num:
            _wait(self._told, select.POLLIN, deadline_s)
            piece = os.read(self._told, min(num, _PIECE))
            if not piece:
                raise _Died
            pieces.append(piece)
            num -= len(piece)
        return b"".join(pieces)


def _framed(payload: bytes) -> bytes:
    return HEAD.pack(len(payload)) + payload


def _wait(file: int, event: int, deadline_s: float) -> None:
    """Until ``file`` can be read or written, or its other end is closed."""
    poll = select.poll()
    poll.register(file, event)
    if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
        raise TimeoutError
