"""Steps of a drafting model: feed what is missing, draw one draft for each chain, until the chains are long enough.

Shares with the target's runner the request table, the packing and the processing of logits, so that drafts see the same
penalties, filters and noise. Positions of one request::

    0 ........... num_cached-1 |            fed: K and V are in its blocks
    0 ................................ length-1 | length .............. chain_end-1 |
    committed, as far as we were told           | drafts behind them, the newest not fed yet

A **fork** is a chain behind an outcome that has not come yet: some of a request's drafts, then another token. It reads
the request's full blocks, and writes into blocks of its own.

Knows nothing of what was asked for, nor when.
"""

import math
import time
from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import torch

from ..engine.core.plan import NewRequest, Row
from ..engine.execution.batch import pack
from ..engine.execution.sampler import Ask, process
from ..engine.execution.state import Fed, Held, RequestTable
from ..engine.nn.model import KVCache, Model
from ..engine.types import RequestId
from .draft_blocks import DraftBlocks
from .draws import Draw, How, draw


@dataclass(slots=True)
class Followed:
    """A request as the drafter knows it; see the module's position map. ``held.length`` is the committed length."""

    held: Held
    ends: frozenset[int]
    """Behind these there is nothing to draft."""
    chain_end: int
    num_cached: int = 0
    num_shared: int = 0
    """Of a fork: the leading blocks that are its request's."""
    goal: int = 0
    """Where ``work`` would like the chain to end."""
    num_sent: int = 0
    """Leading drafts that may be in flight."""
    is_done: bool = False
    """The chain ends in an end id, or where it became unlikely."""
    is_parked: bool = False
    """There was no room to work on it."""
    made: list[Draw] = field(default_factory=list)
    """The chain's drafts."""
    forks: dict[tuple[int, int], "Followed"] = field(default_factory=dict)
    """By (drafts accepted, next token)."""
    has_forked: bool = False


