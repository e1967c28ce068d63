"""The draft actor: a shell around a speculator placed in a process of its own, and the model it drafts with.

The model runs on one worker thread, which takes messages in order and, while there are none, goes on with what may soon
be asked: prompts, and drafts behind its own drafts. A message that does not fit is the speculator's to count; none
ends the actor. Nobody waits for it in vain: every ask is answered, if need be with no drafts. What was asked while a
prompt was read, and asked again behind more tokens since, is such a one: its drafts would come too late.
"""

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio.abc import TaskStatus

from ..engine.core.plan import Drafts
from ..engine.types import RequestId
from ..spec_decode.base import Outcome, ProposeReq, StepBudget
from .actor import Actor, Setup
from .background import run_in_background
from .mailbox import Mailbox, MailboxFull
from .messages import ActorLost, Close, Commit, DraftAsk, Hello, Open, Propose

if TYPE_CHECKING:
    from .draft_load import Loaded

_SCHEDULER = "scheduler"


class Draft(Actor):
    """See the module's docstring."""

    greets = ("supervisor", _SCHEDULER)

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        super().__init__(setup, mailbox)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._context = contextvars.copy_context()  # anyio finds its event loop through it
        self._loaded: Loaded | None = None
        self._num_open = 0
        self._num_answered = 0
        self._num_lives = 0
        """Of the scheduler; what an earlier one asked for is not answered."""
        self._newest: dict[RequestId, tuple[int, int]] = {}
        """Epoch and length of the last ask about each request. Written on the event loop's thread."""

    async def start(self) -> None:
        """Load the model; raises what ``draft_load.load`` raises."""
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads must not spin on the target's cores
        self._loaded = await run_in_background(self._load)  # the engine serves without us meanwhile
        await anyio.to_thread.run_sync(self._loaded.warm_up)
        threading.Thread(target=self._run_work, name="drafts", daemon=True).start()

    def _load(self) -> "Loaded":
        from .draft_load import load

        return load(self.setup.config, self.setup.located, self.setup.card)

    def hello(self) -> Hello:
        """Vocabulary, and seconds of a draft by the number of requests."""
        assert self._loaded is not None
        return msgspec.structs.replace(
            super().hello(),
            vocab_hash=self._loaded.vocab_hash,
            logits_width=self.setup.card.model.vocab_size,
            num_blocks=self._loaded.num_blocks,
            block_size=self.setup.config.cache.block_size,
            detail=self._loaded.facts,
            step_costs=self._loaded.step_costs,
        )

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Ends the actor with whatever broke the model."""
        task_status.started()
        await self._broken

    async def handle(self, sender: str, message: Any) -> None:
        """Everything goes to the worker thread, in order."""
        assert self._loaded is not None
        speculator = self._loaded.speculator
        match message:
            case Open():
                opened = message.request_id, message.token_ids, message.params, message.epoch
                self._work.put(lambda: speculator.open(*opened))
            case Propose():
                self._num_open += 1
                self._newest |= {ask.request_id: (ask.epoch, ask.base_len) for ask in message.asks}
                if self._num_open == 1:
                    self.progress.begin(self._num_answered)
                life = self._num_lives
                self._work.put(lambda: self._propose(message, life))
            case Commit():
                outcome = Outcome(message.request_id, message.epoch, message.start, 0, message.token_ids)
                self._work.put(lambda: speculator.observe([outcome]))
            case Close():
                self._newest.pop(message.request_id, None)
                self._work.put(lambda: speculator.close(message.request_id))
            case ActorLost() if message.actor == _SCHEDULER:
                self._num_lives += 1
                self._newest.clear()
                self._work.put(speculator.close_all)
            case _:
                pass

    async def stop(self) -> None:
        """The worker ends with the process if a step still runs."""
        self._work.put(None)

    # --- on the worker thread -----------------------------------------------------------------------------------------

    def _run_work(self) -> None:
        assert self._loaded is not None
        speculator = self._loaded.speculator
        try:
            while True:
                try:
                    task = self._work.get(block=not speculator.has_work)
                except queue.Empty:
                    self._post(self._send, speculator.work(), self._num_lives)
                    continue
                if task is None:
                    return
                task()
        except BaseException as e:
            self._post(self._break, e)

    def _propose(self, message: Propose, life: int) -> None:
        assert self._loaded is not None
        asks = [ProposeReq(a.request_id, a.epoch, a.base_len, a.delta, self._depth(a)) for a in message.asks]
        depth = max((ask.depth for ask in asks), default=0)
        found = self._loaded.speculator.propose(asks, StepBudget(len(asks), depth, message.deadline_s))
        answered = {drafts.request_id for drafts in found}
        found += [Drafts(a.request_id, a.epoch, a.base_len, []) for a in asks if a.request_id not in answered]
        self._post(self._answer, found, life)

    def _depth(self, ask: DraftAsk) -> int:
        """How many drafts to make; none where the request was asked about again since, but its tokens are taken in."""
        stamp = ask.epoch, ask.base_len
        return ask.depth if self._newest.get(ask.request_id, stamp) <= stamp else 0

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(function, *args, context=self._context)

    # --- on the event loop's thread, called by the worker -------------------------------------------------------------

    def _answer(self, found: list[Drafts], life: int) -> None:
        self._num_open -= 1
        self._num_answered += 1
        if self._num_open:
            self.progress.begin(self._num_answered)
        else:
            self.progress.end()
        self._send(found, life)

    def _send(self, found: list[Drafts], life: int) -> None:
        if found and life == self._num_lives:
            with contextlib.suppress(MailboxFull):  # drafts are disposable
                self.mailbox.send_all(_SCHEDULER, found)

    def _break(self, cause: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(cause)
