"""Sends the lines of a batch, as many at once as the engine takes, and writes each answer when it comes.

A server that is busy is asked again when it says so. One that answers nothing at all for a while ends the run: what is
done stays done, and the lines that are not get no line in the output, so that the next start sends them.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import msgspec

from ...engine.errors import ConfigError, UnavailableError
from .lines import BatchFile, Line
from .output import OutputFile, Record

PATIENCE_S = 120.0
"""How long nothing may be answered before the run ends."""
_BUSY = (408, 429, 503)
_NO_KEY = (401, 403)
_FIRST_WAIT_S, _MOST_WAIT_S = 0.25, 30.0


class Reply(msgspec.Struct, frozen=True):
    """A server's answer to one request."""

    status: int
    request_id: str
    body: bytes
    retry_after_s: float | None = None


class Unreachable(Exception):
    """Nobody answered; the text says why."""


class Way(Protocol):
    """How requests get to a server."""

    limit: int
    """Requests at once."""

    async def post(self, url: str, body: bytes) -> Reply:
        """Send a request and wait for its answer.

        Raises:
            Unreachable: none came.
        """
        ...


class _Usage(msgspec.Struct):
    total_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_ANSWER = msgspec.json.Decoder(_Answer)

Report = Callable[[Record, int], None]
"""Told of each line that is done, and of the tokens it took."""


class Driver:
    """One run over lines that are sound and not done yet."""

    def __init__(self, batch: BatchFile, output: OutputFile, way: Way, report: Report, model: str | None) -> None:
        self._batch = batch
        self._output = output
        self._way = way
        self._report = report
        self._model = model
        self._answered_s = 0.0

    async def run(self, lines: Iterable[Line]) -> None:
        """Answer all ``lines``.

        Raises:
            PacelineError: the server is not there, or refuses the key.
        """
        waiting, failure = iter(lines), list[Exception]()
        self._answered_s = anyio.current_time()

        async def work() -> None:
            for line in waiting:
                try:
                    await self._do(line)
                except Exception as e:  # raised again below: the group would wrap it
                    failure.append(e)
                    tasks.cancel_scope.cancel()
                    return

        async with anyio.create_task_group() as tasks:
            for _ in range(self._way.limit):
                tasks.start_soon(work)
        if failure:
            raise failure[0]

    async def _do(self, line: Line) -> None:
        reply = await self._ask(line.url, self._batch.body(line, self._model))
        record = self._output.answered(line.custom_id, reply.status, reply.request_id, reply.body)
        self._report(record, _num_tokens(reply))

    async def _ask(self, url: str, body: bytes) -> Reply:
        """The answer, asked for again while the server is busy or away."""
        wait_s = _FIRST_WAIT_S
        while True:
            asked_s = None
            try:
                reply = await self._way.post(url, body)
            except Unreachable as e:
                why = str(e)
            else:
                if reply.status in _NO_KEY:
                    raise ConfigError(f"the server refuses the key ({reply.status}); pass the right one with --api-key")
                if reply.status not in _BUSY:
                    self._answered_s = anyio.current_time()
                    return reply
                why, asked_s = f"it answers {reply.status}", reply.retry_after_s
            if anyio.current_time() - self._answered_s > PATIENCE_S:
                what = f"the server has answered nothing for {PATIENCE_S:.0f} s: {why}"
                raise UnavailableError(f"{what}; see to it and run the same command again", code="engine_unavailable")
            await anyio.sleep(min(asked_s or wait_s, _MOST_WAIT_S))
            wait_s *= 2


def _num_tokens(reply: Reply) -> int:
    try:
        usage = _ANSWER.decode(reply.body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return usage.total_tokens if usage is not None else 0
