"""Run one step: plan in, result out. Holds the KV pages and the state of every open request.

Knows nothing of queues, clients or why a plan looks as it does. The model, the pages and the acceptance rule are handed
in; plain decoding is verification of no drafts, so there is one path through here.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..core.plan import NewRequest, Row, RowResult, StepPlan, StepResult, TokenLogprobs
from ..nn.model import KVCache, Model
from ..types import ErrorInfo, RequestId
from .acceptance import Accepted, Rule, VerifyBatch
from .batch import pack
from .grammar import Grammars
from .grammar_masks import Masker, StepMasks
from .logprobs import describe
from .moves import Moves
from .observe import Observer, Seen
from .sampler import Ask, process
from .state import Fed, RequestTable, RowError

_PROMPT_LOGITS = 64
"""Rows of prompt logits made at once: a chunk of 256 over a vocabulary of 150k would take 150 MB."""


class Runner:
    """The target's side of a step. One call at a time; a failure of one request is that row's error, others raise."""

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        rule: Rule,
        *,
        device: torch.device | str = "cpu",
        observer: Observer | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self._model = model
        self._grammars = grammars
        self._masker = Masker(model.config.vocab_size)
        self._observer = observer
        self._wanted_layers = observer.wanted_layers if observer is not None else ()
        self._kv = kv
        self._rule = rule
        self._device = torch.device(device)
        self._table = RequestTable(
            num_blocks=kv.k[0].shape[0], block_size=kv.block_size, vocab_size=model.config.vocab_size
        )

    @property
    def num_held(self) -> int:
        """Open requests."""
        return len(self._table)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """Forget ``plan.closed``, open ``plan.new``, run ``plan.rows``; results in the order of the rows."""
        began = time.perf_counter()
        for request_id in plan.closed:
            self._close(request_id)
        refused = self._open(plan.new)
        results: dict[int, RowResult] = {}
        fed: list[Fed] = []
        for place, row in enumerate(plan.rows):
            try:
                if row.request_id in refused:
                    raise refused[row.request_id]
                fed.append(self._table.admit(place, row))
            except RowError as e:
                results[place] = self._failed(row, e)
        if fed:
            self._step(fed, results)
        elapsed_s = time.perf_counter() - began  # of the target's step alone: what drafting costs is told on its own
        drafts = self._observer.propose(plan) if self._observer is not None else []
        rows = [results[i] for i in range(len(plan.rows))]
        return StepResult(plan.step, rows, elapsed_s, drafts, time.perf_counter() - began - elapsed_s)

    def forget(self) -> None:
        """Close every request, as when the scheduler that opened them is gone."""
        for request_id in self._table.request_ids:
            self._close(request_id)

    def _close(self, request_id: RequestId) -> None:
        self._table.close(request_id)
        if self._observer is not None:
            self._observer.closed(request_id)

    def _open(self, requests: Sequence[NewRequest]) -> dict[RequestId, RowError]:
        refused: dict[RequestId, RowError] = {}
        for new in requests:
            try:
                self._hold(new)
            except RowError as e:
                refused[new.request_id] = e
            else:
                if self._observer is not None:
                    self._observer.opened(new)
        return refused

    def _hold(self, new: NewRequest) -> None:
        """Open a request; under a grammar it goes on behind the output that it comes with.

        Raises:
            RowError: it cannot be held, or nothing here can compile its grammar.
        """
        grammar = new.params.grammar
        if grammar and self._grammars is None:
            raise RowError("this server has no grammar engine; leave response_format and structured_outputs out",
                           is_invalid=True)  # fmt: skip
        held = self._table.open(new)
        if grammar and self._grammars is not None:
            held.constraint = self._grammars.constraint(grammar, new.token_ids[new.num_prompt :])

    def _step(self, fed: list[Fed], results: dict[int, RowResult]) -> None:
        batch, starts = pack(fed, self._table, self._kv.block_size, self._device)
        masks = self._masker.begin(
            [(f.held.constraint, f.row.draft_ids, f.row.draft_parents) for f in fed if f.row.yields]
        )
        layers = dict.fromkeys(self._wanted_layers, batch.token_ids)  # to be replaced
        hidden = self._model.forward(batch, self._kv, layers) if layers else self._model.forward(batch, self._kv)
        yielding: list[Fed] = []
        places: list[int] = []  # of the hidden states from which tokens are chosen
        for item, start, end in zip(fed, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            row = item.row
            if row.yields:
                yielding.append(item)
                places += range(end - len(row.draft_ids) - 1, end)
            results[item.place] = self._prompt_result(item, hidden[start:end])
        if yielding:
            chosen_by = hidden
            if len(places) < len(hidden):
                chosen_by = hidden[torch.tensor(places, device=hidden.device)]
            self._choose(yielding, chosen_by, results, masks)
        if self._observer is not None:
            answers = [results[item.place] for item in fed]
            self._observer.observe(list(_seen(fed, answers, starts.tolist(), self._table, hidden, layers)))

    def _choose(
        self, rows: list[Fed], hidden: torch.Tensor, results: dict[int, RowResult], masks: StepMasks | None
    ) -> None:
        """Choose and commit the tokens of ``rows``; hidden [S, hidden_size], a row's positions next to each other."""
        logits = self._model.logits(hidden)
        asks = [
            Ask(f.held, r.draft_ids, self._table.context(f.held, len(r.draft_ids)), r.draft_q, r.draft_parents)
            for f in rows
            for r in [f.row]
        ]
        raw = _raw_rows(logits, asks)
        batch = process(logits, asks, masks)
        faults = masks.faults if masks is not None else {}
        accepted = self._rule.accept(batch)
        moves = Moves()
        usable = _usable(batch, accepted)
        for i, (item, answer, unedited) in enumerate(zip(rows, accepted, raw, strict=True)):
            row, params = item.row, item.held.params
            if i in faults or not usable[i]:
                error = RowError(faults[i], is_invalid=True) if i in faults else _no_token(item)
                results[item.place] = self._failed(row, error)
                continue
            logprobs = None
            if unedited is not None:
                top, only = params.logprobs or 0, params.logprob_token_ids
                lines = zip(answer.token_ids, _places(answer), strict=True)
                logprobs = [describe(unedited[at], token, top, only) for token, at in lines]
            if answer.path:
                moves.straighten(self._table.blocks[item.held.line], item.held.length, answer.path, self._kv.block_size)
            self._table.commit(item.held, answer.token_ids)
            results[item.place] = RowResult(
                row.request_id,
                row.epoch,
                answer.token_ids,
                answer.num_accepted,
                logprobs,
                results[item.place].prompt_logprobs,
                path=answer.path,
            )
        moves.apply(self._kv)

    def _prompt_result(self, item: Fed, hidden: torch.Tensor) -> RowResult:
        """What the prompt's part of a row makes known, before tokens are chosen; hidden [count, hidden_size]."""
        row, pool, embedding = item.row, item.held.pool, None
        if pool is not None:
            if not pool.add(hidden, row.start):
                return self._failed(row, RowError(f"row starts at {row.start}, but its prompt's mean needs all of it"))
            if row.start + row.num_tokens == item.held.num_prompt and (embedding := pool.vector()) is None:
                return self._failed(row, RowError("the model gave no finite hidden states; check its weights"))
        prompt_logprobs = self._prompt_logprobs(item, hidden)
        return RowResult(row.request_id, row.epoch, [], prompt_logprobs=prompt_logprobs, embedding=embedding)

    def _prompt_logprobs(self, item: Fed, hidden: torch.Tensor) -> list[TokenLogprobs] | None:
        """Of the prompt tokens behind those fed; hidden [count, hidden_size] of the row."""
        held, start = item.held, item.row.start
        top = held.params.prompt_logprobs
        end = min(start + item.row.num_tokens, held.num_prompt - 1)
        if top is None or end <= start:
            return None
        tokens = self._table.context(held)[start + 1 : end + 1].tolist()
        found: list[TokenLogprobs] = []
        for first in range(0, len(tokens), _PROMPT_LOGITS):
            part = tokens[first : first + _PROMPT_LOGITS]
            rows = self._model.logits(hidden[first : first + len(part)]).cpu().numpy()
            found += [describe(line, token, top) for line, token in zip(rows, part, strict=True)]
        return found

    def _failed(self, row: Row, error: RowError) -> RowResult:
        self._close(row.request_id)
        info = ErrorInfo(kind="internal", message=str(error), code="internal_error")
        if error.is_invalid:
            info = ErrorInfo(kind="invalid", message=str(error))
        return RowResult(row.request_id, row.epoch, [], error=info)


