"""What the runner remembers of each request between steps: token ids, block table, sampling state.

Ids and block tables live in two arrays with a line per request, so that a step is packed by indexing, not by looping.
Everything that arrives in a plan is checked here, once, because a wrong block or position would be written to memory by
kernels that cannot check. A failed check is a ``RowError``: it ends that request and nobody else's.
"""

from dataclasses import dataclass

import numpy as np

from ..core.plan import NewRequest, Row, is_law
from ..types import RequestId, SamplingParams
from .edits import Edits
from .grammar import Constraint
from .pooling import Pool


class RowError(Exception):
    """One request cannot go on; the message goes to its client. ``is_invalid``: what it asked for is impossible."""

    def __init__(self, message: str, *, is_invalid: bool = False) -> None:
        super().__init__(message)
        self.is_invalid = is_invalid


@dataclass(slots=True)
class Held:
    """One request. ``length`` counts committed tokens; drafts of the current step lie behind them."""

    request_id: RequestId
    epoch: int
    line: int
    """Its line in the table's arrays."""
    num_prompt: int
    length: int
    num_blocks: int
    params: SamplingParams
    edits: Edits | None
    """None when nothing but temperature, filters and seed shapes its logits."""
    filtered: bool
    """top_k, top_p or min_p is on."""
    seed: int
    """64 bits, as the signed value that tensors hold."""
    constraint: Constraint | None = None
    """Where its output stands in its grammar; None when it is free."""
    pool: Pool | None = None
    """What its prompt has been pooled to so far; None when output is wanted."""


@dataclass(slots=True)
class Fed:
    """One row of the running step: ``count`` tokens (drafts included) from ``row.start`` on."""

    place: int
    """Index in the plan."""
    row: Row
    held: Held
    count: int


