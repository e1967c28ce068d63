"""The engine's asynchronous API, for the gateway, ``paceline run``, ``batch``, tests and benchmarks.

It speaks with the tokenizer actor, and with the scheduler about its prefix cache. Every call ends exactly once, with
its last delta or with one PacelineError: also when the tokenizer dies, when text is missing, and when nothing has come
long after the deadline.
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
    PrefixCacheReset,
    ResetPrefixCache,
    Stats,
    TextDelta,
    Tokenize,
    Tokenized,
)

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""The scheduler ends a call at its deadline; this much later we do, whatever became of the scheduler."""
TOKENIZE_S = 60.0
_RETRY_S = 5.0


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

    def __init__(self, mailbox: Mailbox, sink: StatsSink | None = None) -> None:
        self._mailbox = mailbox
        self._sink = sink
        self._calls: dict[str, Call] = {}
        self._aborts: list[str] = []  # that found no room yet
        self._idle = asyncio.Event()
        self.state: EngineState | None = None
        """The supervisor's latest word."""
        self.stats: dict[str, Stats] = {}
        """The latest report of each actor."""

    @property
    def num_open(self) -> int:
        """Calls that have not ended."""
        return len(self._calls)

    async def drained(self) -> None:
        """Return once no call is open."""
        while self._calls:
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
    def _open(
        self, message: Generate | Tokenize | Detokenize | ResetPrefixCache, num_choices: int, timeout_s: float,
        to: str = "tokenizer",
    ) -> Iterator[Call]:  # fmt: skip
        """Send ``message``, collect what belongs to it, and abort it unless it was over on leaving."""
        call_id = message.call_id
        if call_id in self._calls:
            raise ActorError(f"call id {call_id} is in use; choose another")
        self._retry_aborts()
        try:
            self._mailbox.send(to, message)
        except MailboxFull:
            raise UnavailableError(f"the {to}'s queue is full; try again soon", code="queue_full") from None
        call = self._calls[call_id] = Call(num_choices)
        late = DeadlineError(f"no answer within {timeout_s:.0f} s; try again, or ask for less")
        timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, call_id, late)
        try:
            yield call
        finally:
            timer.cancel()
            if self._calls.pop(call_id, None) is not None and not call.is_over:
                self._abort(call_id)
            if not self._calls:
                self._idle.set()

    def _expire(self, call_id: str, late: DeadlineError) -> None:
        if (call := self._calls.get(call_id)) is not None and not call.is_over:
            call.fail(late)
            self._abort(call_id)

    def _abort(self, call_id: str) -> None:
        self._aborts.append(call_id)
        self._retry_aborts()

    def _retry_aborts(self) -> None:
        """Send the aborts that are due; a full mailbox keeps them for the next message that comes or goes."""
        while self._aborts:
            try:
                self._mailbox.send("tokenizer", AbortCall(self._aborts[0]))
            except MailboxFull:
                return
            self._aborts.pop(0)

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
                if (call := self._calls.get(message.call_id)) is not None:
                    call.fail(error_of(message.error))
            case EngineState():
                self.state = message
                if self._sink is not None:
                    self._sink.take_state(message)
            case Stats():
                self.stats[message.actor] = message
                if self._sink is not None:
                    self._sink.take(message)
            case ActorLost() if message.actor.startswith("tokenizer"):
                self._fail_all()
            case _:
                pass
        if self._aborts:
            self._retry_aborts()

    def _put(self, item: Item) -> None:
        call = self._calls.get(item.call_id)
        if call is None or call.error is not None:
            return
        call.put(item)
        if call.error is not None:  # a gap: the tokenizer does not know that the call is over
            self._abort(item.call_id)

    def _fail_all(self) -> None:
        for call in self._calls.values():
            if not call.is_over:
                call.fail(
                    UnavailableError(
                        "the tokenizer process died; send the request again",
                        code="engine_unavailable",
                        retry_after_s=_RETRY_S,
                    )
                )

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
            client = cls(mailbox)
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
                mailbox.close()
        if failure is not None:
            raise failure