def _raw_rows(logits: torch.Tensor, asks: Sequence[Ask]) -> list[np.ndarray | None]:
    """Copies [k + 1, vocab_size] for the asks that want logprobs, taken before processing overwrites them."""
    raw: list[np.ndarray | None] = []
    end = 0
    for ask in asks:
        start, end = end, end + len(ask.draft_ids) + 1
        params = ask.held.params
        wanted = params.logprobs is not None or params.logprob_token_ids is not None
        raw.append(logits[start:end].cpu().numpy().copy() if wanted else None)
    return raw


def _places(answer: Accepted) -> Sequence[int]:
    """Which of its row's positions chose each token of an answer."""
    return range(len(answer.token_ids)) if answer.path is None else [0, *(1 + node for node in answer.path)]


def _usable(batch: VerifyBatch, accepted: Sequence[Accepted]) -> list[bool]:
    """Whether all committed tokens of each row had finite logits: not if every id was masked or the model made NaNs."""
    places = [batch.starts[r] + i for r, answer in enumerate(accepted) for i in _places(answer)]
    tokens = [token for answer in accepted for token in answer.token_ids]
    # Without a copy to the host of more than these; on a CPU numpy does this in a tenth of torch's time.
    chosen = batch.logits.numpy()[places, tokens] if batch.logits.is_cpu else batch.logits[places, tokens].cpu().numpy()
    finite = np.isfinite(chosen).tolist()
    usable: list[bool] = []
    at = 0
    for answer in accepted:
        usable.append(all(finite[at : at + len(answer.token_ids)]))
        at += len(answer.token_ids)
    return usable


