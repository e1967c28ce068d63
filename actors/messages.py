"""Every wire Struct that the core does not define, and one union per inbox.

Rules: fields are only added at the end, with a default; no field names a class, function, file or shared memory; token
ids travel, tensors never do. What the core defines (``StepPlan``, ``StepResult``, ``Drafts``, ``RequestOutput``) is in
``engine.core.plan``.

Who talks to whom::

    gateway <-> tokenizer <-> scheduler <-> target, draft
       ^            ^             ^          ^
       +------------+-- supervisor ----------+     (Hello, Heartbeat, Failed up; Stop, Drain, ActorLost down)
       +--------------------------+                (ResetPrefixCache, PrefixCacheReset)
    every actor -> gateway: Stats; an actor -> who sends it work, and target -> scheduler: Hello
"""

from typing import Any, Literal, TypeAlias

import msgspec

from ..engine.core.plan import Drafts, RequestOutput, StepPlan, StepResult
from ..engine.types import (
    ErrorInfo,
    FinishReason,
    RequestId,
    SamplingParams,
    SpeculationControl,
    SpeculationStats,
)

PROTOCOL_VERSION = 1


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True, omit_defaults=True):
    """Base of all wire messages."""


# --- life of an actor -------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of an actor to the supervisor, and to the neighbours that send it work, when it can work."""

    actor: str
    pid: int
    epoch: int
    """Start count of this actor, from 0; a higher one replaces a lower one."""
    protocol_version: int = PROTOCOL_VERSION
    vocab_hash: str = ""
    logits_width: int = 0
    num_blocks: int = 0
    """KV blocks of the target's pool."""
    block_size: int = 0
    max_model_len: int = 0
    detail: dict[str, str] = {}
    """Facts for people: device, dtype, kernels chosen, load seconds."""
    step_costs: list[tuple[int, float]] = []
    """Rows of a step and its measured seconds, rows rising; empty where speculation is not configured."""
    draft_costs: list[tuple[int, float]] = []
    """Of a target with a head beside it: requests and measured seconds of one draft for each, requests rising."""


class Heartbeat(Message, frozen=True):
    """Progress, sent once a second and when busy changes. A busy actor whose ``step`` stands still is stuck."""

    actor: str
    epoch: int
    step: int
    busy: bool
    step_age_s: float
    """Seconds since the current step began; 0 when idle."""


class Failed(Message, frozen=True):
    """An actor's last words; ``error.message`` is the root cause."""

    actor: str
    epoch: int
    error: ErrorInfo


class Stop(Message, frozen=True):
    """End now."""


class Drain(Message, frozen=True):
    """Finish what runs, take nothing new."""

    hands_over: bool = False
    """Another server accepts connections in our place: those that are open already are still served."""


class ActorLost(Message, frozen=True):
    """``actor`` died or was replaced; state kept for it is void."""

    actor: str
    epoch: int


class ActorState(msgspec.Struct, frozen=True, array_like=True):
    """One actor as the supervisor sees it."""

    name: str
    state: Literal["starting", "ok", "stalled", "lost", "failed"]
    pid: int
    restarts: int
    idle_s: float
    error: str | None


class EngineState(Message, frozen=True):
    """Supervisor -> gateway and tokenizer: the truth for /health and /ready."""

    state: Literal["starting", "ok", "degraded", "recovering", "draining", "failed"]
    actors: list[ActorState]
    error: str | None = None
    hello: Hello | None = None
    """The target's, once known."""


class Stats(Message, frozen=True):
    """Counters and gauges of one actor, cumulative, for the gateway's metrics registry."""

    actor: str
    epoch: int
    values: dict[str, float]
    """Counters and gauges by metric name without prefix."""
    observations: dict[str, list[float]] = {}
    """Histogram samples since the last report, at most 4096 a name."""


# --- gateway <-> tokenizer --------------------------------------------------------------------------------------------


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling fields as a client gave them; None = the model's default. Names and ranges: the HTTP interface."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int = 0
    """Always set: the gateway draws one when the client gives none."""
    stop: list[str] = []
    include_stop_str_in_output: bool = False
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    grammar: str = ""
    """As in ``SamplingParams``: compiled once already, so it is sound."""


class Chat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation to be rendered through the model's chat template."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: dict[str, Any] = {}


