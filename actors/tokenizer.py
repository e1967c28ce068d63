"""The tokenizer actor: text to ids on the way in, ids to text on the way out; around ``text/`` and ``choice.py``.

A call becomes one request for each choice. It is admitted when the scheduler has taken them all; until then its deltas
are kept. It ends when each choice has had its last delta, or with one ``CallFailed``; either way nothing of it stays.
When the scheduler dies, calls stay open: another one gets their prompts and the output that has come.
Conversations and long prompts are encoded in a worker thread, so that they hold up no other call's text; the chat
template runs in a process that can be killed.

It knows nothing of HTTP, blocks or devices.
"""

import asyncio
import logging
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from ..engine.core.plan import RequestOutput
from ..engine.errors import ActorError, InvalidRequestError, PacelineError, UnavailableError
from ..engine.types import ErrorInfo, RequestId
from .actor import Actor, Setup, describe
from .choice import Choice, MissingTokens
from .mailbox import Mailbox, MailboxFull
from .messages import (
    Abort,
    AbortCall,
    ActorLost,
    Add,
    Added,
    Admitted,
    CallFailed,
    Detokenize,
    EngineState,
    Generate,
    Hello,
    Refused,
    Stats,
    Tokenize,
    Tokenized,
)
from .neighbour import Neighbour
from .open_call import OpenCall, check_size
from .outbox import Outbox
from .output_format import format_of
from .text import load_tokenizer
from .text.convert import Converter
from .text.model_defaults import with_stops
from .text.prompt import Prompt, PromptEncoder, num_chars_to_encode
from .text.response.reader import OutputReader
from .text.sampling import SamplingResolver, Sizes
from .text.template_process import TemplateProcess
from .text.token_bytes import TokenBytes

log = logging.getLogger(__name__)

_INLINE_CHARS = 20_000
"""More than this is encoded in a worker thread (20,000 characters take some 5 ms)."""
_MAX_WAITING = 16_384
"""Messages kept for a peer whose mailbox is full."""
_RETRY_AFTER_S = 2.0
_STEPS_AHEAD = 4
"""Steps' worth of prompts that a call for vectors has in the scheduler: twice what may be in flight."""


