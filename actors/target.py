"""The target actor: a thin shell around ``Runner``, one process a device.

Steps run on one worker thread, back to back, while the event loop goes on reading plans and reporting progress; both
sleep when there is nothing to do. torch is imported on that thread too, while the weight files are read into memory.
Grammars are compiled on threads of their own, which step aside for all others.
"""

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio.abc import TaskStatus

from ..engine.core.plan import StepPlan, StepResult
from ..engine.execution.grammar import step_aside
from ..engine.store import vocabulary
from .actor import Actor, Setup
from .mailbox import Mailbox
from .messages import ActorLost, Compile, Compiled, Hello

if TYPE_CHECKING:
    from .target_load import Loaded


_NUM_COMPILERS = 2
"""One more than a single client needs to keep others from compiling."""


class Target(Actor):
    """See the module's docstring."""

    greets = ("supervisor", "scheduler")

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        super().__init__(setup, mailbox)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._idle = asyncio.Event()
        self._idle.set()
        self._context = contextvars.copy_context()  # anyio finds its event loop through it
        self._num_open = 0
        self._scheduler_lives = 0
        """Plans of an earlier life of the scheduler are neither run nor answered."""
        self._loaded: Loaded | None = None
        self._compilers: ThreadPoolExecutor | None = None
        self._vocab_hash = ""

    async def start(self) -> None:
        """Load the model; raises what ``target_load.load`` raises."""
        # torch's own threads would spin for milliseconds after each operation, on cores that other actors need.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        _read_ahead(self.setup.located.files)
        threading.Thread(target=self._run_work, name="steps", daemon=True).start()
        loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self._work.put(lambda: self._load(loaded))
        self._vocab_hash = (await anyio.to_thread.run_sync(vocabulary.read, self.setup.card.tokenizer)).fingerprint
        self._loaded = await loaded

    def hello(self) -> Hello:
        """Sizes of the pool, width of the logits, and facts for people."""
        assert self._loaded is not None
        sizes = self._loaded.sizes
        return msgspec.structs.replace(
            super().hello(),
            vocab_hash=self._vocab_hash,
            logits_width=self.setup.card.model.vocab_size,
            num_blocks=sizes.num_blocks,
            block_size=self.setup.config.cache.block_size,
            max_model_len=sizes.max_model_len,
            detail=self._loaded.facts,
            step_costs=self._loaded.step_costs,
            draft_costs=self._loaded.draft_costs,
        )

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Ends the actor with whatever broke a step as a whole."""
        task_status.started()
        await self._broken

    async def handle(self, sender: str, message: Any) -> None:
        """A plan goes to the worker thread; a lost scheduler takes its requests with it."""
        match message:
            case StepPlan():
                self._num_open += 1
                self._idle.clear()
                life = self._scheduler_lives
                self._work.put(lambda: self._step(sender, message, life))
            case Compile():
                self._compile(sender, message)
            case ActorLost() if message.actor == "scheduler":
                self._scheduler_lives += 1
                self._work.put(self._forget)
            case _:
                pass

    async def drain(self) -> None:
        """What was planned is answered first."""
        await self._idle.wait()

    async def stop(self) -> None:
        """The worker ends with the process if a step still runs."""
        self._work.put(None)
        if self._compilers is not None:
            self._compilers.shutdown(wait=False, cancel_futures=True)

    # --- on the event loop's thread, called by the worker -------------------------------------------------------------

    def _begun(self, step: int) -> None:
        self.progress.begin(step)

    def _ended(self, to: str, result: StepResult | None, life: int) -> None:
        self._num_open -= 1
        if not self._num_open:
            self._idle.set()
            self.progress.end()
        if result is not None and life == self._scheduler_lives:
            try:
                self.mailbox.send(to, result)
            except Exception as e:
                self._break(e)

    def _compile(self, sender: str, asked: Compile) -> None:
        """Answered at once where it is known; where there is no grammar engine the request's first step says so."""
        grammars = self._loaded.grammars if self._loaded is not None else None
        if grammars is None or grammars.is_kept(asked.grammar):
            self.mailbox.send(sender, Compiled(asked.key))
            return
        if self._compilers is None:
            self._compilers = ThreadPoolExecutor(_NUM_COMPILERS, "compile", step_aside)
        work = self._loop.run_in_executor(self._compilers, grammars.fault, asked.grammar)
        life = self._scheduler_lives
        work.add_done_callback(lambda done: self._compiled(sender, asked.key, done, life))

    def _compiled(self, sender: str, key: str, done: asyncio.Future[str], life: int) -> None:
        if life != self._scheduler_lives:
            return  # another scheduler may use the same key for another grammar
        try:
            self.mailbox.send(sender, Compiled(key, done.result()))
        except Exception as e:
            self._break(e)

    def _break(self, cause: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(cause)

    # --- on the worker thread -----------------------------------------------------------------------------------------

    def _run_work(self) -> None:
        while (task := self._work.get()) is not None:
            try:
                task()
            except BaseException as e:
                self._call(self._break, e)
                return

    def _load(self, loaded: "asyncio.Future[Loaded]") -> None:
        try:
            from .target_load import load

            found = load(self.setup.config, self.setup.located, self.setup.card)
        except BaseException as e:
            self._call(_settle, loaded, None, e)
        else:
            self._call(_settle, loaded, found, None)

    def _step(self, sender: str, plan: StepPlan, life: int) -> None:
        assert self._loaded is not None
        result = None
        if life == self._scheduler_lives:
            self._call(self._begun, plan.step)
            result = self._loaded.runner.run(plan)
        self._call(self._ended, sender, result, life)

    def _forget(self) -> None:
        assert self._loaded is not None
        self._loaded.runner.forget()

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(function, *args, context=self._context)


def _settle(loaded: "asyncio.Future[Loaded]", found: "Loaded | None", error: BaseException | None) -> None:
    if loaded.done():
        return
    if error is not None:
        loaded.set_exception(error)
    elif found is not None:
        loaded.set_result(found)


def _read_ahead(files: list[str]) -> None:
    """Ask the system to have weight files in memory by the time they are mapped; a hint, so failures do not matter."""
    if not hasattr(os, "posix_fadvise"):
        return
    for name in files:
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(fd)
