"""What crosses to and from a device process: StepPlan out, StepResult back, RequestOutput to the tokenizer.

The core defines these because the core decides them. Plain values: token ids travel, tensors never do. The one vector
that leaves a device process is a request's answer: what its prompt was pooled to.

Positions of one row (b = committed tokens, prompt included; s = start; n = num_tokens; k = drafts)::

    0 ............ s-1 | s ........ s+n-1 | s+n .... s+n+k-1 |
    computed before    | committed, fed   | drafts, fed      |

A row that ``yields`` has s+n == b, and the logits of its last committed position and of each draft are used: k+1
distributions, from which 1 to k+1 tokens are committed.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from ..types import ErrorInfo, FinishReason, RequestId, SamplingParams, SpeculationStats

DraftDepth: TypeAlias = Mapping[RequestId, int] | int
"""How many drafts each request may have verified this step; an int is for all."""

DraftLaw: TypeAlias = tuple[list[int], list[float]]
"""The law that a draft was drawn from: distinct ids, and their chances up to a common factor."""

_LEAST, _MOST = 2.0**-126, 2.0**127
"""Weights of a law become fp32: one must be a normal number there, and none too large for it."""


class Drafts(msgspec.Struct, frozen=True, array_like=True, tag=True, omit_defaults=True):
    """Proposed tokens behind position ``base_len - 1`` of a request, stamped so that stale ones are recognised."""

    request_id: RequestId
    epoch: int
    base_len: int
    token_ids: list[int]
    parents: list[int] | None = None
    """None = chain; else index of each draft's parent, -1 = root."""
    source: str = ""
    confidence: list[float] | None = None
    """The speculator's own guess that each draft is accepted, given that all before it were."""
    draft_q: list[DraftLaw] | None = None
    """For each draft exactly the numbers it was drawn from; None = it was sure, or shares the target's noise."""


class NewRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request the target does not hold yet (new, or back from preemption under a higher epoch)."""

    request_id: RequestId
    epoch: int
    token_ids: list[int]
    """Prompt and output so far."""
    num_prompt: int
    block_ids: list[int]
    params: SamplingParams


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """One request's share of a step. See the module's position map."""

    request_id: RequestId
    epoch: int
    start: int
    num_tokens: int
    num_blocks: int
    """Entries of the block table that stay valid; the runner cuts its table there, then appends ``new_block_ids``."""
    new_block_ids: list[int]
    yields: bool = False
    after: int = -1
    """Step whose result holds the last fed token when it was not known at planning; -1 = known."""
    draft_ids: list[int] = []
    draft_parents: list[int] | None = None
    draft_q: list[DraftLaw] | None = None
    """As in ``Drafts``; for rules that weigh drafts by their chances."""


class StepPlan(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One step for the target. The runner forgets ``closed``, then opens ``new``, then runs ``rows``."""

    step: int
    closed: list[RequestId]
    new: list[NewRequest]
    rows: list[Row]
    asks: list[int] = []
    """For a speculator beside the target: of each row, most drafts to make behind its tokens; 0 = only keep up with it,
    -1 = leave it alone, as all rows are where this is empty. Put there by the scheduler's shell, not by the core."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Natural logs of the raw model distribution at one position."""

    token_id: int
    logprob: float
    rank: int
    """1 = most likely."""
    top_ids: list[int]
    top_logprobs: list[float]


class RowResult(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Outcome of one row. ``token_ids`` are the accepted drafts and the next token; empty for a prompt chunk."""

    request_id: RequestId
    epoch: int
    token_ids: list[int]
    num_accepted: int = 0
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    """For the prompt tokens at positions ``start + 1 .. min(start + num_tokens, num_prompt - 1)``, in order."""
    error: ErrorInfo | None = None
    """This request alone failed."""
    path: list[int] | None = None
    """Of a row with a tree of drafts: the accepted nodes, from the root's child down."""
    embedding: bytes | None = None
    """Of the row that ends a prompt to be pooled: its vector of length 1, fp32, little-endian."""


class StepResult(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to a StepPlan, rows in plan order. ``elapsed_s`` is the time the step took on the device process."""

    step: int
    rows: list[RowResult]
    elapsed_s: float = 0.0
    drafts: list[Drafts] = []
    """Of a speculator beside the target: made behind the tokens of this result, for the scheduler's shell to offer."""
    drafting_s: float = 0.0
    """What making them took, behind the step's own time."""


class RequestOutput(msgspec.Struct, frozen=True, array_like=True, tag=True, omit_defaults=True):
    """Newly committed tokens of a request. ``offset`` = output tokens before these; receivers drop what they have."""

    request_id: RequestId
    offset: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    """The stop token id that ended the request, when it was one of ``stop_token_ids``."""
    num_cached: int = 0
    """Prompt tokens taken from the prefix cache when the request was first planned."""
    queue_s: float = 0.0
    """Seconds from arrival to the first plan."""
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    error: ErrorInfo | None = None
    speculation: SpeculationStats | None = None
    """On the last output, where speculation ran: put there by the scheduler's shell, not by the core."""
    embedding: bytes | None = None
    """The only output of a request whose prompt was pooled, as in ``RowResult``."""


def is_law(law: DraftLaw, vocab_size: int) -> bool:
    """Distinct ids inside the logits, and for each a weight that is finite and not negative; not all of them 0."""
    ids, weights = law
    if not ids or len(ids) != len(weights) or min(ids) < 0 or max(ids) >= vocab_size or len(set(ids)) != len(ids):
        return False
    return all(0.0 <= w <= _MOST for w in weights) and max(weights) >= _LEAST


def depths(parents: Sequence[int]) -> list[int]:
    """How many drafts lie between each node and the root: 0 for the root's children."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent < 0 else found[parent] + 1)
    return found


def path_to(node: int, parents: Sequence[int]) -> list[int]:
    """The nodes from the root's child down to ``node``; none for the root, -1."""
    path: list[int] = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def is_path(path: Sequence[int], parents: Sequence[int]) -> bool:
    """Does ``path`` go down from the root, child by child?"""
    above = -1
    for node in path:
        if not 0 <= node < len(parents) or parents[node] != above:
            return False
        above = node
    return True
