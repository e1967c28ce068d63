"""The gateway actor: HTTP on the socket that the supervisor has bound, and the engine's messages to the open calls.

It knows requests and answers, and nothing of tokens' meaning, blocks or devices. The port answers from the first
moment, with 503 ``starting`` until the model is loaded.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskStatus

from ..actor import Actor, Setup
from ..client import EngineClient
from ..mailbox import Mailbox
from ..messages import Drain, Stop
from ..stats import MetricsRegistry
from .app import build_app
from .connection import GuardedConnection, protocol_class
from .limits import MAX_HEADER_BYTES
from .service import Service

log = logging.getLogger(__name__)

_LAST_ANSWERS_S = 1.0
"""For error events and answers that are on their way out when the gateway ends."""
_POLL_S = 0.05
_ACCEPTED_S = 0.1
"""For what was accepted last to become a connection."""


class Server(uvicorn.Server):
    """uvicorn without signal handlers, in a task group of ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's."""
        yield

    async def main_loop(self) -> None:
        """Keep the Date header right until cancelled; nothing else needs a tick."""
        while not self.should_exit:
            await self.on_tick(0)
            await anyio.sleep(1.0)

    async def retire(self) -> None:
        """Accept no more connections and return when the last one is closed; idle ones are closed as ever.

        An accepted socket becomes a connection a turn of the loop later, and is lost if its server is closed by then:
        so nothing is accepted any more first, and the server closed a moment later.
        """
        loop = asyncio.get_running_loop()
        for listener in [listener for server in self.servers for listener in server.sockets]:
            loop.remove_reader(listener.fileno())
        await anyio.sleep(_ACCEPTED_S)
        for server in self.servers:
            server.close()
        while self.server_state.connections or self.server_state.tasks:
            await anyio.sleep(_POLL_S)

    async def run_on(
        self, listener: socket.socket, on_end: Callable[[], None], *, task_status: TaskStatus[None]
    ) -> None:
        """Serve until cancelled, then call ``on_end`` and let the last answers out."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup([listener])
        task_status.started()
        try:
            await self.main_loop()
        finally:
            on_end()
            with anyio.CancelScope(shield=True):
                await self.shutdown([listener])


def make_server(app: Any, protocol: type[GuardedConnection] | None = None) -> Server:
    """A server for ``app`` with our protocol class: bounds and timers of ``connection.py``."""
    config = uvicorn.Config(
        app,
        http=protocol or protocol_class(),
        ws="none",
        lifespan="off",
        loop="uvloop" if find_spec("uvloop") else "asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=int(_LAST_ANSWERS_S),
    )
    return Server(config)


class Gateway(Actor):
    """See the module's docstring."""

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        super().__init__(setup, mailbox)
        config, card = setup.config, setup.card
        registry = MetricsRegistry(config.server.served_model_name or config.model)
        self._client = EngineClient(
            mailbox, registry, tokenizer_epoch=setup.epochs.get("tokenizer", 0),
            max_waiting=config.scheduler.max_queued_requests,
        )  # fmt: skip
        self.service = Service(config, card, self._client, registry, setup.located)
        self._server: Server | None = None
        self._hands_over = False

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Listen, and stop listening when cancelled."""
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # strangers' nonsense is no news
        listener = socket.socket(fileno=self.setup.socket_fd)
        if self.setup.is_listened_for:
            await self._hear_of_engine()
        server = self._server = make_server(build_app(self.service))
        try:
            await server.run_on(listener, self.service.calls.stop, task_status=task_status)
        finally:
            listener.close()

    async def handle(self, sender: str, message: Any) -> None:
        """Engine messages go to the call they belong to."""
        if isinstance(message, Drain):
            self._hands_over = message.hands_over
        else:
            self._client.handle(sender, message)

    async def stop(self) -> None:
        """End the processes that check grammars."""
        self._client.close()
        await self.service.grammars.close()

    async def drain(self) -> None:
        """Refuse new calls and wait until the open ones are answered.

        Once another server accepts connections, a refusal would only hit clients that use theirs again: these are
        answered, and told to open a new one next time.
        """
        if self._hands_over and self._server is not None:
            self.service.closes_connections = True
            await self._server.retire()
        else:
            self.service.health.draining = True
            await self.service.calls.drained()

    async def _hear_of_engine(self) -> None:
        """Until the supervisor has told its state: a call that came before that would be told that we are starting."""
        while self._client.state is None:
            sender, message = await self.mailbox.receive()
            if isinstance(message, Stop):
                self.finish()
            self._client.handle(sender, message)
