"""A small model that runs ahead of the target: a chain of drafts for each request, in KV pages of its own.

Nothing here must be right for the text to be right. KV may be dropped at any time and is computed again; newly
committed tokens are compared with the chain, and what agrees keeps its KV, the rest is overwritten.

Knows no messages, no scheduler and no acceptance rule. What a step of the model is stands in ``draft_steps.py``.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from ..engine.core.plan import Drafts, NewRequest
from ..engine.execution.state import RowError
from ..engine.nn.model import KVCache, Model
from ..engine.types import RequestId, SamplingParams
from . import outcomes
from .base import Caps, Outcome, ProposeReq, StepBudget
from .draft_steps import DraftSteps, Followed
from .draws import How
from .idle_work import LAG, IdleWork

_WARM_WIDTHS = (1, 4, 16)
_SIDE_TOKENS = 32
"""Tokens of prompts that are read beside drafts that others wait for."""


class Drafter:
    """The ``Speculator`` of ``draft_model``; see ``base.Speculator`` for what each method means."""

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        *,
        source: str,
        num_ids: int,
        max_num_seqs: int,
        max_draft_tokens: int,
        how: How = "shared",
        ahead: bool = False,
        fanout: int = 0,
        min_token_prob: float = 0.0,
        chunk_tokens: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        """``source``: the method's name, on its drafts. ``num_ids``: ids from here on are no tokens, and not drafted.

        ``how`` drafts are drawn: see ``draws.py``. ``ahead``: go on in ``work``; with ``fanout`` also behind so many
        outcomes a draft that the target may choose instead. ``min_token_prob``: a chain ends where the product of its
        drafts' probabilities falls below. ``chunk_tokens``: most tokens caught up with in one call.
        """
        self.caps = Caps(
            q="sparse" if how == "sparse" else "none",
            max_tokens=max_draft_tokens,
            lookahead_slots=max_draft_tokens,
            draft_ahead=ahead,
            seeded=how == "shared",
        )
        self._source = source
        self._vocab_size = model.config.vocab_size
        self._max_num_seqs = max_num_seqs
        self._chunk_tokens = chunk_tokens
        self._steps = DraftSteps(
            model,
            kv,
            num_ids=num_ids,
            how=how,
            min_token_prob=min_token_prob,
            num_rivals=max(outcomes.fan_out(fanout, depth)[-1] for depth in range(max_draft_tokens + 1)),
            device=device,
        )
        self._followed: dict[RequestId, Followed] = {}
        self._idle = IdleWork(self._steps, self._followed, source=source, chunk_tokens=chunk_tokens, fanout=fanout)
        self._costs: dict[int, float] = {}
        self._counts = dict.fromkeys(("stale", "behind", "refused"), 0)

    # --- requests come and go -----------------------------------------------------------------------------------------

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
        """``cache_salt`` and ``prediction`` change nothing: no text of a request is seen by another here."""
        self.close(request_id)
        try:
            held = self._steps.table.open(NewRequest(request_id, epoch, list(prompt), len(prompt), [], params))
        except RowError:  # an id that only the target knows: the request goes on without this method
            self._counts["refused"] += 1
            return
        ends = frozenset() if params.ignore_eos else frozenset(params.end_ids)
        self._followed[request_id] = Followed(held, ends | set(params.stop_token_ids), chain_end=held.length)

    def close(self, request_id: RequestId) -> None:
        """Forget the request and free its blocks."""
        if (gone := self._followed.pop(request_id, None)) is not None:
            self._steps.drop_forks(gone)
            self._steps.table.close(request_id)
            self._steps.blocks.release(request_id)
            for followed in self._followed.values():
                followed.is_parked = False

    def close_all(self) -> None:
        """Forget every request: who opened them is gone."""
        for request_id in list(self._followed):
            self.close(request_id)

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """Tokens are never taken back; the epoch is what later messages carry."""
        followed = self._followed.get(request_id)
        if followed is not None:
            followed.held.epoch = max(followed.held.epoch, epoch)

    def observe(self, batch: Sequence[Outcome]) -> None:
        """Take in committed tokens; they are fed when there is time, or with the next proposal."""
        for outcome in batch:
            self._follow(outcome.request_id, outcome.epoch, outcome.base_len, outcome.committed)

    def _follow(self, request_id: RequestId, epoch: int, start: int, ids: Sequence[int]) -> Followed | None:
        """Take in ``ids`` from position ``start`` on; None = unknown, of an earlier epoch, or with a gap before it."""
        followed = self._followed.get(request_id)
        if followed is None or epoch < followed.held.epoch:
            self._counts["stale"] += 1
            return None
        held = followed.held
        held.epoch = epoch
        known = held.length
        if start > known:
            self._counts["behind"] += 1
            return None
        new = list(ids[known - start :])
        if not new:
            return followed
        if min(new) < 0 or max(new) >= self._vocab_size:
            self._counts["refused"] += 1
            self.close(request_id)
            return None
        agreed = _agreed(followed, new)
        if agreed < len(new) and self._steps.adopt(followed, agreed, new[agreed]):
            new = new[agreed + 1 :]
            known = held.length
            agreed = _agreed(followed, new)
        self._steps.drop_forks(followed)
        followed.has_forked = False
        if agreed < len(new):
            followed.num_cached = min(followed.num_cached, known + agreed)
            followed.chain_end = known + len(new)
        del followed.made[: len(new) if agreed == len(new) else None]
        self._steps.table.commit(held, new)
        followed.is_done = followed.is_done and followed.chain_end > held.length
        followed.is_parked = False
        return followed

    # --- drafts -------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """Chains for those whose missing tokens fit into ``chunk_tokens``; the others come nearer to it."""
        until_s = time.monotonic() + budget.deadline_s if budget.deadline_s > 0 else None
        wanted: list[tuple[Followed, int]] = []
        for ask in batch[: budget.max_rows]:
            followed = self._follow(ask.request_id, ask.epoch, ask.base_len - len(ask.delta), ask.delta)
            if followed is None:
                continue
            length = followed.held.length
            if length != ask.base_len:
                self._counts["behind" if length < ask.base_len else "stale"] += 1
                continue
            depth = min(ask.depth, budget.max_depth, self.caps.max_tokens, self._steps.max_len - length - 1)
            if depth > 0:
                followed.goal = min(length + 2 * depth + 1, self._steps.max_len - 1) if self.caps.draft_ahead else 0
                wanted.append((followed, depth))
        missing = [(followed, self._to_make(followed, depth)) for followed, depth in wanted]
        self._steps.extend(self._near([item for item in missing if item[1] > 0]), until_s)
        for followed, depth in wanted:
            followed.num_sent = min(depth, len(followed.made))
        return [outcomes.chain(f, self._source, depth) for f, depth in wanted if f.made]

    def _to_make(self, followed: Followed, depth: int) -> int:
        """Drafts to make now. One who drafts ahead answers with what is there, if that is half of what was asked."""
        ready = followed.chain_end - followed.held.length
        if followed.is_done or (self.caps.draft_ahead and 2 * ready >= depth):
            return 0
        return max(0, depth - ready)

    def _near(self, wanted: list[tuple[Followed, int]]) -> list[tuple[Followed, int]]:
        """Those that can be drafted for now; who lacks more tokens than one call may feed is fed part of them.

        Nobody who lacks a few tokens waits for another's prompt.
        """
        busy = {followed.held.request_id for followed, _ in wanted}
        lacking = sorted(((self._steps.num_missing(f), f, num) for f, num in wanted), key=lambda item: item[0])
        near = [(followed, num) for missing, followed, num in lacking if missing <= LAG]
        left = min(_SIDE_TOKENS, self._chunk_tokens) if near else self._chunk_tokens
        chunks: list[tuple[Followed, int]] = []
        for missing, followed, num in lacking[len(near) :]:
            if missing <= left:
                near.append((followed, num))
            elif left > 0:
                chunks.append((followed, left))
            left -= min(left, missing)
        self._steps.forward(chunks, busy)
        return near

    @property
    def has_work(self) -> bool:
        """Is there anything for ``work`` to do?"""
        return self._idle.is_there

    @torch.inference_mode()
    def work(self) -> list[Drafts]:
        """One piece of what can be done while nobody asks, and what is to be told of it: see ``IdleWork.do``."""
        return self._idle.do()

    # --- facts --------------------------------------------------------------------------------------------------------

    def warmup(self) -> None:
        """Run each kernel once, and measure what a draft costs by the number of requests."""
        params = SamplingParams(max_tokens=1, temperature=1.0)
        most = max(1, min(self._max_num_seqs, self._steps.blocks.num_blocks))
        for width in (1, *sorted({min(width, most) for width in _WARM_WIDTHS})):  # the very first one runs cold
            names = [f"warm-up-{i}" for i in range(width)]
            for name in names:
                self.open(name, [0], params, 0)
            asks = [ProposeReq(name, 0, 1, [], 2) for name in names]
            began_s = time.perf_counter()
            num = self._steps.num_drafted
            self.propose(asks, StepBudget(width, 2))
            num = (self._steps.num_drafted - num) // width
            if num:
                self._costs[width] = (time.perf_counter() - began_s) / num
            self.close_all()
        self._steps.num_drafted = self._steps.num_fed = 0

    @property
    def costs(self) -> list[tuple[int, float]]:
        """(requests, seconds of one draft for each of them), measured by ``warmup``."""
        return list(self._costs.items())

    def cost(self, num_requests: int, depth: int) -> float:
        """Seconds, from ``costs``; 0 before ``warmup``."""
        if not self._costs:
            return 0.0
        return depth * float(np.interp(num_requests, list(self._costs), list(self._costs.values())))

    def stats(self) -> dict[str, int]:
        """``stale`` and ``behind`` messages, requests ``refused``, drafts made, tokens fed, KV given up."""
        steps = self._steps
        made = {"drafted": steps.num_drafted, "tokens_fed": steps.num_fed, "evictions": steps.blocks.num_evictions}
        return {**self._counts, **made, "num_requests": len(self._followed)}

    def check(self) -> None:
        """Every invariant there is, for tests.

        Raises:
            AssertionError: naming the request and the numbers.
        """
        self._steps.blocks.check()
        num_lines = 0
        for name, f in self._followed.items():
            numbers = f"{name}: {f.num_cached} cached, {f.held.length} committed, chain to {f.chain_end}"
            if not f.held.length <= f.chain_end == f.held.length + len(f.made):
                raise AssertionError(f"{numbers}, {len(f.made)} drafts")
            num_slots = self._steps.blocks.count(name) * self._steps.blocks.block_size
            if num_slots and not f.num_cached <= min(num_slots, max(f.held.length, f.chain_end)):
                raise AssertionError(f"{numbers}, {num_slots} slots")
            num_lines += 1 + len(f.forks)
        if num_lines != len(self._steps.table):
            raise AssertionError(f"{len(self._steps.table)} requests and forks in the table, not {num_lines}")


def _agreed(followed: Followed, new: list[int]) -> int:
    """How many of ``new`` the chain begins with."""
    agreed = 0
    for one, token in zip(followed.made, new, strict=False):
        if one.token_id != token:
            break
        agreed += 1
    return agreed