def _seen(
    fed: Sequence[Fed],
    answers: Sequence[RowResult],
    starts: list[int],
    table: RequestTable,
    hidden: torch.Tensor,
    layers: dict[int, torch.Tensor],
) -> Iterator[Seen]:
    """What the rows that did not fail made known; hidden and layers [T, hidden_size] of the whole step."""
    for item, answer, first in zip(fed, answers, starts, strict=False):
        if answer.error is not None:
            continue
        row = item.row
        places = [*range(first, first + row.num_tokens)]
        nodes = range(answer.num_accepted) if answer.path is None else answer.path
        places += [first + row.num_tokens + node for node in nodes]
        whole = slice(first, first + len(places))  # a view where nothing lies in between
        at = whole if places[-1] == whole.stop - 1 else torch.tensor(places, device=hidden.device)
        known = table.context(item.held)[row.start : row.start + len(places) + 1].tolist()
        yield Seen(
            row.request_id,
            row.epoch,
            row.start,
            known[: len(places)],
            known[len(places)] if len(known) > len(places) else None,
            row.yields,
            hidden[at],
            {layer: states[at] for layer, states in layers.items()},
        )


def _no_token(item: Fed) -> RowError:
    params = item.held.params
    if params.allowed_token_ids is not None or params.bad_words or params.min_tokens or params.grammar:
        also = ", a grammar" if params.grammar else ""
        return RowError(
            f"no token is possible at position {item.held.length}: allowed_token_ids, bad_words{also} and min_tokens"
            " together exclude all; allow at least one that is none of the others",
            is_invalid=True,
        )
    return RowError(f"the model gave no finite logits at position {item.held.length}; check its weights")
