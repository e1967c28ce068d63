"""One open call as its caller sees it: what has come from the engine and was not read yet. In order, complete.

Knows neither mailbox nor engine.
"""

import asyncio
from collections import deque
from typing import TypeAlias

import msgspec

from ..engine.errors import ActorError, DeadlineError, InvalidRequestError, PacelineError, UnavailableError
from ..engine.types import ErrorInfo
from .messages import Admitted, PrefixCacheReset, TextDelta, Tokenized
from .told import Gap, Told

Item: TypeAlias = Admitted | TextDelta | Tokenized | PrefixCacheReset

MAX_BUFFERED = 64
"""Items kept for a slow reader; beyond, deltas of one choice are joined, so that only the text itself grows."""


class Call:
    """Filled by ``put`` and ``fail``, emptied by one reader through ``next``."""

    __slots__ = ("_awake", "_buffer", "_told", "error", "is_admitted", "num_open")

    def __init__(self, num_choices: int) -> None:
        self._buffer: deque[Item] = deque()
        self._awake = asyncio.Event()
        self._told: dict[int, Told] = {}
        self.is_admitted = False
        self.num_open = num_choices
        """Choices that have not had their last delta."""
        self.error: PacelineError | None = None

    @property
    def is_over(self) -> bool:
        """Whether the engine will send nothing more."""
        return self.num_open == 0 or self.error is not None

    @property
    def ended(self) -> list[int]:
        """Choices that have had their last delta."""
        return [index for index, told in self._told.items() if told.is_over]

    def begin_again(self) -> None:
        """The engine answers anew from here on, with the same text: what has come is not told twice."""
        for told in self._told.values():
            told.begin_again()

    def put(self, item: Item) -> None:
        """Keep ``item``. What came before is dropped by offset; a gap in a choice's text fails the call."""
        if isinstance(item, TextDelta):
            told = self._told.setdefault(item.index, Told())
            try:
                news = told.news(item)
            except Gap as gap:
                self.fail(ActorError(f"text of choice {item.index} is missing {gap}; try again"))
                return
            if news is None:
                return
            item = news
            self.num_open -= told.is_over
        elif isinstance(item, Admitted):
            if self.is_admitted:
                return
            self.is_admitted = True
        elif isinstance(item, Tokenized | PrefixCacheReset):
            self.num_open = 0
        if len(self._buffer) < MAX_BUFFERED or not self._join(item):
            self._buffer.append(item)
        self._awake.set()

    def fail(self, error: PacelineError) -> None:
        """The call ends with ``error`` once what came before is read."""
        if self.error is None:
            self.error = error
        self._awake.set()

    async def next(self) -> Item | None:
        """The next item; None when every choice has ended and all is read.

        Raises:
            PacelineError: what ``fail`` was given.
        """
        while not self._buffer:
            if self.error is not None:
                raise self.error
            if self.num_open == 0:
                return None
            self._awake.clear()
            await self._awake.wait()
        return self._buffer.popleft()

    def _join(self, item: Item) -> bool:
        """Merge ``item`` into the newest delta of its choice, if one waits."""
        if isinstance(item, TextDelta):
            for i in range(len(self._buffer) - 1, -1, -1):
                last = self._buffer[i]
                if isinstance(last, TextDelta) and last.index == item.index:
                    self._buffer[i] = joined(last, item)
                    return True
        return False


def joined(first: TextDelta, second: TextDelta) -> TextDelta:
    """Two successive deltas of one choice as one."""
    logprobs = first.logprobs
    if second.logprobs is not None:
        logprobs = [*(logprobs or []), *second.logprobs]
    return msgspec.structs.replace(
        second,
        offset=first.offset,
        text=first.text + second.text,
        token_ids=[*first.token_ids, *second.token_ids],
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs if first.prompt_logprobs is not None else second.prompt_logprobs,
        num_cached=max(first.num_cached, second.num_cached),
        queue_s=max(first.queue_s, second.queue_s),
        parts=[*first.pieces, *second.pieces] if first.parts or second.parts else [],
    )


def error_of(info: ErrorInfo) -> PacelineError:
    """The exception for an error that travelled; ``PacelineError.info`` is the way back."""
    match info.kind:
        case "invalid" | "not_found":
            missing = info.kind == "not_found"
            return InvalidRequestError(info.message, param=info.param, code=info.code, not_found=missing)
        case "unavailable":
            retry_s = 1.0 if info.retry_after_s is None else info.retry_after_s
            return UnavailableError(info.message, code=info.code or "engine_unavailable", retry_after_s=retry_s)
        case "deadline":
            return DeadlineError(info.message)
        case _:
            return ActorError(info.message, code=info.code or "internal_error")