class Embed(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A wish for vectors instead of text; the model says how its prompts are pooled."""

    dimensions: int = 0
    """0 = the model's own."""


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a chat's output is read: as reasoning, tool calls and content, in the model's own format."""

    tools: list[dict[str, Any]] = []
    """Those that may be called. With none, calls are not looked for."""
    reads_reasoning: bool = True
    hides_reasoning: bool = False
    """It is looked for and left out."""
    is_plain_json: bool = False
    """Calls come as bare JSON objects, whatever the model's own format is."""
    max_calls: int = 0
    """Most calls; the output ends behind the last one. 0 = no bound."""
    grammar_in_thought: str = ""
    """In place of ``Sampling.grammar`` where the prompt ends within the model's reasoning."""


class Again(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a call has behind it that is sent once more, because who had it died."""

    num_replays: int
    """Times that it was sent again, this one included."""
    was_admitted: bool = False
    """It was taken once, and so it is again, however long the queue is."""
    ended: list[int] = []
    """Choices whose last delta has arrived: they are not computed again."""


class Generate(Message, frozen=True):
    """One call. Exactly one of ``prompts`` and ``chat`` is set. Choices = prompts x n, index = prompt * n + i."""

    call_id: str
    sampling: Sampling
    prompts: list[str | list[int]] | None = None
    chat: Chat | None = None
    n: int = 1
    add_special_tokens: bool = True
    echo: bool = False
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    priority: int = 0
    cache_salt: str = ""
    timeout_s: float = 600.0
    return_token_ids: bool = False
    speculation: SpeculationControl | None = None
    prediction: str = ""
    """Text the client expects to get."""
    until_full: bool = False
    """Without ``max_tokens``, go on until the context is full, as a chat does."""
    embed: Embed | None = None
    """Each choice is one vector, in its only delta; of ``sampling`` nothing is read."""
    reading: Reading | None = None
    """None: the output is content as it is."""
    again: Again | None = None
    """None: the first time."""


class AbortCall(Message, frozen=True):
    """The client went away, or its deadline passed: end all requests of the call."""

    call_id: str


class Tokenize(Message, frozen=True):
    """Encode a text or a conversation; answered by ``Tokenized``."""

    call_id: str
    prompt: str | None = None
    chat: Chat | None = None
    add_special_tokens: bool = True


class Detokenize(Message, frozen=True):
    """Decode ids; answered by ``Tokenized``."""

    call_id: str
    token_ids: list[int]


class Tokenized(Message, frozen=True):
    """Answer to Tokenize and Detokenize."""

    call_id: str
    token_ids: list[int]
    token_strs: list[str]
    text: str = ""


class TextLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One token with its log-probability, as text."""

    token_id: int
    text: str
    raw: bytes
    """The token's exact bytes; ``text`` shows incomplete UTF-8 as U+FFFD."""
    logprob: float
    rank: int


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The token at one position and its alternatives, most likely first."""

    chosen: TextLogprob
    top: list[TextLogprob]


class PromptInfo(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a prompt became."""

    num_tokens: int
    token_ids: list[int] | None = None
    text: str | None = None
    """Set when echo asks for it."""


class Admitted(Message, frozen=True):
    """All requests of the call are in the scheduler; deltas follow."""

    call_id: str
    prompts: list[PromptInfo]


class CallFailed(Message, frozen=True):
    """The call ends here: refused before admission, or failed after. Nothing of it follows."""

    call_id: str
    error: ErrorInfo


class Part(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A piece of a message that is more than text. The text of a ``call`` is the tool's name, of ``arguments`` JSON."""

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str
    index: int = 0
    """Of the call, from 0."""


class TextDelta(Message, frozen=True):
    """More output of one choice. ``offset`` counts characters told before this delta, see ``num_chars``.

    Exactly one delta per choice has a ``finish_reason`` and it is that choice's last.
    """

    call_id: str
    index: int
    offset: int
    text: str
    num_tokens: int
    """Output tokens so far, this delta's included."""
    token_ids: list[int] = []
    logprobs: list[PositionLogprobs] | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached: int = 0
    queue_s: float = 0.0
    speculation: SpeculationStats | None = None
    """On the last delta, where speculation ran."""
    embedding: bytes | None = None
    """Of a call with ``embed``: the prompt's vector, fp32, little-endian."""
    parts: list[Part] = []
    """Where there is more than content: all that is new, in order. ``text`` is its content."""
    num_reasoning: int = 0
    """Output tokens so far that are reasoning."""

    @property
    def num_chars(self) -> int:
        """Characters that it tells."""
        return sum(len(p.text) for p in self.parts) if self.parts else len(self.text)

    @property
    def pieces(self) -> list[Part]:
        """What it tells, in order."""
        return self.parts or ([Part("content", self.text)] if self.text else [])


# --- gateway <-> scheduler --------------------------------------------------------------------------------------------


class ResetPrefixCache(Message, frozen=True):
    """Have no later request find what was computed so far; answered by ``PrefixCacheReset``."""

    call_id: str


class PrefixCacheReset(Message, frozen=True):
    """It is done."""

    call_id: str
    num_blocks: int
    """Blocks that could have been found."""


# --- tokenizer <-> scheduler ------------------------------------------------------------------------------------------


class Add(Message, frozen=True):
    """Put a request into the queue; answered by ``Added`` or ``Refused``.

    ``output_ids`` is not empty when a request is added again after the scheduler died: it goes on behind them. When the
    tokenizer died they are unknown: then ``Added`` is followed by the output so far of a request that lives.
    """

    request_id: RequestId
    prompt_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    fork_of: RequestId | None = None
    """Choice 0 of the same prompt: wait for its prompt to be computed and share the blocks."""
    output_ids: list[int] = []
    deadline_s: float = 600.0
    speculation: SpeculationControl | None = None
    prediction_ids: list[int] = []
    """What the client expects to get, for speculators that look text up."""
    is_again: bool = False
    """It was taken before, by a process that died or for one; no bound of the queue counts for it."""


class Added(Message, frozen=True):
    """The request is queued."""

    request_id: RequestId


class Refused(Message, frozen=True):
    """The request was not taken."""

    request_id: RequestId
    error: ErrorInfo


class Abort(Message, frozen=True):
    """End a request; unknown ids are ignored."""

    request_id: RequestId


# --- scheduler <-> target: plans and results are in engine.core.plan --------------------------------------------------


class Compile(Message, frozen=True):
    """A request under this grammar is about to come: have it ready, beside the steps."""

    key: str
    """Of the answer."""
    grammar: str


class Compiled(Message, frozen=True):
    """The grammar is ready, or why it never will be."""

    key: str
    error: str = ""


# --- scheduler <-> draft ----------------------------------------------------------------------------------------------


class Open(Message, frozen=True):
    """A request to draft for, from its beginning or anew. No answer."""

    request_id: RequestId
    epoch: int
    token_ids: list[int]
    """Prompt and output so far."""
    params: SamplingParams


class DraftAsk(msgspec.Struct, frozen=True, array_like=True):
    """Drafts wanted behind the ``base_len`` committed tokens of a request."""

    request_id: RequestId
    epoch: int
    base_len: int
    delta: list[int]
    """Committed since the last message about it."""
    depth: int


class Propose(Message, frozen=True):
    """Ask for drafts for several requests at once; each ask is answered by one ``Drafts``, empty if need be."""

    asks: list[DraftAsk]
    deadline_s: float = 0.0
    """Seconds; 0 = none."""


class Commit(Message, frozen=True):
    """Committed tokens from position ``start`` on, told while no drafts are wanted. No answer."""

    request_id: RequestId
    epoch: int
    start: int
    token_ids: list[int]


class Close(Message, frozen=True):
    """The request has ended. No answer."""

    request_id: RequestId


TokenizerInbox: TypeAlias = (
    Generate
    | AbortCall
    | Tokenize
    | Detokenize
    | Added
    | Refused
    | RequestOutput
    | Hello
    | EngineState
    | ActorLost
    | Drain
    | Stop
)
SchedulerInbox: TypeAlias = (
    Add | Abort | Compiled | Drafts | StepResult | Hello | ResetPrefixCache | ActorLost | Drain | Stop
)
DraftInbox: TypeAlias = Open | Propose | Commit | Close | ActorLost | Drain | Stop
TargetInbox: TypeAlias = StepPlan | Compile | ActorLost | Drain | Stop
GatewayInbox: TypeAlias = (
    Admitted
    | CallFailed
    | TextDelta
    | Tokenized
    | PrefixCacheReset
    | Hello
    | EngineState
    | Stats
    | ActorLost
    | Drain
    | Stop
)
SupervisorInbox: TypeAlias = Hello | Heartbeat | Failed
