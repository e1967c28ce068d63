"""Medusa at work: all drafts of a request come from one hidden state, the one its newest token was chosen by.

So nothing is kept between steps but the tokens, and a step that asks for nothing costs nothing.
"""

from collections.abc import Sequence

import torch

from ...engine.core.plan import Drafts, NewRequest, StepPlan
from ...engine.execution.observe import Seen
from ...engine.types import RequestId
from .draw import best_tree, draw
from .follow import Requests, Task
from .medusa_net import MedusaNet


class Medusa:
    """A ``Head``. Chains, or with ``width`` > 1 trees of the ``width`` best guesses of each head."""

    wanted_layers: tuple[int, ...] = ()

    def __init__(
        self,
        net: MedusaNet,
        *,
        vocab_size: int,
        max_model_len: int,
        max_draft_tokens: int,
        width: int = 1,
        seeded: bool = True,
        source: str = "medusa",
    ) -> None:
        """``seeded``: draw with the request's noise; otherwise the most likely tokens. ``source``: on its drafts."""
        self._net = net
        self._most = max_draft_tokens
        self._width = width
        self._seeded = seeded
        self._source = source
        self._requests = Requests(vocab_size=vocab_size, max_model_len=max_model_len)

    def opened(self, new: NewRequest) -> None:
        """See ``Observer``."""
        self._requests.open(new)

    def closed(self, request_id: RequestId) -> None:
        """See ``Observer``."""
        self._requests.close(request_id)

    def observe(self, seen: Sequence[Seen]) -> None:
        """See ``Observer``."""
        self._requests.saw(seen)

    def propose(self, plan: StepPlan) -> list[Drafts]:
        """See ``Observer``: drafts for the rows for which ``plan.asks`` wants some."""
        tasks = [task for task in self._requests.tasks(plan) if task.depth > 0]
        if not tasks:
            return []
        hidden = torch.cat([task.seen.hidden[-1:] for task in tasks])
        num_heads = min(self._net.num_heads, max(task.depth for task in tasks), self._most)
        logits = self._net(hidden, num_heads)
        # Head j does not know what the heads before it chose: for penalties, their most likely ids stand in for that.
        stand_in = logits[:, :-1].argmax(-1).tolist()
        batch = self._requests.process(logits.flatten(0, 1), [task.held for task in tasks], stand_in)
        ids, chances = draw(batch, self._width, seeded=self._seeded)
        return [self._drafts(task, ids, chances, r * num_heads, num_heads) for r, task in enumerate(tasks)]

    def _drafts(
        self, task: Task, ids: list[list[int]], chances: list[list[float]], first: int, num_heads: int
    ) -> Drafts:
        places = range(first, first + min(num_heads, task.depth))
        levels = [list(zip(ids[place], chances[place], strict=True)) for place in places]
        tree = best_tree(levels, min(task.depth, self._most))
        held = task.held
        parents = tree.parents if self._width > 1 else None
        return Drafts(
            held.request_id, held.epoch, held.length, tree.token_ids, parents, self._source, tree.confidence
        )

    def check(self) -> None:
        """See ``Head``: there is nothing to go wrong."""
