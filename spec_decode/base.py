"""What the plug-in files of this package provide: speculators and acceptance rules. No torch here.

A speculator proposes and is told what was committed; it never sees a plan, a block or another speculator. Whatever it
does, the text stays the same under the coupled rule: it can only make a step worth more tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec

from ..engine.core.plan import Drafts
from ..engine.types import RequestId, SamplingParams

if TYPE_CHECKING:
    from ..engine.execution.acceptance import Rule

Placement: TypeAlias = Literal["scheduler", "process", "target"]
"""Where a method runs: inside the scheduler process (no torch), in a draft actor of its own, or beside the target."""


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What a speculator needs and can do."""

    needs: frozenset[str] = frozenset({"tokens"})
    """``tokens``, ``hidden:<layer ids>``, ``logits_topk``."""
    q: Literal["none", "sparse", "full"] = "none"
    """What comes with a draft. none = drafts are deterministic, or drawn with the shared noise."""
    topology: Literal["chain", "tree"] = "chain"
    max_tokens: int
    """Most drafts for a request and step; nodes, for a tree."""
    lookahead_slots: int
    """Extra KV slots of the target for each request: depth, or tree nodes."""
    draft_ahead: bool = False
    """Can work while the target verifies."""
    seeded: bool = False
    """Draws with the shared noise of the coupled rule."""


class ProposeReq(msgspec.Struct, frozen=True, array_like=True):
    """Ask for drafts behind the ``base_len`` committed tokens of a request."""

    request_id: RequestId
    epoch: int
    base_len: int
    delta: list[int]
    """Committed since the last ``Outcome`` or ``ProposeReq``; empty where ``observe`` was called first."""
    depth: int
    """Most drafts."""
    temperature: float = 0.0
    seed: int = 0


class StepBudget(msgspec.Struct, frozen=True, array_like=True):
    """Bounds of one ``propose`` over all its requests."""

    max_rows: int
    max_depth: int
    deadline_s: float = 0.0
    """Seconds from now; 0 = none."""


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What one step, or several at depth 0, committed to a request."""

    request_id: RequestId
    epoch: int
    base_len: int
    """Committed tokens before these."""
    num_accepted: int
    committed: list[int]
    path: list[int] = []
    """Accepted nodes of a tree."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a speculator is built for."""

    vocab_size: int
    """Width of the target's logits."""
    max_model_len: int
    max_num_seqs: int
    max_draft_tokens: int


class ModelContext(Context, frozen=True, kw_only=True):
    """What a speculator in a process of its own is built for, and the model that was loaded there for it."""

    model: Any
    """``engine.nn.model.Model``."""
    kv: Any
    """``engine.nn.model.KVCache``, all of it this speculator's."""
    device: str = "cpu"
    num_ids: int
    """Ids that the tokenizer knows; logits may be wider."""
    rule: str = "coupled"
    """The acceptance rule that will judge the drafts."""


class TargetContext(Context, frozen=True, kw_only=True):
    """What a speculator beside the target is built for: the target's model, and the files of its own head."""

    model: Any
    """``engine.models.llama.Decoder`` or what has its ``config``, ``embed`` and ``logits``."""
    folder: str
    """Of the head: its config.json."""
    files: list[str]
    """Its safetensors."""
    dtype: str
    """Of its weights in memory: a key of ``engine.nn.load.DTYPES``."""
    device: str = "cpu"
    num_blocks: int
    """Blocks of the target's KV pool."""
    block_size: int
    rule: str = "coupled"
    """The acceptance rule that will judge the drafts."""


class Speculator(Protocol):
    """One method at work. Called from one place; requests are known by id between ``open`` and ``close``."""

    caps: Caps

    def open(
        self,
        request_id: RequestId,
        prompt: Sequence[int],
        params: SamplingParams,
        epoch: int,
        *,
        cache_salt: str = "",
        prediction: Sequence[int] = (),
    ) -> None:
        """Begin a request. ``prompt`` holds earlier output too when the request goes on behind it.

        Text of another ``cache_salt`` must not show in its drafts; ``prediction`` is what its client expects.
        """
        ...

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """Drafts for some of ``batch``; leaving a request out, or an empty Drafts, is a fine answer."""
        ...

    def observe(self, batch: Sequence[Outcome]) -> None:
        """Committed tokens, at depth 0 too: else a cache or index goes stale."""
        ...

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """The request begins ``epoch`` with ``length`` committed tokens: preemption, aborted step, grammar cut."""
        ...

    def close(self, request_id: RequestId) -> None:
        """The request has ended."""
        ...

    def cost(self, num_requests: int, depth: int) -> float:
        """Seconds that ``propose`` takes, from its own warm-up."""
        ...

    def stats(self) -> dict[str, int]:
        """Cumulative counters of its own."""
        ...

    def warmup(self) -> None:
        """Once, before the first request."""
        ...


class SpeculatorPlugin(Protocol):
    """A module ``spec_decode/speculators/<name>.py``, or one outside named with dots."""

    PLACEMENT: Placement
    Config: ClassVar[type[msgspec.Struct]]
    """Keys of the TOML table ``[speculation.<name>]``; unknown ones are refused."""

    def build(self, config: Any, ctx: Context) -> Speculator:
        """The speculator, from its own ``Config``. Heavy imports go in here.

        With placement ``target`` it is a ``heads.head.Head``, for a ``TargetContext``: it reads hidden states, which
        never leave that process.
        """
        ...


class RulePlugin(Protocol):
    """A module ``spec_decode/rules/<name>.py``."""

    LOSSLESS: bool
    """Whether the output law is the target's own, whatever is drafted. False needs an opt-in by name."""

    def build(self, config: Any) -> "Rule":
        """The rule, from its own table of the config (None = its defaults)."""
        ...