class RequestTable:
    """All held requests. ``tokens`` int32 [lines, longest], ``blocks`` int32 [lines, most blocks], unused blocks 0."""

    def __init__(self, *, num_blocks: int, block_size: int, vocab_size: int) -> None:
        self.tokens = np.zeros((8, 256), np.int32)
        self.blocks = np.zeros((8, 16), np.int32)
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._held: dict[RequestId, Held] = {}
        self._free_lines = list(range(8))

    def __len__(self) -> int:
        return len(self._held)

    def open(self, new: NewRequest) -> Held:
        """Hold a request; one of the same id is replaced.

        Raises:
            RowError: no tokens, or ids outside the vocabulary or the pool.
        """
        self.close(new.request_id)
        ids = np.asarray(new.token_ids, np.int64)
        if not 0 < new.num_prompt <= len(ids):
            raise RowError(f"request opened with {len(ids)} tokens of which {new.num_prompt} are the prompt")
        self._check_tokens(ids)
        params = new.params
        self._check_tokens(np.asarray(named_ids(params), np.int64))
        held = Held(
            request_id=new.request_id,
            epoch=new.epoch,
            line=self._take_line(),
            num_prompt=new.num_prompt,
            length=len(ids),
            num_blocks=0,
            params=params,
            edits=Edits.of(params, new.token_ids, new.num_prompt),
            filtered=params.temperature > 0 and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0),
            seed=signed64(params.seed),
            pool=None if params.pooling is None else Pool(params.pooling),
        )
        self._held[new.request_id] = held
        self._fit_tokens(len(ids))
        self.tokens[held.line, : len(ids)] = ids
        try:
            self._append_blocks(held, new.block_ids)
        except RowError:
            self.close(new.request_id)
            raise
        return held

    def close(self, request_id: RequestId) -> None:
        """Forget a request; an unknown one is no error, since it may have failed here before the core heard of it."""
        held = self._held.pop(request_id, None)
        if held is not None:
            self.blocks[held.line, : held.num_blocks] = 0
            self._free_lines.append(held.line)

    @property
    def request_ids(self) -> list[RequestId]:
        """Of all held requests, a new list."""
        return list(self._held)

    def admit(self, place: int, row: Row) -> Fed:
        """Bring the block table up to date, lay the drafts behind the committed tokens, and check the row.

        Raises:
            RowError: the row does not fit what is held, or would read or write outside its blocks.
        """
        held = self._held.get(row.request_id)
        if held is None or held.epoch != row.epoch:
            have = "none" if held is None else f"epoch {held.epoch}"
            raise RowError(f"row of epoch {row.epoch} for a request of which the target holds {have}")
        if row.num_blocks < held.num_blocks:
            self.blocks[held.line, row.num_blocks : held.num_blocks] = 0
            held.num_blocks = row.num_blocks
        if row.num_blocks > held.num_blocks:
            raise RowError(f"row keeps {row.num_blocks} blocks of a table of {held.num_blocks} blocks")
        if row.new_block_ids:
            self._append_blocks(held, row.new_block_ids)
        drafts = row.draft_ids
        end = row.start + row.num_tokens
        if row.start < 0 or row.num_tokens < 1 or end > held.length or ((row.yields or drafts) and end != held.length):
            raise RowError(f"row feeds positions {row.start}..{end - 1} of {held.length} committed tokens")
        if drafts:
            self._lay_drafts(held, row)
            end += len(drafts)
        if end > held.num_blocks * self._block_size:
            raise RowError(f"row needs {end} slots but its table has {held.num_blocks} blocks of {self._block_size}")
        return Fed(place, row, held, row.num_tokens + len(drafts))

    def commit(self, held: Held, token_ids: list[int]) -> None:
        """Append committed tokens, over whatever drafts lay there."""
        end = held.length + len(token_ids)
        self._fit_tokens(end)
        self.tokens[held.line, held.length : end] = token_ids
        held.length = end
        if held.edits is not None:
            held.edits.push(token_ids)
        if held.constraint is not None:
            held.constraint.push(token_ids)

    def context(self, held: Held, num_drafts: int = 0) -> np.ndarray:
        """Committed tokens and the first ``num_drafts`` drafts of this step, int32, a view."""
        return self.tokens[held.line, : held.length + num_drafts]

    def _lay_drafts(self, held: Held, row: Row) -> None:
        if not row.yields:
            raise RowError("row carries drafts but does not yield")
        parents = row.draft_parents
        if parents is not None and (
            len(parents) != len(row.draft_ids) or not all(-1 <= p < i for i, p in enumerate(parents))
        ):
            raise RowError(f"row carries {len(row.draft_ids)} drafts that form no tree: parents {parents}")
        drafts = np.asarray(row.draft_ids, np.int64)
        self._check_tokens(drafts)
        self._check_laws(row)
        end = held.length + len(drafts)
        self._fit_tokens(end)
        self.tokens[held.line, held.length : end] = drafts

    def _check_tokens(self, ids: np.ndarray) -> None:
        if len(ids) and (ids.min() < 0 or ids.max() >= self._vocab_size):
            bad = ids[(ids < 0) | (ids >= self._vocab_size)][0]
            raise RowError(f"token id {bad} is outside the model's 0..{self._vocab_size - 1}")

    def _check_laws(self, row: Row) -> None:
        """The core checks this on receipt; but a wrong id would be read outside of the logits."""
        if row.draft_q is None:
            return
        if len(row.draft_q) != len(row.draft_ids):
            raise RowError(f"row carries {len(row.draft_ids)} drafts but the laws of {len(row.draft_q)}")
        for ids, weights in row.draft_q:
            self._check_tokens(np.asarray(ids, np.int64))
            if not is_law((ids, weights), self._vocab_size):
                raise RowError(
                    f"a draft's law has {len(set(ids))} distinct ids of {len(ids)} and {len(weights)} weights; as many"
                    " weights as distinct ids are needed, finite, not negative and one of them positive"
                )

    def _append_blocks(self, held: Held, block_ids: list[int]) -> None:
        if block_ids and not (min(block_ids) >= 0 and max(block_ids) < self._num_blocks):
            raise RowError(f"block ids {min(block_ids)}..{max(block_ids)} are outside the pool of {self._num_blocks}")
        end = held.num_blocks + len(block_ids)
        if end > self.blocks.shape[1]:
            self.blocks = _grown(self.blocks, self.blocks.shape[0], end)
        self.blocks[held.line, held.num_blocks : end] = block_ids
        held.num_blocks = end

    def _take_line(self) -> int:
        if not self._free_lines:
            lines = self.tokens.shape[0]
            self.tokens = _grown(self.tokens, lines + 1, self.tokens.shape[1])
            self.blocks = _grown(self.blocks, self.tokens.shape[0], self.blocks.shape[1])
            self._free_lines.extend(range(lines, self.tokens.shape[0]))
        return self._free_lines.pop()

    def _fit_tokens(self, length: int) -> None:
        if length > self.tokens.shape[1]:
            self.tokens = _grown(self.tokens, self.tokens.shape[0], length)


def named_ids(params: SamplingParams) -> list[int]:
    """Every token id that a request's parameters name."""
    ids = [*params.end_ids, *params.stop_token_ids, *(params.logit_bias or ()), *(params.allowed_token_ids or ())]
    for word in params.bad_words or ():
        ids += word
    return ids + (params.logprob_token_ids or [])


def signed64(seed: int) -> int:
    """The low 64 bits of ``seed`` as two's complement: what an int64 tensor can hold."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def _grown(old: np.ndarray, lines: int, width: int) -> np.ndarray:
    """A copy with room for ``lines`` and ``width``; a dimension that grows at least doubles."""
    sizes = zip(old.shape, (lines, width), strict=True)
    shape = [have if have >= need else max(need, 2 * have) for have, need in sizes]
    new = np.zeros(shape, old.dtype)
    new[: old.shape[0], : old.shape[1]] = old
    return new
