"""EAGLE at work: one layer follows every request with KV of its own, and drafts a chain behind the newest token.

What a step showed is fed when drafts are wanted, or when enough has gathered: while nobody asks, 16 tokens cost one
small forward pass. Nothing here must be right for the text to be right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ...engine.core.plan import Drafts, NewRequest, StepPlan
from ...engine.execution.observe import Seen
from ...engine.nn.model import KVCache
from ...engine.types import RequestId
from .draw import comb, draw
from .eagle_net import EagleNet
from .entries import Followed, Pages
from .follow import Requests, Task

_LAG = 16
"""Entries of a request that may wait until drafts are wanted."""


@dataclass(slots=True)
class _Chain:
    """Drafts of one request in the making."""

    followed: Followed
    length: int
    """Committed tokens."""
    depth: int
    """Drafts wanted."""
    levels: list[list[tuple[int, float]]] = field(default_factory=list)
    chance: float = 1.0
    is_done: bool = False


class Eagle:
    """A ``Head``. Chains; with ``width`` > 1 the ``width`` - 1 next best guesses hang beside each draft."""

    def __init__(
        self,
        net: EagleNet,
        kv: KVCache,
        *,
        embed: Callable[[torch.Tensor], torch.Tensor],
        target_logits: Callable[[torch.Tensor], torch.Tensor],
        max_model_len: int,
        max_draft_tokens: int,
        width: int = 1,
        min_token_prob: float = 0.0,
        seeded: bool = True,
        source: str = "eagle",
        device: torch.device | str = "cpu",
    ) -> None:
        """``embed`` and ``target_logits``: the target's embedding and LM head.

        ``min_token_prob``: a chain ends where the product of its drafts' chances falls below. ``seeded``: draw with the
        request's noise; otherwise the most likely tokens. ``source``: on its drafts.
        """
        self.wanted_layers = tuple(dict.fromkeys(i - 1 for i in net.layer_ids))
        self._net = net
        self._kv = kv
        self._embed = embed
        self._target_logits = target_logits
        self._most = max_draft_tokens
        self._width = width
        self._min_token_prob = min_token_prob
        self._seeded = seeded
        self._source = source
        self._device = device
        self._requests = Requests(vocab_size=net.config.vocab_size, max_model_len=max_model_len)
        self._pages = Pages(kv.k[0].shape[0], kv.block_size, device)
        self._followed: dict[RequestId, Followed] = {}

    # --- what the runner tells ----------------------------------------------------------------------------------------

    def opened(self, new: NewRequest) -> None:
        """See ``Observer``."""
        self.closed(new.request_id)
        self._requests.open(new)

    def closed(self, request_id: RequestId) -> None:
        """See ``Observer``; its pages are free."""
        self._requests.close(request_id)
        if self._followed.pop(request_id, None) is not None:
            self._pages.blocks.release(request_id)

    def observe(self, seen: Sequence[Seen]) -> None:
        """See ``Observer``."""
        self._requests.saw(seen)

    def propose(self, plan: StepPlan) -> list[Drafts]:
        """See ``Observer``: keeps up with the rows that ``plan.asks`` names, drafts for those where it wants some."""
        tasks = list(self._requests.tasks(plan))
        if not tasks:
            return []
        self._take(tasks)
        wanted = {task.held.request_id: task.depth for task in tasks if task.depth > 0}
        fed = [self._followed[task.held.request_id] for task in tasks]
        fed = [f for f in fed if f.num_pending and (f.held.request_id in wanted or f.num_pending >= _LAG)]
        busy = {f.held.request_id for f in fed}
        fed = [f for f in fed if self._fits(f, busy)]
        if not fed:
            return []
        outputs = self._feed(fed)
        places = [place for place, f in enumerate(fed) if f.held.request_id in wanted]
        if not places:
            return []
        chains = [_Chain(fed[p], fed[p].held.length, min(wanted[fed[p].held.request_id], self._most)) for p in places]
        self._draft(chains, outputs[places], busy)
        return [self._drafts(chain) for chain in chains]

    # --- keeping up ---------------------------------------------------------------------------------------------------

    def _take(self, tasks: Sequence[Task]) -> None:
        """Add what was seen to what is pending."""
        hidden = torch.cat([task.seen.hidden for task in tasks])
        layers = [torch.cat([task.seen.layers[i - 1] for task in tasks]) for i in self._net.layer_ids]
        features = self._net.features(hidden, layers)
        first = 0
        for task in tasks:
            held, seen = task.held, task.seen
            followed = self._followed.get(held.request_id)
            if followed is None:
                followed = self._followed[held.request_id] = Followed(held)
            if self._pages.has_lost(followed):
                followed.lose()
            # The entry of the last position needs the token behind it.
            num = len(seen.token_ids) - (seen.next_id is None)
            followed.take(seen.start, features[first : first + num])
            first += len(seen.token_ids)

    def _fits(self, followed: Followed, busy: set[RequestId]) -> bool:
        """Make room for all its entries; where there is none it begins anew with what comes next."""
        if self._pages.make_room(followed, followed.num_fed + followed.num_pending, busy):
            return True
        followed.restart(followed.next)
        return False

    def _feed(self, fed: Sequence[Followed]) -> torch.Tensor:
        """Feed what is pending of each; the output behind each one's last entry, [R, hidden_size]."""
        rows = [(f, f.num_fed, f.num_pending) for f in fed]
        ids: list[int] = []
        for followed, start, num in rows:
            first = followed.begin + start + 1
            ids += self._requests.tokens(followed.held, first, first + num)
        features = torch.cat([part for f in fed for part in f.pending])
        outputs = self._forward(rows, ids, features)
        ends: list[int] = []
        for followed, _, num in rows:
            ends.append((ends[-1] if ends else -1) + num)
            followed.num_fed += num
            followed.num_pending = 0
            followed.pending.clear()
        return outputs[torch.tensor(ends, device=outputs.device)]

    def _forward(
        self, rows: Sequence[tuple[Followed, int, int]], ids: Sequence[int], features: torch.Tensor
    ) -> torch.Tensor:
        embedded = self._embed(torch.tensor(ids, dtype=torch.int32, device=features.device))
        return self._net(embedded, features, self._pages.pack(rows), self._kv)

    # --- drafts -------------------------------------------------------------------------------------------------------

    def _draft(self, chains: list[_Chain], outputs: torch.Tensor, busy: set[RequestId]) -> None:
        """Grow the chains level by level; outputs [R, hidden_size] of the entry before each one's first draft."""
        live = chains
        while True:
            self._choose(live, outputs)
            going = [p for p, chain in enumerate(live) if not chain.is_done and self._has_room(chain, busy)]
            if not going:
                break
            live = [live[p] for p in going]
            rows = [(chain.followed, chain.followed.num_fed + len(chain.levels) - 1, 1) for chain in live]
            outputs = self._forward(rows, [chain.levels[-1][0][0] for chain in live], outputs[going])
        for chain in chains:
            self._requests.undo(chain.followed.held, chain.length)

    def _choose(self, live: Sequence[_Chain], outputs: torch.Tensor) -> None:
        """One level more for each; its best stands as if it were committed."""
        logits = self._net.logits(outputs, self._target_logits)
        helds = [chain.followed.held for chain in live]
        ids, chances = draw(
            self._requests.process(logits, helds, [[]] * len(helds)), self._width, seeded=self._seeded
        )
        for chain, held, level, chance in zip(live, helds, ids, chances, strict=True):
            chain.levels.append(list(zip(level, chance, strict=True)))
            chain.chance *= chance[0]
            params = held.params
            ends = level[0] in params.stop_token_ids or (level[0] in params.end_ids and not params.ignore_eos)
            unlikely = chain.chance <= 0 or chain.chance < self._min_token_prob
            chain.is_done = ends or unlikely or len(chain.levels) >= chain.depth
            self._requests.suppose(held, level[0])

    def _has_room(self, chain: _Chain, busy: set[RequestId]) -> bool:
        return self._pages.make_room(chain.followed, chain.followed.num_fed + len(chain.levels), busy)

    def _drafts(self, chain: _Chain) -> Drafts:
        held = chain.followed.held
        tree = comb(chain.levels, chain.depth)
        parents = tree.parents if self._width > 1 else None
        return Drafts(
            held.request_id, held.epoch, chain.length, tree.token_ids, parents, self._source, tree.confidence
        )

    def check(self) -> None:
        """See ``Head``."""
        self._pages.blocks.check()
        for name, f in self._followed.items():
            num_pending = sum(map(len, f.pending))
            numbers = f"{name}: {f.num_fed} fed, {f.num_pending} pending ({num_pending}), {len(f.blocks)} blocks"
            if num_pending != f.num_pending or f.next >= f.held.length:
                raise AssertionError(f"{numbers}, from {f.begin} of {f.held.length} committed tokens")
            has = self._pages.blocks.count(name)
            if has and (has != len(f.blocks) or has * self._kv.block_size < f.num_fed):
                raise AssertionError(f"{numbers}, {has} of them its own")
