"""Requests whose tokenizer died: they go on, and all their output is kept until a new tokenizer asks for it.

Those of which nobody asks in time end: their clients have left meanwhile, or no tokenizer came. It never matters to a
text whether a request was kept, because one that was not is computed again to the same tokens; only to how long that
takes. So neither what had ended before the death is kept, nor log-probabilities.
"""

import asyncio
from collections.abc import Callable

import msgspec

from ..engine.core.plan import RequestOutput
from ..engine.types import RequestId, SamplingParams
from .neighbour import Neighbour

_ASK_S = 10.0
"""How long a new tokenizer may take to ask for all that its clients still want: it has prompts to encode."""


class Orphans:
    """See the module's docstring. Empty while the tokenizer lives and knows its requests."""

    def __init__(self, tokenizer_epoch: int, abort: Callable[[RequestId], None]) -> None:
        """``abort`` ends a request for which nobody asked."""
        self._tokenizer = Neighbour("tokenizer", tokenizer_epoch, self._end)
        self._abort = abort
        self._outputs: dict[RequestId, RequestOutput] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._outputs)

    def lost(self, epoch: int) -> bool:
        """A tokenizer is dead; whether what it had must be taken in now."""
        return self._tokenizer.lost(epoch)

    def met(self, epoch: int) -> bool:
        """A tokenizer can work; whether another must have died of which nobody has told."""
        was_up = self._tokenizer.is_up
        if not self._tokenizer.met(epoch):
            return False
        self._stop_clock()
        self._timer = asyncio.get_running_loop().call_later(_ASK_S, self._end)
        return was_up

    def take(self, so_far: RequestOutput) -> None:
        """Keep a request's output, of which this is the whole."""
        self._outputs[so_far.request_id] = so_far

    def keeps(self, output: RequestOutput) -> bool:
        """More output of a request: whether it is kept here, and so for nobody else."""
        before = self._outputs.get(output.request_id)
        if before is None:
            return False
        before.token_ids.extend(output.token_ids)
        self._outputs[output.request_id] = msgspec.structs.replace(
            output,
            offset=0,
            token_ids=before.token_ids,
            num_cached=max(before.num_cached, output.num_cached),
            queue_s=max(before.queue_s, output.queue_s),
        )
        return True

    def give(self, request_id: RequestId) -> RequestOutput | None:
        """All output so far of a request that has somebody again; None = it is none of these."""
        return self._outputs.pop(request_id, None)

    def close(self) -> None:
        """Stop all clocks."""
        self._tokenizer.close()
        self._stop_clock()

    def _end(self) -> None:
        for request_id in list(self._outputs):
            self._outputs.pop(request_id, None)
            self._abort(request_id)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def can_be_kept(params: SamplingParams) -> bool:
    """Whether ids are all that a request's output has."""
    return params.logprobs is None and params.logprob_token_ids is None and params.prompt_logprobs is None
