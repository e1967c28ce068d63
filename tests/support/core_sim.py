"""A target of few lines, a naive generator, and a harness that drives the core between them.

The fake target knows only what plans tell it, like the real one. Its "KV" of a position is a checksum of all tokens up
to it, so that a wrong block, a stale slot or a lost token shows at the first read. Its next token is a function of the
prefix.
"""

import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from zlib import crc32

from hypothesis import HealthCheck, settings

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import (
    DraftDepth,
    Drafts,
    NewRequest,
    RequestOutput,
    Row,
    RowResult,
    StepPlan,
    StepResult,
    TokenLogprobs,
)
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.types import SamplingParams

VOCAB = 32
_FACTOR = int(os.environ.get("PACELINE_EXAMPLES", "1"))


def bounded(max_examples: int, steps: int = 50) -> settings:
    """Hypothesis settings: the same few examples in every run, or PACELINE_EXAMPLES times as many, drawn afresh."""
    return settings(
        max_examples=max_examples * _FACTOR,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=_FACTOR == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def config(**changes: object) -> CoreConfig:
    """A small core; any field may be changed."""
    fields: dict[str, object] = {
        "num_blocks": 64,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "max_in_flight": 1,
        "max_model_len": 64,
        "vocab_size": VOCAB,
    }
    return CoreConfig(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def checksum(token_ids: Sequence[int], start: int = 0) -> int:
    """Of a prefix; ``start`` is the checksum of what comes before it."""
    for token in token_ids:
        start = crc32(token.to_bytes(4, "little"), start)
    return start


def draw(prefix: Sequence[int], num_output: int, params: SamplingParams) -> int:
    """The next token behind ``prefix``. Ids that may end the output are masked before ``min_tokens``."""
    masked = {*params.end_ids, *params.stop_token_ids} if num_output + 1 < params.min_tokens else set[int]()
    token = checksum(prefix, params.seed & 0xFFFF) % VOCAB
    while token in masked:
        token = (token + 1) % VOCAB
    return token


def naive(prompt: Sequence[int], params: SamplingParams) -> tuple[list[int], str, int | None]:
    """Output, finish reason and stop reason of a request alone in the world."""
    output: list[int] = []
    if params.pooling is not None:
        return output, "stop", None
    while len(output) < params.max_tokens:
        token = draw([*prompt, *output], len(output), params)
        output.append(token)
        if len(output) >= params.min_tokens:
            if token in params.end_ids and not params.ignore_eos:
                return output, "stop", None
            if token in params.stop_token_ids:
                return output, "stop", token
    return output, "length", None


def vector_of(prompt: Sequence[int]) -> bytes:
    """Stands for what a prompt is pooled to."""
    return checksum(prompt).to_bytes(4, "little")


def logprob_of(prefix: Sequence[int], token: int) -> TokenLogprobs:
    """Stands for the model's opinion of ``token`` behind ``prefix``."""
    return TokenLogprobs(token, -float(checksum([*prefix, token]) % 1000), 1, [], [])


def paths_of(row: Row) -> list[list[int]]:
    """For each draft of a row the nodes from the root's child down to it."""
    paths: list[list[int]] = []
    for node, parent in enumerate(row.draft_parents or range(-1, len(row.draft_ids) - 1)):
        paths.append([*(paths[parent] if parent >= 0 else []), node])
    return paths


class _Held:
    """What the target keeps of one request."""

    def __init__(self, new: NewRequest) -> None:
        self.epoch = new.epoch
        self.tokens = list(new.token_ids)
        self.num_prompt = new.num_prompt
        self.params = new.params
        self.table = list(new.block_ids)
        self.newest_from = -1
        self.num_fed = 0


class FakeTarget:
    """Runs plans in order over real slots, and refuses any plan that the real runner could not run."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.kv: dict[tuple[int, int], int] = {}
        self.held: dict[str, _Held] = {}
        self.last_step = -1
        self.num_tokens_run = 0

    def run(self, plan: StepPlan) -> StepResult:
        assert plan.step > self.last_step
        self.last_step = plan.step
        for request_id in plan.closed:
            del self.held[request_id]
        for new in plan.new:
            assert new.request_id not in self.held
            self.held[new.request_id] = _Held(new)
        assert len({row.request_id for row in plan.rows}) == len(plan.rows)
        return StepResult(plan.step, [self._row(row, plan.step) for row in plan.rows])

    def _row(self, row: Row, step: int) -> RowResult:
        held = self.held[row.request_id]
        assert held.epoch == row.epoch
        assert row.num_blocks <= len(held.table)
        held.table[row.num_blocks :] = row.new_block_ids
        end = row.start + row.num_tokens
        assert row.num_tokens > 0 and end <= len(held.tokens)
        if row.after >= 0:
            assert (row.after, end) == (held.newest_from, len(held.tokens))
        self.num_tokens_run += row.num_tokens + len(row.draft_ids)
        for position in range(row.start):
            assert self.kv[self._slot(held, position)] == checksum(held.tokens[: position + 1]), (row, position)
        for position in range(row.start, end):
            self.kv[self._slot(held, position)] = checksum(held.tokens[: position + 1])
        paths = paths_of(row)
        for node, path in enumerate(paths):
            text = held.tokens + [row.draft_ids[n] for n in path]
            self.kv[self._slot(held, end + node)] = checksum(text)
        prompt_logprobs = None
        if held.params.prompt_logprobs is not None:
            last = min(end, held.num_prompt - 1)
            prompt_logprobs = [logprob_of(held.tokens[:p], held.tokens[p]) for p in range(row.start + 1, last + 1)]
        if not row.yields:
            assert not row.draft_ids
            held.num_fed += row.num_tokens
            vector = None
            if held.params.pooling is not None and end == held.num_prompt:
                assert held.params.pooling.kind == "last" or held.num_fed == end, "a mean of a part"
                vector = vector_of(held.tokens)
            return RowResult(row.request_id, row.epoch, [], prompt_logprobs=prompt_logprobs, embedding=vector)
        assert end == len(held.tokens)
        if row.draft_q is not None:
            assert [ids[0] for ids, _ in row.draft_q] == row.draft_ids, "a law of another draft"
        num_before = len(held.tokens)
        at: list[int] = []
        while True:
            token = draw(held.tokens, len(held.tokens) - held.num_prompt, held.params)
            held.tokens.append(token)
            child = next((n for n, p in enumerate(paths) if p[:-1] == at and row.draft_ids[n] == token), None)
            if child is None:
                break
            at = paths[child]
        accepted = len(at)
        for offset, node in enumerate(at):
            self.kv[self._slot(held, end + offset)] = self.kv[self._slot(held, end + node)]
        held.newest_from = step
        logprobs = None
        if held.params.logprobs is not None:
            logprobs = [logprob_of(held.tokens[:p], held.tokens[p]) for p in range(num_before, len(held.tokens))]
        path = None if row.draft_parents is None else at
        ids = held.tokens[num_before:]
        return RowResult(row.request_id, row.epoch, ids, accepted, logprobs, prompt_logprobs, path=path)

    def _slot(self, held: _Held, position: int) -> tuple[int, int]:
        return held.table[position // self.block_size], position % self.block_size


class Stream:
    """What a receiver has of one request."""

    def __init__(self, prompt: list[int], params: SamplingParams, output: Sequence[int] = ()) -> None:
        self.prompt = prompt
        self.params = params
        self.output = list(output)
        self.offset = len(self.output)
        self.logprobs: list[TokenLogprobs] = []
        self.first: RequestOutput | None = None
        self.last: RequestOutput | None = None

    def take(self, output: RequestOutput) -> None:
        assert self.last is None, "an output after the last one"
        assert output.offset == len(self.output), "a token lost or doubled"
        assert output.token_ids or output.finish_reason is not None
        self.output += output.token_ids
        if self.params.logprobs is not None:
            assert len(output.logprobs or []) == len(output.token_ids)
            self.logprobs += output.logprobs or []
        if self.first is None:
            self.first = output
        else:
            assert output.prompt_logprobs is None and output.num_cached == 0 and output.queue_s == 0.0
        if output.finish_reason is not None:
            self.last = output

    def verify(self) -> None:
        """Complete, and the same as alone in the world."""
        assert self.first is not None and self.last is not None
        tokens, finish, stop = naive(self.prompt, self.params)
        if self.last.finish_reason in ("abort", "error"):
            assert self.output == tokens[: len(self.output)]
            return
        assert (self.output, self.last.finish_reason, self.last.stop_reason) == (tokens, finish, stop)
        assert self.last.embedding == (None if self.params.pooling is None else vector_of(self.prompt))
        everything = self.prompt + tokens
        if self.params.logprobs is not None:
            start = len(self.prompt) + self.offset
            assert self.logprobs == [logprob_of(everything[:p], everything[p]) for p in range(start, len(everything))]
        if self.params.prompt_logprobs is not None and not self.offset:
            wanted = [logprob_of(everything[:p], everything[p]) for p in range(1, len(self.prompt))]
            assert self.first.prompt_logprobs == wanted


class Harness:
    """A core, a fake target that answers as late as it is told to, and the receivers. ``check()`` after every call."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.core = Scheduler(config)
        self.target = FakeTarget(config.block_size)
        self.unanswered: deque[StepPlan] = deque()
        self.streams: dict[str, Stream] = {}
        self.now = 0.0
        self.plans: list[StepPlan] = []
        self.edit: Callable[[StepResult], StepResult] = lambda result: result
        """Changes the target's answers, to break them."""

    def add(
        self,
        request_id: str,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        output_ids: Sequence[int] = (),
        **options: object,
    ) -> Stream:
        params = params or SamplingParams(max_tokens=8)
        self.core.add(request_id, prompt, params, now=self.now, output_ids=output_ids, **options)  # pyright: ignore[reportArgumentType]
        self.core.check()
        self.streams[request_id] = stream = Stream(list(prompt), params, output_ids)
        self.take(self.core.take_outputs())
        return stream

    def schedule(self, depth: DraftDepth = 0) -> StepPlan | None:
        plan = self.core.schedule(self.now, depth)
        self.core.check()
        self.take(self.core.take_outputs())
        if plan is not None:
            assert sum(row.num_tokens + len(row.draft_ids) for row in plan.rows) <= self.config.max_num_batched_tokens
            self.unanswered.append(plan)
            self.plans.append(plan)
        return plan

    def answer(self) -> list[RequestOutput]:
        plan = self.unanswered.popleft()
        outputs = self.core.apply(plan, self.edit(self.target.run(plan)))
        self.core.check()
        self.take(outputs)
        return outputs

    def abort(self, request_id: str) -> list[RequestOutput]:
        outputs = self.core.abort(request_id)
        self.core.check()
        self.take(outputs)
        return outputs

    def lose_target(self) -> None:
        """The target dies with all plans; a bare one takes over."""
        self.core.forget_kv()
        self.core.check()
        self.take(self.core.take_outputs())
        self.unanswered.clear()
        self.target = FakeTarget(self.config.block_size)

    def take(self, outputs: Sequence[RequestOutput]) -> None:
        for output in outputs:
            self.streams[output.request_id].take(output)

    def step(self, depth: DraftDepth = 0) -> StepPlan | None:
        """Plan, and answer once no further plan can be made."""
        plan = self.schedule(depth)
        if self.unanswered and (plan is None or len(self.unanswered) == self.config.max_in_flight):
            self.answer()
        return plan

    def run(self, depth: DraftDepth = 0, most: int = 2000, speculate: "Guesser | None" = None) -> "Harness":
        """Until everything is done, which must come within ``most`` rounds; then nothing may be left over."""
        for _ in range(most):
            if not self.core.has_work():
                break
            if speculate is not None:
                speculate.offer_all(self)
            self.step(depth)
        assert not self.core.has_work(), "stuck"
        self.verify_idle()
        return self

    def verify(self) -> None:
        for stream in self.streams.values():
            stream.verify()

    def verify_idle(self) -> None:
        """No request, no plan, every block free or cached."""
        stats = self.core.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_in_flight, stats.num_queued_tokens) == (0, 0, 0, 0)
        assert stats.num_free_blocks + stats.num_cached_blocks == self.config.num_blocks
        assert self.core.next_deadline() is None


class Guesser:
    """Drafts that are right with a given chance each; chains or trees; made for the length that was committed last.

    Some come with laws whose first id is the draft, so that the target notices a law that went astray.
    """

    def __init__(self, seed: int, chance: float, most: int = 6, tree: bool = False) -> None:
        self.random = random.Random(seed)
        self.chance = chance
        self.most = most
        self.tree = tree
        self.epochs: dict[str, int] = {}

    def offer_all(self, harness: Harness) -> None:
        for plan in harness.plans[-2:]:
            self.epochs.update({row.request_id: row.epoch for row in plan.rows})
        for request_id, stream in harness.streams.items():
            if stream.last is None and request_id in self.epochs:
                harness.core.offer(self.drafts(request_id, stream))

    def drafts(self, request_id: str, stream: Stream) -> Drafts:
        ids: list[int] = []
        parents: list[int] = []
        tokens = stream.prompt + stream.output
        for node in range(self.random.randint(0, self.most)):
            parent = self.random.randint(max(-1, node - 3), node - 1) if self.tree else node - 1
            path: list[int] = []
            at = parent
            while at >= 0:
                path.insert(0, ids[at])
                at = parents[at]
            right = draw(tokens + path, len(stream.output) + len(path), stream.params)
            ids.append(right if self.random.random() < self.chance else self.random.randrange(VOCAB))
            parents.append(parent)
        laws = [([x, (x + 1) % VOCAB], [0.5, 0.0]) for x in ids] if self.random.random() < 0.5 else None
        return Drafts(
            request_id, self.epochs[request_id], len(tokens), ids, parents if self.tree else None, draft_q=laws
        )
