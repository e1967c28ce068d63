"""The engine's asynchronous API, for the gateway, ``paceline run``, ``batch``, tests and benchmarks.

It speaks with the tokenizer actor, and with the scheduler about its prefix cache. Every call ends exactly once, with
its last delta or with one PacelineError: also when text is missing, and when nothing has come long after the deadline.
When the tokenizer dies, calls stay open: another one is sent them again, and tells what has not been told yet.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol
from uuid import uuid4

import anyio

from ..engine.config import Config
from ..engine.errors import ActorError, DeadlineError, UnavailableError
from ..engine.store.located import Located, ModelCard
from .actor import root_cause
from .asked import Asked, Question
from .call import Call, Item, error_of
from .draft_files import find_drafter
from .mailbox import Mailbox, MailboxFull
from .messages import (
    AbortCall,
    ActorLost,
    Admitted,
    CallFailed,
    Detokenize,
    EngineState,
    Generate,
    Hello,
    PrefixCacheReset,
    ResetPrefixCache,
    Stats,
    TextDelta,
    Tokenize,
    Tokenized,
)
from .neighbour import RETRY_AFTER_S, Neighbour
from .outbox import Outbox

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""The scheduler ends a call at its deadline; this much later we do, whatever became of the scheduler."""
TOKENIZE_S = 60.0
_MAX_WAITING = 1024
"""Messages kept for a peer whose mailbox is full; and calls that wait for a tokenizer to come back."""


class StatsSink(Protocol):
    """Where actors' reports go; ``actors.stats.MetricsRegistry`` is one."""

    def take(self, stats: Stats) -> None:
        """Book a report."""
        ...

    def take_state(self, state: EngineState) -> None:
        """Book the supervisor's view."""
        ...


