"""Steps of a drafting model: feed what is missing, draw one draft for each chain, until the chains are long enough.

Shares with the target's runner the request table, the packing and the processing of logits, so that drafts see the same
penalties, filters and noise. Positions of one request::

    0 ........... num_cached-1 |            fed: K and V are in its blocks
    0 ................................ length-1 | length .............. chain_end-1 |
    committed, as far as we were told           | drafts behind them, the newest not fed yet

Knows nothing of what was asked for, nor when.
"""

import math
import time
from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import torch

from ..engine.core.plan import Row
from ..engine.execution.batch import pack
from ..engine.execution.sampler import Ask, process
from ..engine.execution.state import Fed, Held, RequestTable
from ..engine.nn.model import KVCache, Model
from ..engine.types import RequestId
from ..kernels import ops
from .draft_blocks import DraftBlocks


@dataclass(slots=True)
class Followed:
    """A request as the drafter knows it; see the module's position map. ``held.length`` is the committed length."""

    held: Held
    ends: frozenset[int]
    """Behind these there is nothing to draft."""
    chain_end: int
    num_cached: int = 0
    goal: int = 0
    """Where ``work`` would like the chain to end."""
    is_done: bool = False
    """The chain ends in an end id, or where it became unlikely."""
    is_parked: bool = False
    """There was no room to work on it."""
    confidence: list[float] = field(default_factory=list)
    """Of the chain's drafts."""


class DraftSteps:
    """The model, its pages, and who has which of them."""

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        *,
        num_ids: int,
        seeded: bool,
        min_token_prob: float,
        device: torch.device | str,
    ) -> None:
        num_blocks = kv.k[0].shape[0]
        self.max_len = min(model.config.max_position, num_blocks * kv.block_size)
        """Most tokens of a request that can be fed."""
        self.table = RequestTable(num_blocks=num_blocks, block_size=kv.block_size, vocab_size=model.config.vocab_size)
        self.blocks = DraftBlocks(num_blocks, kv.block_size)
        self.num_fed = 0
        self.num_drafted = 0
        self._model = model
        self._kv = kv
        self._num_ids = num_ids
        self._seeded = seeded
        self._min_token_prob = min_token_prob
        self._device = device

    def chain(self, followed: Followed) -> list[int]:
        """Its drafts."""
        held = followed.held
        return self.table.tokens[held.line, held.length : followed.chain_end].tolist()

    def num_missing(self, followed: Followed) -> int:
        """Tokens to feed before the next draft can be drawn."""
        if not self.blocks.count(followed.held.request_id):
            followed.num_cached = 0  # evicted, and with it what was drafted
            followed.chain_end = followed.held.length
            followed.confidence.clear()
            followed.is_done = False
        return followed.chain_end - followed.num_cached

    def extend(self, wanted: list[tuple[Followed, int]], until_s: float | None) -> list[Followed]:
        """Draw so many more drafts for each chain, one for all in a step; who got any.

        Meanwhile a chain stands as if it were committed, so that counts, filters and positions are right.
        """
        busy = {followed.held.request_id for followed, _ in wanted}
        lengths = [followed.held.length for followed, _ in wanted]
        for followed, _ in wanted:
            self.table.commit(followed.held, self.chain(followed))
        grown: list[Followed] = []
        live = wanted
        while live:
            ran, hidden = self.forward([(f, self.num_missing(f)) for f, _ in live], busy)
            if not ran:
                break
            self._draw(ran, hidden)
            grown = grown or ran
            left = {id(f): num - 1 for f, num in live}
            live = [(f, left[id(f)]) for f in ran if left[id(f)] > 0 and not f.is_done]
            if until_s is not None and time.monotonic() >= until_s:
                break
        for (followed, _), length in zip(wanted, lengths, strict=True):
            held = followed.held
            if held.edits is not None:
                held.edits.pop(self.table.tokens[held.line, length : held.length].tolist())
            held.length = length
        return grown

    def forward(
        self, feeding: list[tuple[Followed, int]], busy: Container[RequestId]
    ) -> tuple[list[Followed], torch.Tensor]:
        """Feed so many tokens of each; those for which there was room, and the hidden state behind each one's last."""
        ran: list[Followed] = []
        fed: list[Fed] = []
        for followed, num in feeding:
            held, start = followed.held, followed.num_cached
            num_kept = self.blocks.count(held.request_id)
            new = self.blocks.grow(held.request_id, start + num, busy)
            if new is not None:
                row = Row(held.request_id, held.epoch, start, num, num_kept, new)
                fed.append(self.table.admit(len(fed), row))
                ran.append(followed)
                followed.num_cached += num
                self.num_fed += num
        if not fed:
            return [], torch.empty(0)
        batch, starts = pack(fed, self.table, self._kv.block_size, self._device)
        hidden = self._model.forward(batch, self._kv)
        return ran, hidden[torch.from_numpy(starts[1:].astype(np.int64) - 1).to(hidden.device)]

    def _draw(self, ran: list[Followed], hidden: torch.Tensor) -> None:
        """One draft behind each chain; hidden [R, hidden_size]."""
        logits = self._model.logits(hidden)
        logits[:, self._num_ids :] = -torch.inf
        batch = process(logits, [Ask(f.held, [], self.table.context(f.held)) for f in ran])
        temperatures = batch.temperatures if self._seeded else torch.zeros_like(batch.temperatures)
        ids = ops.sample(batch.logits, temperatures, batch.seeds, batch.positions)
        chances = torch.softmax(batch.logits, -1).gather(1, ids[:, None])[:, 0].nan_to_num(0.0)
        for followed, token, chance in zip(ran, ids.tolist(), chances.tolist(), strict=True):
            self.table.commit(followed.held, [token])
            followed.chain_end += 1
            followed.confidence.append(chance)
            followed.is_done = token in followed.ends or math.prod(followed.confidence) < self._min_token_prob
        self.num_drafted += len(ran)
