"""A synchronous hold on an engine without HTTP, for ``paceline run``.

The event loop lives in a thread of its own, so that the main thread can sit in ``input()`` with line editing, and so
that Ctrl-C is a plain KeyboardInterrupt there: while an answer streams it ends that answer and nothing else.
"""

import concurrent.futures
import queue
from collections.abc import Generator
from contextlib import ExitStack, aclosing
from typing import Self

from anyio.from_thread import start_blocking_portal

from ..engine.config import Config
from ..engine.store.located import Located, ModelCard
from .client import EngineClient
from .messages import Admitted, Generate, TextDelta

_ABORT_S = 5.0


class Session:
    """``with Session(config, located, card) as session``: the engine runs inside the block.

    Raises:
        PacelineError: the engine could not start; the root cause.
    """

    def __init__(self, config: Config, located: Located, card: ModelCard) -> None:
        self._launch = EngineClient.launch(config, located, card)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            self._client = stack.enter_context(self._portal.wrap_async_context_manager(self._launch))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def stream(self, call: Generate) -> Generator[Admitted | TextDelta, None, None]:
        """Run ``call``; leaving the iterator early aborts it.

        Raises:
            PacelineError: it was refused or failed.
        """
        items: queue.SimpleQueue[Admitted | TextDelta | BaseException | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async with aclosing(self._client.generate(call)) as stream:
                    async for item in stream:
                        items.put(item)
                items.put(None)
            except BaseException as e:
                items.put(e)
                raise

        future = self._portal.start_task_soon(pump)
        try:
            while (item := items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()
            concurrent.futures.wait([future], _ABORT_S)
