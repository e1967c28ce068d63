"""The seam between the runner and an acceptance rule: what a rule is given and what it answers.

The runner knows neither which rule it holds nor who made the drafts. Rules live in ``spec_decode/rules``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from ..core.plan import DraftLaw


@dataclass(slots=True)
class VerifyBatch:
    """All positions of a step at which a token is chosen: S of them, those of one row next to each other.

    Row r owns ``starts[r] .. starts[r + 1] - 1``: one position for each of its k drafts and one behind them, each
    processed as if the drafts before it were committed. With no drafts this is plain decoding. In a tree the first
    place is the root's and the one after that node 0's; every node is processed as if its own ancestors were committed.
    """

    logits: torch.Tensor  # fp32 [S, vocab_size]: edited, divided by temperature, filtered with -inf; not normalised
    temperatures: torch.Tensor  # fp32 [S], 0 = greedy
    seeds: torch.Tensor  # int64 [S]
    positions: torch.Tensor  # int64 [S], of the token that is chosen, counted from the prompt's first
    starts: list[int]  # R + 1
    draft_ids: list[list[int]]  # R chains or trees
    parents: list[list[int] | None] | None = None  # of each row's nodes, -1 = root; None = a chain
    q: list[list[DraftLaw] | None] | None = None  # of each row's drafts, what they were drawn from; None = sure


class Accepted(NamedTuple):
    """A row's committed tokens: ``num_accepted`` drafts, then the next token."""

    token_ids: list[int]
    num_accepted: int
    path: list[int] | None = None
    """Of a tree: the accepted nodes."""


class Rule(Protocol):
    """Decides which drafts stand, and draws the next token."""

    def accept(self, batch: VerifyBatch) -> Sequence[Accepted]:
        """One answer per row, in order."""
        ...
