"""Plans at random: everything a scheduler may legally do to a runner, in any order, with no sense at all.

Chunks of any size, mixed steps, preemption, forks and prefix hits on shared blocks, drafts right and wrong, requests
left out of a step, blocks taken and given back in random order.
"""

import random
from dataclasses import dataclass, field

from paceline.engine.core.plan import NewRequest, Row, RowResult, StepPlan, TokenLogprobs, is_path
from paceline.engine.execution.runner import Runner
from paceline.engine.types import RequestId, SamplingParams


@dataclass
class Stream:
    """One request of the test; ``answer`` is what the judge says, drafts are made from it."""

    request_id: RequestId
    prompt: list[int]
    params: SamplingParams
    answer: list[int]
    output: list[int] = field(default_factory=list)
    epoch: int = 0
    open: bool = False
    computed: int = 0
    """Positions with valid KV."""
    blocks: list[int] = field(default_factory=list)
    told: int = 0
    """Blocks the runner knows of."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    accepted: int = 0

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.output

    @property
    def done(self) -> bool:
        return len(self.output) >= len(self.answer)


class RandomPlans:
    """Drives ``runner`` until all streams have as many tokens as their answers."""

    def __init__(
        self, streams: list[Stream], *, num_blocks: int, block_size: int, depth: int, seed: int, trees: bool = False
    ) -> None:
        self.streams = streams
        self._trees = trees
        self._rng = random.Random(seed)
        self._block_size = block_size
        self._depth = depth
        self._free = list(range(num_blocks))
        self._uses = [0] * num_blocks
        self._closed: list[RequestId] = []
        self.step = 0
        self.num_preempted = self.num_shared = 0

    def run(self, runner: Runner, most_steps: int = 5000) -> None:
        while not all(s.done for s in self.streams):
            assert self.step < most_steps, "no progress"
            plan, fed = self._plan()
            result = runner.run(plan)
            assert result.step == plan.step and len(result.rows) == len(plan.rows)
            for stream, row, answer in zip(fed, plan.rows, result.rows, strict=True):
                self._take(stream, row, answer)
        runner.run(StepPlan(self.step, self._closed, [], []))
        assert runner.num_held == 0

    def _plan(self) -> tuple[StepPlan, list[Stream]]:
        rng = self._rng
        new: list[NewRequest] = []
        rows: list[Row] = []
        fed: list[Stream] = []
        for stream in self.streams:
            if stream.open and not stream.done and rng.random() < 0.04:
                self._drop(stream)
                self.num_preempted += 1
        ready = [s for s in self.streams if not s.done]
        for stream in rng.sample(ready, rng.randint(1, len(ready))):
            opened = None if stream.open else self._open(stream)
            row = self._row(stream)
            if row is None:
                if opened is not None:
                    self._drop(stream)
                    self._closed.remove(stream.request_id)
                continue
            if opened is not None:
                new.append(opened)
            rows.append(row)
            fed.append(stream)
        if not rows:  # the pool is full of half-done requests
            for stream in self.streams:
                if stream.open:
                    self._drop(stream)
        plan = StepPlan(self.step, self._closed, new, rows)
        self.step += 1
        self._closed = []
        return plan, fed

    def _open(self, stream: Stream) -> NewRequest:
        stream.open = True
        whole = 0
        if stream.params.prompt_logprobs is None and self._rng.random() < 0.7:
            whole = max((self._common(stream, s) for s in self.streams if s.open and s is not stream), default=0)
            for other in self.streams:
                if whole and other.open and other is not stream and self._common(stream, other) == whole:
                    stream.blocks = other.blocks[:whole]
                    for block in stream.blocks:
                        self._uses[block] += 1
                    self.num_shared += 1
                    break
        stream.computed = whole * self._block_size
        stream.told = whole
        return NewRequest(
            stream.request_id, stream.epoch, stream.ids, len(stream.prompt), list(stream.blocks), stream.params
        )

    def _common(self, stream: Stream, other: Stream) -> int:
        """Whole computed blocks of ``other`` that ``stream`` may share; the last token is always computed anew."""
        same = 0
        for mine, theirs in zip(stream.ids[:-1], other.ids[: other.computed], strict=False):
            if mine != theirs:
                break
            same += 1
        return same // self._block_size

    def _row(self, stream: Stream) -> Row | None:
        rng = self._rng
        wanted = len(stream.ids) - stream.computed
        count = wanted if rng.random() < 0.5 else rng.randint(1, wanted)
        yields = count == wanted
        drafts: list[int] = []
        parents = None
        if yields and self._depth:
            drafts = self._drafts(stream, rng.randint(0, self._depth))
            if self._trees:
                drafts, parents = self._tree(stream, drafts)
        end = stream.computed + count + len(drafts)
        while len(stream.blocks) * self._block_size < end:
            if not self._free:
                return None
            block = self._free.pop(rng.randrange(len(self._free)))
            self._uses[block] = 1
            stream.blocks.append(block)
        row = Row(
            stream.request_id, stream.epoch, stream.computed, count, stream.told, stream.blocks[stream.told :], yields,
            draft_ids=drafts, draft_parents=parents,
        )  # fmt: skip
        stream.told = len(stream.blocks)
        return row

    def _drafts(self, stream: Stream, depth: int) -> list[int]:
        behind = stream.answer[len(stream.output) :]
        drafts = behind[: min(depth, len(behind) - 1)]
        if drafts and self._rng.random() < 0.5:
            at = self._rng.randrange(len(drafts))
            drafts[at] = stream.prompt[0]
        return drafts

    def _tree(self, stream: Stream, chain: list[int]) -> tuple[list[int], list[int]]:
        """``chain``, mixed with wrong nodes anywhere, in a random order that puts parents first."""
        rng = self._rng
        ids: list[int] = []
        parents: list[int] = []
        tip = -1
        while chain:
            wrong = rng.random() < 0.6
            parents.append(rng.randint(-1, len(ids) - 1) if wrong else tip)
            ids.append(rng.choice(stream.prompt) if wrong else chain.pop(0))
            tip = tip if wrong else len(ids) - 1
        return ids, parents

    def _take(self, stream: Stream, row: Row, answer: RowResult) -> None:
        assert answer.error is None, answer.error
        assert (answer.request_id, answer.epoch) == (row.request_id, row.epoch)
        if answer.prompt_logprobs:
            for i, entry in enumerate(answer.prompt_logprobs):
                stream.prompt_logprobs[row.start + 1 + i] = entry
        stream.computed = row.start + row.num_tokens
        if not row.yields:
            assert answer.token_ids == []
            return
        assert len(answer.token_ids) == answer.num_accepted + 1
        accepted = row.draft_ids[: answer.num_accepted]
        if row.draft_parents is not None:
            path = answer.path or []
            assert is_path(path, row.draft_parents)
            accepted = [row.draft_ids[node] for node in path]
        assert answer.token_ids[:-1] == accepted and len(accepted) == answer.num_accepted
        stream.accepted += answer.num_accepted
        stream.output += answer.token_ids
        stream.logprobs += answer.logprobs or []
        stream.computed += answer.num_accepted
        keep = -(-stream.computed // self._block_size)
        self._release(stream.blocks[keep:])
        del stream.blocks[keep:]
        stream.told = min(stream.told, keep)
        if stream.done:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self._release(stream.blocks)
        stream.blocks = []
        stream.open = False
        stream.epoch += 1
        self._closed.append(stream.request_id)

    def _release(self, blocks: list[int]) -> None:
        for block in blocks:
            self._uses[block] -= 1
            if not self._uses[block]:
                self._free.append(block)