class EngineClient:
    """Calls to a running engine through a mailbox named ``gateway``.

    Messages come in through ``run``, which receives for ever, or through ``handle``, from an actor's own loop.
    """

    def __init__(
        self, mailbox: Mailbox, sink: StatsSink | None = None, *, tokenizer_epoch: int = 0,
        max_waiting: int = _MAX_WAITING,
    ) -> None:  # fmt: skip
        """``max_waiting``: calls that may wait for a tokenizer to come back."""
        self._mailbox = mailbox
        self._outbox = Outbox(mailbox, _MAX_WAITING)
        self._sink = sink
        self._open_calls: dict[str, Asked] = {}
        self._tokenizer = Neighbour("tokenizer", tokenizer_epoch, self._give_up)
        self._max_waiting = max_waiting
        self._idle = asyncio.Event()
        self.state: EngineState | None = None
        """The supervisor's latest word."""
        self.stats: dict[str, Stats] = {}
        """The latest report of each actor."""

    @property
    def num_open(self) -> int:
        """Calls that have not ended."""
        return len(self._open_calls)

    async def drained(self) -> None:
        """Return once no call is open."""
        while self._open_calls:
            self._idle.clear()
            await self._idle.wait()

    # --- calls --------------------------------------------------------------------------------------------------------

    async def generate(self, call: Generate) -> AsyncGenerator[Admitted | TextDelta, None]:
        """``Admitted`` first, then deltas until each choice has had its last one. Closing the iterator aborts the call.

        Leave early only inside ``contextlib.aclosing``: a forgotten iterator is closed when it is collected, no sooner.

        Raises:
            PacelineError: the call was refused, or failed; nothing of it follows.
        """
        num_choices = (len(call.prompts) if call.prompts is not None else 1) * call.n
        with self._open(call, num_choices, call.timeout_s + GRACE_S) as opened:
            while (item := await opened.next()) is not None:
                if isinstance(item, Admitted | TextDelta):
                    yield item

    async def tokenize(self, request: Tokenize | Detokenize) -> Tokenized:
        """Encode a text or a conversation, or decode ids.

        Raises:
            PacelineError: it cannot be done, or the engine is not there.
        """
        with self._open(request, 1, TOKENIZE_S) as opened:
            item = await opened.next()
        if not isinstance(item, Tokenized):
            raise ActorError(f"the tokenizer answered {type(item).__name__} to {type(request).__name__}; try again")
        return item

    async def detokenize(self, request: Detokenize) -> Tokenized:
        """Decode ids; see ``tokenize``."""
        return await self.tokenize(request)

    async def reset_prefix_cache(self) -> int:
        """Have no later request find what was computed so far; how many blocks that were.

        Raises:
            PacelineError: the engine is not there.
        """
        with self._open(ResetPrefixCache(uuid4().hex), 1, TOKENIZE_S, to="scheduler") as opened:
            item = await opened.next()
        if not isinstance(item, PrefixCacheReset):
            raise ActorError(f"the scheduler answered {type(item).__name__} to ResetPrefixCache; try again")
        return item.num_blocks

    @contextmanager
    def _open(self, message: Question, num_choices: int, timeout_s: float, to: str = "tokenizer") -> Iterator[Call]:
        """Send ``message``, collect what belongs to it, and abort it unless it was over on leaving."""
        call_id = message.call_id
        if call_id in self._open_calls:
            raise ActorError(f"call id {call_id} is in use; choose another")
        asked = Asked(message, to, Call(num_choices), anyio.current_time())
        self._ask(asked)
        self._open_calls[call_id] = asked
        late = DeadlineError(f"no answer within {timeout_s:.0f} s; try again, or ask for less")
        timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, asked, late)
        try:
            yield asked.call
        finally:
            timer.cancel()
            if self._open_calls.pop(call_id, None) is not None and not asked.call.is_over:
                self._abort(call_id)
            if not self._open_calls:
                self._idle.set()

    def _ask(self, asked: Asked) -> None:
        """Send a new question, or have it wait for the tokenizer to come back.

        Raises:
            UnavailableError: there is no room, or the tokenizer has been away for too long.
        """
        if asked.to == self._tokenizer.name and not self._tokenizer.is_up:
            if self._tokenizer.is_late:
                raise self._tokenizer.why_down()
            if sum(not other.is_sent for other in self._open_calls.values()) >= self._max_waiting:
                what = f"{self._max_waiting} calls wait for the tokenizer to come back; try again soon"
                raise UnavailableError(what, code="queue_full")
            return
        try:
            self._outbox.send(asked.to, asked.to_send(anyio.current_time()))
        except MailboxFull:
            raise UnavailableError(f"the {asked.to}'s queue is full; try again soon", code="queue_full") from None

    def _ask_again(self, to: str) -> None:
        """Another ``to`` is there, which knows none of what is open."""
        self._outbox.forget(to)
        for asked in list(self._open_calls.values()):
            if asked.to == to and not asked.call.is_over:
                try:
                    self._outbox.send(to, asked.to_send(anyio.current_time()), force=True)
                except UnavailableError as e:
                    asked.call.fail(e)

    def _expire(self, asked: Asked, late: DeadlineError) -> None:
        if not asked.call.is_over:
            asked.call.fail(late)
            self._abort(asked.call_id)

    def _abort(self, call_id: str) -> None:
        """Tell the tokenizer; one that is away has nothing to abort, and its replacement is not sent the call."""
        if self._tokenizer.is_up:
            self._outbox.send("tokenizer", AbortCall(call_id), force=True)

    # --- messages -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Receive for ever; for the owner of a mailbox without an actor around it."""
        while True:
            sender, message = await self._mailbox.receive()
            if isinstance(message, ActorLost):
                self._mailbox.lost(message.actor, message.epoch)
            self.handle(sender, message)

    def handle(self, sender: str, message: Any) -> None:
        """One message of the gateway's inbox. What belongs to no open call is dropped."""
        match message:
            case TextDelta() | Admitted() | Tokenized() | PrefixCacheReset():
                self._put(message)
            case CallFailed():
                if (asked := self._open_calls.get(message.call_id)) is not None:
                    asked.call.fail(error_of(message.error))
            case Hello():
                if message.actor == self._tokenizer.name and self._tokenizer.met(message.epoch):
                    self._ask_again(message.actor)
            case EngineState():
                self.state = message
                if message.state == "failed" and not self._tokenizer.is_up:
                    self._fail_all(message.error or "the engine has failed; see the server's log")
                if self._sink is not None:
                    self._sink.take_state(message)
            case Stats():
                self.stats[message.actor] = message
                if self._sink is not None:
                    self._sink.take(message)
            case ActorLost():
                self._lose(message)
            case _:
                pass

    def _put(self, item: Item) -> None:
        asked = self._open_calls.get(item.call_id)
        if asked is None or asked.call.error is not None:
            return
        asked.call.put(item)
        if asked.call.error is not None:  # a gap: the tokenizer does not know that the call is over
            self._abort(item.call_id)

    def _lose(self, lost: ActorLost) -> None:
        """What the tokenizer had waits for another; what the scheduler was asked goes to the inbox of the next one."""
        if lost.actor == self._tokenizer.name:
            if self._tokenizer.lost(lost.epoch):
                self._outbox.forget(lost.actor)
        else:
            self._ask_again(lost.actor)

    def _give_up(self) -> None:
        """No tokenizer has come for too long."""
        self._fail_all(str(self._tokenizer.why_down()))

    def _fail_all(self, message: str) -> None:
        for asked in self._open_calls.values():
            if asked.to == self._tokenizer.name and not asked.call.is_over:
                asked.call.fail(UnavailableError(message, code="engine_unavailable", retry_after_s=RETRY_AFTER_S))

    def close(self) -> None:
        """Stop all clocks; nothing is sent any more."""
        self._tokenizer.close()
        self._outbox.close()

    # --- an engine of one's own ---------------------------------------------------------------------------------------

    @classmethod
    @asynccontextmanager
    async def launch(
        cls, config: Config, located: Located, card: ModelCard, *, entries: Mapping[str, str] | None = None
    ) -> "AsyncIterator[EngineClient]":
        """An engine without HTTP under this process: ``async with EngineClient.launch(...) as client``.

        Raises:
            PacelineError: the engine could not start; the message is the root cause.
        """
        from .supervisor import Supervisor, private_folder
        from .zmq_mailbox import ZmqMailbox

        failure: BaseException | None = None
        with private_folder() as folder:
            actors = ("tokenizer", "scheduler", "target")
            drafter = find_drafter(config)
            supervisor = Supervisor(config, located, card, actors, folder, entries=entries, drafter=drafter)
            mailbox = ZmqMailbox("gateway", 0, folder)
            client = cls(mailbox, max_waiting=config.scheduler.max_queued_requests)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.run)
                    await tasks.start(supervisor.run)
                    try:
                        yield client
                    except BaseException as e:  # raised again below, not wrapped into a group
                        failure = e
                    tasks.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                failure = root_cause(group)
            finally:
                client.close()
                mailbox.close()
        if failure is not None:
            raise failure
