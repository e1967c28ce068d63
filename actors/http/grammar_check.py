"""Grammars checked at the door: compiled once in a process that can be killed, and remembered when they are sound.

A wish that takes too long, or too much memory, costs its own client a 400 and us one process. Nothing of it reaches the
engine, which compiles what has compiled here, for its own vocabulary and within the same bounds.
"""

import asyncio
import asyncio.subprocess
import contextlib
import sys
from collections import OrderedDict

import msgspec

from ...engine.errors import InvalidRequestError, UnavailableError
from .grammar_values import GrammarWish, Verdict

LIMIT_S = 5.0
MAX_WORKERS = 2
MAX_KEPT = 1024
MAX_KEPT_CHARS = 8 * 1024 * 1024
"""Of the grammars that were found sound."""
_MAX_LINE = 4 * 1024 * 1024
_MAX_WAITING = 64


class GrammarCheck:
    """Sound grammars by wish. The processes start with the first wish and live until ``close``."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._free = asyncio.Semaphore(MAX_WORKERS)
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._kept: OrderedDict[tuple[str, str, str | None], str] = OrderedDict()
        self._num_chars = 0
        self._num_waiting = 0

    async def grammar(self, wish: GrammarWish) -> str:
        """The wish as the engine takes it.

        Raises:
            InvalidRequestError: it is no grammar, or too hard a one.
            UnavailableError: too many others wait for their check.
        """
        key = (wish.kind, wish.text, wish.whitespace)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        if self._num_waiting >= _MAX_WAITING:
            what = f"{self._num_waiting} grammars wait to be checked"
            raise UnavailableError(f"{what}; try again soon", code="queue_full", retry_after_s=1.0)
        self._num_waiting += 1
        try:
            async with self._free:
                verdict = await self._judged(wish)
        finally:
            self._num_waiting -= 1
        if verdict.error:
            what = f"{wish.param} is not usable: {verdict.error}"
            raise InvalidRequestError(f"{what}; correct it", param=wish.param)
        self._keep(key, verdict.grammar)
        return verdict.grammar

    async def close(self) -> None:
        """End the processes."""
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        for worker in workers:
            await worker.kill()

    async def _judged(self, wish: GrammarWish) -> Verdict:
        worker = self._idle.pop() if self._idle else await _Worker.start()
        self._busy.add(worker)
        is_sound = False
        try:
            async with asyncio.timeout(self._limit_s):
                verdict = await worker.ask(wish)
            is_sound = True
            return verdict
        except TimeoutError:
            what = f"{wish.param} takes more than {self._limit_s:g} s to compile"
            raise InvalidRequestError(f"{what}; send a simpler one", param=wish.param) from None
        except (EOFError, ConnectionError, asyncio.LimitOverrunError, ValueError):  # it died: of memory, most likely
            what = f"{wish.param} takes too much memory to compile"
            raise InvalidRequestError(f"{what}; send a simpler one", param=wish.param) from None
        finally:
            self._busy.discard(worker)
            if is_sound:
                self._idle.append(worker)
            else:  # its answer would be taken for the next one's
                await asyncio.shield(worker.kill())

    def _keep(self, key: tuple[str, str, str | None], grammar: str) -> None:
        if key in self._kept:
            return
        self._kept[key] = grammar
        self._num_chars += len(grammar) + len(key[1])
        while len(self._kept) > MAX_KEPT or (self._num_chars > MAX_KEPT_CHARS and len(self._kept) > 1):
            (_, text, _), dropped = self._kept.popitem(last=False)
            self._num_chars -= len(dropped) + len(text)


class _Worker:
    """One process, one question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> "_Worker":
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-P", "-m", f"{__package__}.grammar_worker"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_MAX_LINE,
            start_new_session=True,
        )
        return cls(process)

    async def ask(self, wish: GrammarWish) -> Verdict:
        """What it says; EOFError when it died over the question."""
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None and answers is not None
        given.write(msgspec.json.encode(wish) + b"\n")
        await given.drain()
        line = await answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return msgspec.json.decode(line, type=Verdict)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
