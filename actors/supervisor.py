"""Keeps one process alive for each actor: spawn, wait for Hello, restart with back-off, kill what hangs, end all.

It owns the processes and the truth about them (``EngineState``), and nothing of what they do. Death is seen at once, a
hang through missing progress. What an actor's death means for the others they decide themselves on ``ActorLost``.
"""

import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from signal import SIGKILL, SIGTERM
from typing import Any

import anyio
import msgspec
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from ..engine.config import Config
from ..engine.errors import ActorError, PacelineError
from ..engine.store.located import Located, ModelCard
from ..engine.types import ErrorInfo
from .actor import CRASH, Setup
from .mailbox import MailboxFull
from .messages import PROTOCOL_VERSION, ActorLost, Drain, EngineState, Failed, Heartbeat, Hello, Stop
from .posts import Post, condition, first_error
from .spawn import Child, death_cause, spawn
from .zmq_mailbox import ZmqMailbox

log = logging.getLogger(__name__)

STOP_S = 2.0
"""How long actors may take to end after Stop before they are killed."""
_WATCH_S = 1.0
_PUBLISH_EVERY = 5
_LAST_WORDS_S = 0.3
"""Time for a Failed message to overtake the death of its sender."""


@contextmanager
def private_folder() -> Iterator[str]:
    """A fresh 0700 folder for sockets, removed at the end."""
    folder = tempfile.mkdtemp(prefix="paceline-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Supervisor:
    """See the module's docstring. ``run`` starts everything; cancel it to end everything."""

    def __init__(
        self,
        config: Config,
        located: Located,
        card: ModelCard,
        actors: Sequence[str],
        folder: str,
        *,
        listener: socket.socket | None = None,
        entries: Mapping[str, str] | None = None,
        drafter: tuple[Located, ModelCard] | None = None,
        is_listened_for: bool = False,
    ) -> None:
        self.posts = {name: Post(name) for name in (*actors, *(["draft"] if drafter else []))}
        """A draft actor is kept where there is a ``drafter``, the model for it; the engine is of use without it."""
        self.draining = False
        """No more calls are taken, or no more connections accepted."""
        self.is_ready = False
        """Whether all actors have worked at the same time once."""
        self._config = config
        self._located = located
        self._card = card
        self._drafter = drafter
        self._folder = folder
        self._listener = listener
        self._is_listened_for = is_listened_for  # another server accepts until we can answer: the gateway comes last
        self._hands_over = False
        self._entries = dict(entries or {})
        self._children: dict[str, Child] = {}
        self._failures: dict[tuple[str, int], ErrorInfo] = {}
        self._heard = anyio.Event()  # of a failure
        self._engine_ok = anyio.Event()  # all but the gateway
        self._all_ok = anyio.Event()
        self._gateway_gone = anyio.Event()
        self._mailbox: ZmqMailbox | None = None
        self._target_hello: Hello | None = None

    @property
    def target_hello(self) -> Hello | None:
        """What the target said of itself when it last became ready."""
        return self._target_hello

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Keep all actors alive until cancelled; started once all of them can work.

        Raises:
            PacelineError: in an exception group: an actor cannot start, and trying again would not help.
        """
        self._mailbox = ZmqMailbox("supervisor", 0, self._folder)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive)
                last = "gateway" if self._is_listened_for else ""
                for post in self.posts.values():
                    if post.name != last:
                        tasks.start_soon(self._keep, post)
                if last:
                    await self._engine_ok.wait()
                    tasks.start_soon(self._keep, self.posts[last])
                await self._all_ok.wait()
                tasks.start_soon(self._watch)
                task_status.started()
                await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_all()
            self._mailbox.close()

    async def drain(self, timeout_s: float, *, hands_over: bool = False) -> None:
        """Take no new calls and return when those that run are finished, or after ``timeout_s``.

        ``hands_over``: another server accepts now; calls on connections that are open are still taken.
        """
        self.draining, self._hands_over = True, hands_over
        self._publish()
        if hands_over and self._listener is not None:
            self._listener.close()
        if "gateway" in self._children and timeout_s > 0:
            self._send("gateway", Drain(hands_over))
            with anyio.move_on_after(timeout_s):
                await self._gateway_gone.wait()

    # --- one actor's process after the other --------------------------------------------------------------------------

    async def _keep(self, post: Post) -> None:
        while True:
            epoch = post.begin(anyio.current_time())
            child = await spawn(self._setup(post, epoch))
            post.pid = child.pid
            self._children[post.name] = child
            self._publish()
            status = await child.wait()
            del self._children[post.name]
            child.release()
            if post.name == "gateway" and self.draining:
                self._gateway_gone.set()
                return
            await self._bury(post, epoch, status)

    async def _bury(self, post: Post, epoch: int, status: int) -> None:
        """Find the cause of a death, tell everybody, and wait as long as the next start must."""
        if status > 0 and (post.name, epoch) not in self._failures:
            with anyio.move_on_after(_LAST_WORDS_S):
                while (post.name, epoch) not in self._failures:
                    self._heard = anyio.Event()
                    await self._heard.wait()
        failure = self._failures.pop((post.name, epoch), None)
        was_stuck = post.error if post.state == "stalled" else None
        cause = failure.message if failure is not None else was_stuck or f"the process {death_cause(status)}"
        started = post.state != "starting"
        delay_s = post.died(cause, anyio.current_time())
        self._tell_lost(post, epoch)
        self._publish()
        if post.is_needed and not self.is_ready and not started and (failure is not None or post.loops):
            raise _start_error(post, failure, cause)
        log.warning("%s died: %s; next start in %.1f s", post.name, cause, delay_s)
        await anyio.sleep(delay_s)

    def _setup(self, post: Post, epoch: int) -> Setup:
        takes_calls = post.name == "gateway" and self._listener is not None
        config, before = self._config, self._target_hello
        if before is not None and before.actor == post.name and before.epoch == epoch - 1:
            config = _same_sizes(config, before)
        is_drafter = self._drafter is not None and post.name == "draft"
        located, card = self._drafter if self._drafter is not None and is_drafter else (self._located, self._card)
        return Setup(
            actor=post.name,
            epoch=epoch,
            folder=self._folder,
            config=config,
            located=located,
            card=card,
            entry=self._entries.get(post.name, ""),
            epochs={p.name: p.next_epoch for p in self.posts.values() if p.next_epoch > 0},
            socket_fd=self._listener.fileno() if takes_calls and self._listener is not None else -1,
            is_listened_for=takes_calls and self._is_listened_for,
            log_level=self._config.server.log_level,
        )

    def _tell_lost(self, post: Post, epoch: int) -> None:
        lost = ActorLost(post.name, epoch)
        if self._mailbox is not None:
            self._mailbox.lost(post.name, epoch)
        for name in {*self._children, "gateway"} - {post.name}:
            self._send(name, lost)

    # --- what they report ---------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        assert self._mailbox is not None
        while True:
            sender, message = await self._mailbox.receive()
            post = self.posts.get(sender)
            if post is None or message.epoch != post.epoch:
                continue
            match message:
                case Hello():
                    self._welcome(post, message)
                case Heartbeat():
                    post.beat(message, anyio.current_time())
                case Failed():
                    self._failures[sender, message.epoch] = message.error
                    self._heard.set()
                case _:
                    pass

    def _welcome(self, post: Post, hello: Hello) -> None:
        if hello.protocol_version != PROTOCOL_VERSION:
            raise ActorError(
                f"{post.name} speaks protocol {hello.protocol_version}, not {PROTOCOL_VERSION}; install paceline again"
            )
        post.welcome(hello, anyio.current_time())
        if post.name.startswith("target"):
            self._target_hello = hello
        waited_for = [p for p in self.posts.values() if p.is_needed and p.state != "ok"]
        if all(p.name == "gateway" for p in waited_for):
            self._engine_ok.set()
        if not waited_for:
            self.is_ready = True
            self._all_ok.set()
        self._publish()

    async def _watch(self) -> None:
        """Kill what makes no progress, and refresh what the gateway knows."""
        tick = 0
        last_s = anyio.current_time()
        while True:
            await anyio.sleep(_WATCH_S)
            now_s = anyio.current_time()
            if now_s - last_s < 5 * _WATCH_S:  # else we were stopped ourselves, and their reports lie unread
                for post in self.posts.values():
                    if post.is_stuck(now_s) and (child := self._children.get(post.name)) is not None:
                        post.state = "stalled"
                        post.error = f"pid {post.pid} made no progress for too long and was killed"
                        child.signal(SIGKILL)
            last_s = now_s
            tick += 1
            if tick % _PUBLISH_EVERY == 0:
                self._publish()

    def _publish(self) -> None:
        """Tell the gateway, or who stands in for it, and the tokenizer how the engine is."""
        posts = list(self.posts.values())
        others = [post for post in posts if post.name != "gateway"]  # who reads this knows that there is one
        now_s = anyio.current_time()
        state = EngineState(
            condition(
                others, was_ready=self._engine_ok.is_set(), draining=self.draining and not self._hands_over
            ),
            [post.view(now_s) for post in posts],
            first_error(others),
            self._target_hello,
        )
        for name in ("gateway", "tokenizer"):
            if name not in self.posts or self.posts[name].is_there:
                self._send(name, state)

    def _send(self, name: str, message: Any) -> None:
        if self._mailbox is not None:
            with contextlib.suppress(MailboxFull):  # it reads nothing; the watch will see to it
                self._mailbox.send(name, message)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _end_all(self) -> None:
        """Stop, then SIGTERM to who cannot hear yet, then SIGKILL; returns when no child is left."""
        for name, child in self._children.items():
            if self.posts[name].state == "ok":
                self._send(name, Stop())
            else:
                child.signal(SIGTERM)
        with anyio.move_on_after(STOP_S):
            await self._all_gone()
        for child in self._children.values():
            if child.returncode is None:
                child.signal(SIGKILL)
        await self._all_gone()
        for child in self._children.values():
            child.release()

    async def _all_gone(self) -> None:
        for child in list(self._children.values()):
            await child.wait()


def _same_sizes(config: Config, before: Hello) -> Config:
    """The config with which a target comes back as it was, whatever memory is free now: requests can then go on.

    If it cannot be had, that start fails, and the next one sizes itself anew.
    """
    cache = msgspec.structs.replace(config.cache, num_blocks=before.num_blocks)
    target = msgspec.structs.replace(config.target, max_model_len=before.max_model_len)
    return msgspec.structs.replace(config, cache=cache, target=target)


def _start_error(post: Post, failure: ErrorInfo | None, cause: str) -> PacelineError:
    """What ends the start: a person's mistake as it was told, anything else with the actor's name."""
    if failure is not None and failure.code != CRASH:
        return ActorError(failure.message)
    return ActorError(f"{post.name} cannot start: {cause}; run with -s server.log_level=debug to see more")
