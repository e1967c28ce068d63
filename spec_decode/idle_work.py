"""What a drafter does while nobody asks: it reads prompts, and drafts on behind what may be in flight.

Takes no blocks from anybody. Knows no messages and nothing of what was asked for but the goals in ``Followed``.
"""

from collections.abc import Mapping

from ..engine.core.plan import Drafts
from ..engine.types import RequestId
from . import outcomes
from .draft_steps import DraftSteps, Followed

LAG = 16
"""Committed tokens that may wait for the next proposal: fed one by one they would cost a draft each."""


class IdleWork:
    """For all requests of ``followed``, which belongs to the drafter."""

    def __init__(
        self,
        steps: DraftSteps,
        followed: Mapping[RequestId, Followed],
        *,
        source: str,
        chunk_tokens: int,
        fanout: int,
    ) -> None:
        """``fanout``: outcomes a draft that are drafted for; 0 = none but that the chain is right."""
        self._steps = steps
        self._followed = followed
        self._source = source
        self._chunk_tokens = chunk_tokens
        self._fanout = fanout

    @property
    def is_there(self) -> bool:
        """Is there anything to do?"""
        return any(
            self._lags(f) or self._may_grow(f) or self._may_fork(f) or any(map(self._may_grow, f.forks.values()))
            for f in self._followed.values()
        )

    def do(self) -> list[Drafts]:
        """One piece: a chunk of prompts, else a draft more for each chain; what is to be told of it.

        Returns:
            What was made ahead for requests that got half or all of it now, stamped with the committed length we know:
            the first of the drafts may be in flight, or committed by now. A tree where outcomes were drafted for.
        """
        lagging = [f for f in self._followed.values() if self._lags(f)]
        busy = {*self._followed, *(fork.held.request_id for f in self._followed.values() for fork in f.forks.values())}
        if lagging:
            _park_idle(lagging, self._steps.forward(self._chunks(lagging), busy)[0])
            return []
        growing: list[Followed] = []
        due: list[Followed] = []
        for followed in self._followed.values():
            self._drop_lost_forks(followed)
            if self._may_fork(followed):
                followed.has_forked = True
                self._steps.fork(followed, outcomes.to_fork(followed, self._fanout), busy)
                busy |= {fork.held.request_id for fork in followed.forks.values()}
            mine = [f for f in (followed, *followed.forks.values()) if self._may_grow(f)]
            growing += mine
            due += [followed] if mine else []
        _park_idle(growing, self._steps.extend([(f, 1) for f in growing], None, busy))
        return [outcomes.table(f, self._source) for f in due if f.made and self._is_due(f)]

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _lags(self, followed: Followed) -> bool:
        return (
            self._steps.num_missing(followed) > LAG
            and followed.held.length < self._steps.max_len
            and not followed.is_parked
        )

    def _chunks(self, lagging: list[Followed]) -> list[tuple[Followed, int]]:
        """What to feed of whom, first come first served; the newest token waits, for it yields the first draft."""
        left = self._chunk_tokens
        chunks: list[tuple[Followed, int]] = []
        for followed in lagging:
            num = min(left, followed.held.length - 1 - followed.num_cached)
            if num > 0:
                chunks.append((followed, num))
                left -= num
        return chunks

    # --- chains and outcomes ------------------------------------------------------------------------------------------

    @staticmethod
    def _may_grow(followed: Followed) -> bool:
        goal = max(followed.goal, followed.held.length)
        return followed.chain_end < goal and not followed.is_done and not followed.is_parked

    def _may_fork(self, followed: Followed) -> bool:
        """Its drafts may be in flight, and the chain has gone one further, so that each place has its rivals."""
        is_ready = len(followed.made) > followed.num_sent or followed.is_done
        return bool(self._fanout and followed.num_sent and is_ready and not followed.has_forked)

    def _drop_lost_forks(self, followed: Followed) -> None:
        """What a fork reads is gone once its request, or it, gave up its blocks."""
        count = self._steps.blocks.count
        if followed.forks and not all(count(f.held.request_id) for f in (followed, *followed.forks.values())):
            self._steps.drop_forks(followed)

    def _is_due(self, followed: Followed) -> bool:
        """Is this the moment to send what was made ahead: half way, and when there is no more to do?"""
        if not any(map(self._may_grow, (followed, *followed.forks.values()))):
            return True
        return len(followed.made) == followed.num_sent + 1 + (followed.num_sent + 1) // 2


def _park_idle(tried: list[Followed], ran: list[Followed]) -> None:
    if not ran:
        for followed in tried:
            followed.is_parked = True