class DraftSteps:
    """The model, its pages, and who has which of them."""

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        *,
        num_ids: int,
        how: How,
        min_token_prob: float,
        num_rivals: int,
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
        self._how: How = how
        self._min_token_prob = min_token_prob
        self._num_rivals = num_rivals
        self._device = device

    def chain(self, followed: Followed) -> list[int]:
        """Its drafts."""
        return [one.token_id for one in followed.made]

    def num_missing(self, followed: Followed) -> int:
        """Tokens to feed before the next draft can be drawn."""
        if not self.blocks.count(followed.held.request_id):
            followed.num_cached = 0  # evicted, and with it what was drafted
            followed.chain_end = followed.held.length
            followed.made.clear()
            followed.is_done = followed.has_forked = False
            self.drop_forks(followed)
        return followed.chain_end - followed.num_cached

    def extend(
        self, wanted: list[tuple[Followed, int]], until_s: float | None, busy: Container[RequestId] | None = None
    ) -> list[Followed]:
        """Draw so many more drafts for each chain, one for all in a step; who got any.

        Meanwhile a chain stands as if it were committed, so that counts, filters and positions are right. Takes no
        blocks from ``busy``; None = from none of ``wanted``.
        """
        busy = {followed.held.request_id for followed, _ in wanted} if busy is None else busy
        lengths = {id(followed): followed.held.length for followed, _ in wanted}
        for followed, _ in wanted:
            self.table.commit(followed.held, self.chain(followed))
        grown: list[Followed] = []
        live = wanted
        while live:
            ran, hidden = self.forward([(f, self.num_missing(f)) for f, _ in live], busy)
            if not ran:
                break
            self._draw(ran, hidden, [lengths[id(f)] for f in ran])
            grown = grown or ran
            left = {id(f): num - 1 for f, num in live}
            live = [(f, left[id(f)]) for f in ran if left[id(f)] > 0 and not f.is_done]
            if until_s is not None and time.monotonic() >= until_s:
                break
        for followed, _ in wanted:
            self._lift(followed.held, lengths[id(followed)])
        return grown

    def _lift(self, held: Held, length: int) -> None:
        """What lies behind ``length`` is no longer committed; it stays where it is."""
        if held.edits is not None:
            held.edits.pop(self.table.tokens[held.line, length : held.length].tolist())
        held.length = length

    def forward(
        self, feeding: list[tuple[Followed, int]], busy: Container[RequestId]
    ) -> tuple[list[Followed], torch.Tensor]:
        """Feed so many tokens of each; those for which there was room, and the hidden state behind each one's last."""
        ran: list[Followed] = []
        fed: list[Fed] = []
        for followed, num in feeding:
            held, start = followed.held, followed.num_cached
            num_kept = followed.num_shared + self.blocks.count(held.request_id)
            num_own = start + num - followed.num_shared * self._kv.block_size
            new = self.blocks.grow(held.request_id, num_own, busy)
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

    def _draw(self, ran: list[Followed], hidden: torch.Tensor, windows: list[int]) -> None:
        """One draft behind each chain; hidden [R, hidden_size]."""
        logits = self._model.logits(hidden)
        logits[:, self._num_ids :] = -torch.inf
        batch = process(logits, [Ask(f.held, [], self.table.context(f.held)) for f in ran])
        for followed, one in zip(ran, draw(batch, self._how, windows, self._num_rivals), strict=True):
            self.table.commit(followed.held, [one.token_id])
            followed.chain_end += 1
            followed.made.append(one)
            is_unlikely = math.prod(made.chance for made in followed.made) < self._min_token_prob
            followed.is_done = one.token_id in followed.ends or is_unlikely
        self.num_drafted += len(ran)

    # --- forks --------------------------------------------------------------------------------------------------------

    def fork(self, followed: Followed, outcomes: list[tuple[int, int]], busy: Container[RequestId]) -> None:
        """A fork for each (drafts accepted, next token) for which there is a block; K and V up to there are fed."""
        held, size = followed.held, self._kv.block_size
        ids = self.table.tokens[held.line, : followed.chain_end].tolist()
        pages: list[tuple[int, int]] = []
        for accepted, token in outcomes:
            at = held.length + accepted
            name = f"{held.request_id}\0{accepted}\0{token}"
            num_shared = at // size
            new = self.blocks.grow(name, 1, busy)
            if new is None:
                self.blocks.release(name)
                break
            shared = self.table.blocks[held.line, :num_shared].tolist()
            request = NewRequest(
                name, held.epoch, [*ids[:at], token], held.num_prompt, [*shared, *new], held.params
            )
            fork = Followed(self.table.open(request), followed.ends, at + 1, at, num_shared)
            fork.goal = min(at + 1 + followed.num_sent, self.max_len - 1)
            followed.forks[accepted, token] = fork
            if at % size:
                pages.append((int(self.table.blocks[held.line, num_shared]), new[0]))
        if pages:
            old, copies = torch.tensor(pages, device=self._device).T
            for layer in (*self._kv.k, *self._kv.v):
                layer[copies] = layer[old]

    def drop_forks(self, followed: Followed) -> None:
        """Forget all forks of a request."""
        for fork in followed.forks.values():
            self.table.close(fork.held.request_id)
            self.blocks.release(fork.held.request_id)
        followed.forks.clear()

    def adopt(self, followed: Followed, accepted: int, token: int) -> bool:
        """Commit the outcome, if there is a fork for it whose blocks are all there: its chain is now the request's."""
        fork = followed.forks.get((accepted, token))
        held = followed.held
        if fork is None or not self.blocks.count(held.request_id) or not self.blocks.count(fork.held.request_id):
            return False
        self.table.commit(held, [*self.chain(followed)[:accepted], token])
        own = self.blocks.adopt(held.request_id, fork.held.request_id, fork.num_shared)
        held.num_blocks = fork.num_shared + len(own)
        line = self.table.blocks[held.line]
        line[fork.num_shared :] = 0
        line[fork.num_shared : held.num_blocks] = own
        length = held.length
        self.table.commit(held, self.chain(fork))
        self._lift(held, length)
        followed.made, followed.is_done = fork.made, fork.is_done
        followed.num_cached, followed.chain_end = fork.num_cached, fork.chain_end
        followed.num_sent = 0
        return True