class Tokenizer(Actor):
    """See the module's docstring."""

    greets = ("supervisor", "scheduler", "gateway")

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        super().__init__(setup, mailbox)
        self._outbox = Outbox(mailbox, _MAX_WAITING)
        self._scheduler = Neighbour("scheduler", setup.epochs.get("scheduler", 0), self._give_up)
        self._calls: dict[str, OpenCall] = {}
        self._call_of: dict[RequestId, OpenCall] = {}
        self._idle = asyncio.Event()
        self._tasks: TaskGroup | None = None
        self._threads = anyio.CapacityLimiter(2)
        self._num_messages = 0
        self._num_repairs = 0
        model, asked = setup.card.model, setup.config.target.max_model_len
        context = min(asked, model.max_position) if asked else model.max_position
        self._sizes = Sizes(context, model.vocab_size)
        self._failure: str | None = None
        self._template: TemplateProcess | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the tokenizer and compile the chat template."""
        card, pooling = self.setup.card, self.setup.config.target.pooling
        if pooling != "auto":
            card = msgspec.structs.replace(card, pooling=pooling)
        if card.chat_template:  # it compiles while the tokenizer is loaded
            self._template = TemplateProcess(card.chat_template)
        try:
            self._tokenizer = load_tokenizer.load(card.tokenizer)
            if self._template is not None:
                await anyio.to_thread.run_sync(self._template.check)
        except BaseException:
            self._close_template()
            raise
        self._tokens = TokenBytes(self._tokenizer)
        self._encoder = PromptEncoder(self._tokenizer, card, self._template)
        self._converter = Converter(self._tokenizer, self._encoder)
        self._resolver = SamplingResolver(self._tokenizer, card)
        special = ((i, self._tokenizer.id_to_token(i) or "") for i in self._tokens.special_ids)
        self._reader = OutputReader(format_of(card, self.setup.config), special)

    def hello(self) -> Hello:
        detail = {
            "tokenizer": f"{self._tokenizer.get_vocab_size()} tokens from {self.setup.card.tokenizer.kind}",
            "tool calls": self._reader.name,
        }
        return msgspec.structs.replace(super().hello(), detail=detail)

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Home of the tasks that encode in worker threads."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.to_thread.run_sync(self._encoder.warm_up)
            await anyio.sleep_forever()

    async def drain(self) -> None:
        """Wait until no call is open and everything is sent."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()
        while not self._outbox.is_empty:
            await anyio.sleep(0.005)

    async def stop(self) -> None:
        self._scheduler.close()
        self._outbox.close()
        self._close_template()

    def _close_template(self) -> None:
        if self._template is not None:
            self._template.close()

    def stats(self) -> Stats | None:
        return Stats(self.name, self.epoch, {"detokenize_repairs": self._num_repairs})

    # --- messages -----------------------------------------------------------------------------------------------------

    async def handle(self, sender: str, message: Any) -> None:
        """One message; a fault in it ends the call it belongs to, never the actor."""
        self._num_messages += 1
        self.progress.begin(self._num_messages)
        try:
            match message:
                case RequestOutput():
                    self._put(message)
                case Generate():
                    self._begin(sender, message)
                case Added():
                    self._added(message.request_id)
                case Refused():
                    self._fail_request(message.request_id, message.error)
                case AbortCall():
                    self._end(message.call_id)
                case Tokenize() | Detokenize():
                    self._convert(sender, message)
                case EngineState():
                    self._note_state(message)
                case Hello():
                    self._meet(message)
                case ActorLost():
                    self._lose(message)
                case _:
                    pass  # Drain: the base calls drain()
        finally:
            self.progress.end()

    # --- a call comes in ----------------------------------------------------------------------------------------------

    def _begin(self, sender: str, generate: Generate) -> None:
        call_id = generate.call_id
        if call_id in self._calls:
            log.warning("call %s is open already: its repetition is dropped", call_id)
            return
        try:
            check_size(generate)
        except InvalidRequestError as e:
            self._reply(sender, CallFailed(call_id, e.info()))
            return
        was_admitted = generate.again is not None and generate.again.was_admitted
        if (error := self._why_not()) is not None and not (was_admitted and error.code == "queue_full"):
            self._reply(sender, CallFailed(call_id, error.info()))
            return
        generate = with_stops(generate, self.setup.card)
        call = self._calls[call_id] = OpenCall(sender, generate, anyio.current_time())
        if self._tasks is None or _is_quick(generate):
            self._encode(call)
        else:
            self._tasks.start_soon(self._encode_in_thread, call)

    def _why_not(self) -> UnavailableError | None:
        if self._failure is not None:
            return UnavailableError(self._failure, code="engine_unavailable", retry_after_s=_RETRY_AFTER_S)
        if self.draining:
            return UnavailableError("the server is shutting down; try again soon", code="draining")
        if self._scheduler.is_late:
            return self._scheduler.why_down()
        if not self._scheduler.is_up:
            num_waiting = sum(call.num_waiting for call in self._calls.values())
            if num_waiting >= self.setup.config.scheduler.max_queued_requests:
                what = f"{num_waiting} requests wait for the scheduler to come back, as many as max_queued_requests"
                return UnavailableError(f"{what}; try again soon", code="queue_full", retry_after_s=_RETRY_AFTER_S)
        return None

    def _encode(self, call: OpenCall) -> None:
        try:
            self._add_all(call, self._encoder.encode_call(call.generate, self._sizes.max_model_len))
        except Exception as e:
            self._fail(call, _info(e))

    async def _encode_in_thread(self, call: OpenCall) -> None:
        try:
            arguments = (call.generate, self._sizes.max_model_len)
            prompts = await anyio.to_thread.run_sync(self._encoder.encode_call, *arguments, limiter=self._threads)
            if self._calls.get(call.generate.call_id) is call:  # else it was aborted meanwhile
                self._add_all(call, prompts)
        except Exception as e:
            self._fail(call, _info(e))

    def _add_all(self, call: OpenCall, prompts: list[Prompt]) -> None:
        """Send the requests of a call to the scheduler.

        Raises:
            InvalidRequestError: they exceed a bound.
            UnavailableError: the scheduler's mailbox is full.
        """
        now_s = anyio.current_time()
        call.backlog.extend(call.requests(prompts, self._resolver, self._tokens, self._sizes, now_s, self._reader))
        self._add_more(call)

    def _add_more(self, call: OpenCall) -> None:
        """Send what the scheduler may get of a call now, if it is there; see ``OpenCall.next_adds``."""
        if not self._scheduler.is_up:
            return
        limits = self.setup.config.scheduler
        adds = call.next_adds(limits.max_num_seqs, _STEPS_AHEAD * limits.max_num_batched_tokens)
        for add in adds:
            self._call_of[add.request_id] = call
            call.not_added.add(add.request_id)
        self._send(adds)

    def _send(self, adds: list[Add]) -> None:
        try:
            for add in adds:
                self._outbox.send("scheduler", add)
        except MailboxFull as e:
            raise UnavailableError(f"the scheduler is overloaded: {e}; try again soon", code="queue_full") from e

    def _added(self, request_id: RequestId) -> None:
        call = self._call_of.get(request_id)
        if call is None:
            return
        call.not_added.discard(request_id)
        if not call.not_added and not call.is_admitted:
            call.is_admitted = True
            self._reply(call.sender, Admitted(call.generate.call_id, call.prompts))
            for delta in call.held:
                self._reply(call.sender, delta)
            call.held.clear()
            self._forget_if_over(call)

    # --- text goes out ------------------------------------------------------------------------------------------------

    def _put(self, output: RequestOutput) -> None:
        call = self._call_of.get(output.request_id)
        choice = call.choices.get(output.request_id) if call is not None else None
        if call is None or choice is None:
            return  # what was aborted may still be on its way
        if output.request_id in call.not_added:  # its Added was lost
            self._added(output.request_id)
        try:
            if output.error is not None:
                self._fail(call, output.error)
                return
            if output.finish_reason in ("abort", "error"):
                what = f"request {output.request_id} was ended by the engine; send the call again"
                raise UnavailableError(what, code="engine_unavailable", retry_after_s=_RETRY_AFTER_S)
            delta = choice.apply(output)
            if choice.is_done:
                self._drop(call, choice, abort=output.finish_reason is None)
                if call.backlog:
                    self._add_more(call)
            if delta is not None and not call.is_admitted:
                call.held.append(delta)
            elif delta is not None:
                self._outbox.send(call.sender, delta)
            self._forget_if_over(call)
        except Exception as e:
            self._fail(call, _info(e))

    def _drop(self, call: OpenCall, choice: Choice, *, abort: bool) -> None:
        self._num_repairs += choice.num_repairs
        del call.choices[choice.request_id]
        call.ended(choice.request_id)
        if call.is_admitted:
            del self._call_of[choice.request_id]
        if abort:
            self._outbox.send("scheduler", Abort(choice.request_id), force=True)

    # --- a call ends --------------------------------------------------------------------------------------------------

    def _forget_if_over(self, call: OpenCall) -> None:
        if call.is_admitted and not call.choices:
            self._forget(call)

    def _forget(self, call: OpenCall) -> None:
        call_id, n = call.generate.call_id, call.generate.n
        self._calls.pop(call_id, None)
        for i in range(max(1, len(call.prompts)) * n):
            self._call_of.pop(f"{call_id}-{i}", None)
        if not self._calls:
            self._idle.set()

    def _end(self, call_id: str) -> None:
        """Abort what is left of a call and forget it."""
        call = self._calls.get(call_id)
        if call is None:
            return
        for choice in list(call.choices.values()):
            self._drop(call, choice, abort=choice.request_id in self._call_of)
        self._forget(call)

    def _fail(self, call: OpenCall, error: ErrorInfo) -> None:
        if self._calls.get(call.generate.call_id) is call:
            self._end(call.generate.call_id)
            self._reply(call.sender, CallFailed(call.generate.call_id, error))

    def _fail_request(self, request_id: RequestId, error: ErrorInfo) -> None:
        if (call := self._call_of.get(request_id)) is not None:
            self._fail(call, error)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _convert(self, sender: str, message: Tokenize | Detokenize) -> None:
        if self._tasks is None or _is_quick(message):
            self._reply(sender, self._converted(message))
        else:
            self._tasks.start_soon(self._convert_in_thread, sender, message)

    async def _convert_in_thread(self, sender: str, message: Tokenize | Detokenize) -> None:
        self._reply(sender, await anyio.to_thread.run_sync(self._converted, message, limiter=self._threads))

    def _converted(self, message: Tokenize | Detokenize) -> Tokenized | CallFailed:
        try:
            return self._converter.convert(message, self._sizes.logits_width)
        except Exception as e:
            return CallFailed(message.call_id, _info(e))

    def _note_state(self, state: EngineState) -> None:
        hello = state.hello
        if hello is not None and hello.max_model_len > 0 and hello.logits_width > 0:
            self._sizes = Sizes(hello.max_model_len, hello.logits_width)
        self._failure = None
        if state.state == "failed":
            self._failure = state.error or "the engine has failed; see the server's log"
            self._fail_all(self._failure)

    def _lose(self, lost: ActorLost) -> None:
        if lost.actor == self._scheduler.name:
            if self._scheduler.lost(lost.epoch):
                self._outbox.forget(lost.actor)
            return
        for call in [c for c in self._calls.values() if c.sender == lost.actor]:  # nobody listens any more
            self._end(call.generate.call_id)
        self._outbox.forget(lost.actor)

    def _meet(self, hello: Hello) -> None:
        """A scheduler can work: one in place of another gets all requests, behind the output that has come."""
        if hello.actor != self._scheduler.name or not self._scheduler.met(hello.epoch):
            return
        self._outbox.forget(hello.actor)
        for call in list(self._calls.values()):
            try:
                self._send(call.adds_again(anyio.current_time()))
                self._add_more(call)
            except Exception as e:
                self._fail(call, _info(e))

    def _give_up(self) -> None:
        """No scheduler has come for too long."""
        self._fail_all(str(self._scheduler.why_down()))

    def _fail_all(self, message: str) -> None:
        error = UnavailableError(message, code="engine_unavailable", retry_after_s=_RETRY_AFTER_S).info()
        for call in list(self._calls.values()):
            self._fail(call, error)

    def _reply(self, to: str, message: Any) -> None:
        """Send what is not text and so has no other bound: at most two such messages for each call."""
        self._outbox.send(to, message, force=True)


def _is_quick(message: Generate | Tokenize | Detokenize) -> bool:
    """Whether it is turned into ids at once: nobody waits for a chat template, which may take its whole time."""
    return getattr(message, "chat", None) is None and num_chars_to_encode(message) <= _INLINE_CHARS


def _info(error: Exception) -> ErrorInfo:
    """An exception as the client sees it; the unexpected ones are logged."""
    match error:
        case PacelineError():
            return error.info()
        case MissingTokens():
            return ActorError(f"{error}; send the call again").info()
        case MailboxFull():
            what = "the gateway does not take its text"
            return UnavailableError(f"{what}: {error}; read faster", code="engine_unavailable").info()
        case _:
            log.error("a call failed", exc_info=error)
            return describe(error)
