"""Rules as the runner calls them: batches in, committed tokens out. Chains, trees, greedy, shared noise."""

import pytest
import torch

from paceline.engine import plugins
from paceline.engine.execution.acceptance import Accepted, Rule, VerifyBatch
from paceline.kernels import noise, ops
from paceline.spec_decode.rules import block, coupled, token

LOSSLESS = [coupled, token, block]
SIZE = 40


def rows(
    drafts: list[list[int]],
    temperature: float = 1.0,
    q: list | None = None,
    parents: list[list[int] | None] | None = None,
    logits: torch.Tensor | None = None,
) -> VerifyBatch:
    """Random logits; row r has seed 5 + r and 10 r committed tokens; a node's place lies at its depth."""
    starts, positions, seeds = [0], [], []
    for r, ids in enumerate(drafts):
        starts.append(starts[-1] + len(ids) + 1)
        tree = parents[r] if parents else None
        depth = [0]
        for i in range(len(ids)):
            depth.append(depth[tree[i] + 1] + 1 if tree else i + 1)
        positions += [10 * r + d for d in depth]
        seeds += [5 + r] * len(depth)
    size = starts[-1]
    if logits is None:
        logits = torch.randn(size, SIZE, generator=torch.Generator().manual_seed(3)) * 2
    temperatures = torch.full((size,), temperature)
    return VerifyBatch(logits, temperatures, torch.tensor(seeds), torch.tensor(positions), starts, drafts, parents, q)


@pytest.mark.parametrize("name", plugins.names("spec_decode.rules"))
def test_plug_in_says_what_it_is(name: str) -> None:
    rule = plugins.load("spec_decode.rules", name)
    assert rule.LOSSLESS is not name.startswith("lossy")
    assert rule.__doc__ and callable(rule.build().accept)


@pytest.mark.parametrize("rule", LOSSLESS)
def test_without_drafts_every_rule_is_plain_decoding(rule) -> None:
    for temperature in (0.0, 1.0):
        batch = rows([[]] * 30, temperature)
        plain = ops.sample(batch.logits, batch.temperatures, batch.seeds, batch.positions).tolist()
        assert rule.build().accept(batch) == [Accepted([t], 0) for t in plain]


@pytest.mark.parametrize("rule", LOSSLESS)
@pytest.mark.parametrize("right", range(5))
def test_greedy_keeps_exactly_the_drafts_that_are_the_mode(rule, right: int) -> None:
    """Every accept length 0..k; with sure drafts and with sampled ones the text is that of plain greedy decoding."""
    modes = rows([[0] * 4]).logits.argmax(-1).tolist()
    chain = [*modes[:right], *((t + 1) % SIZE for t in modes[right:4])]
    laws = [([x, (x + 1) % SIZE, (x + SIZE - 1) % SIZE], [0.3, 0.5, 0.2]) for x in chain]
    for q in (None, [laws]):
        assert rule.build().accept(rows([chain], 0.0, q)) == [Accepted(modes[: right + 1], right)]


@pytest.mark.parametrize("rule", [token, block])
def test_a_batch_is_its_rows(rule) -> None:
    """Rows with and without laws, of several depths, together and one by one."""
    drafts = [[3, 4], [], [7], [1, 2, 3, 4, 5], [9, 9]]
    laws = [[([3, 5], [0.5, 0.5]), ([1, 2, 4], [1.0, 1.0, 2.0])], None, [([7], [1.0])], None, None]
    together = rows(drafts, q=laws)
    answers = rule.build().accept(together)
    for r, (start, end) in enumerate(zip(together.starts, together.starts[1:], strict=False)):
        part = slice(start, end)
        alone = VerifyBatch(
            together.logits[part], together.temperatures[part], together.seeds[part], together.positions[part],
            [0, end - start], [drafts[r]], q=[laws[r]],
        )  # fmt: skip
        assert rule.build().accept(alone) == [answers[r]]


@pytest.mark.parametrize("rule", [token, block])
def test_a_draft_without_a_law_was_sure(rule) -> None:
    drafts = [[a, a + 1] for a in range(20)]
    sure = [[([x], [1.0]) for x in chain] for chain in drafts]
    assert rule.build().accept(rows(drafts)) == rule.build().accept(rows(drafts, q=sure))


@pytest.mark.parametrize("rule", [token, block])
def test_a_law_counts(rule) -> None:
    """Under a law of many ids a draft that the target finds unlikely is accepted more often than a sure one."""
    drafts = [[a % SIZE, (a * 7) % SIZE] for a in range(200)]
    wide = [[(list(range(SIZE)), [1.0] * SIZE)] * 2] * 200
    told = sum(a.num_accepted for a in rule.build().accept(rows(drafts, q=wide)))
    assert told > 1.5 * sum(a.num_accepted for a in rule.build().accept(rows(drafts)))


@pytest.mark.parametrize("rule", [token, block])
def test_trees_are_refused_by_name(rule) -> None:
    with pytest.raises(ValueError, match="verifies chains, not trees"):
        rule.build().accept(rows([[1, 2]], parents=[[-1, -1]]))


# --- trees under the coupled rule -------------------------------------------------------------------------------------


def own_choices(parents: list[int], ids: list[int]) -> list[int]:
    batch = rows([ids], parents=[parents])
    return ops.sample(batch.logits, batch.temperatures, batch.seeds, batch.positions).tolist()


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_the_path_of_the_targets_own_choices_is_accepted(kept: int) -> None:
    r"""Root with children 0, 1, 2; 1 with children 3, 4; the right path is 1, 4."""
    parents = [-1, -1, -1, 1, 1]
    own = own_choices(parents, [0] * 5)  # of the root, then of each node: they do not depend on the ids here
    ids = [(own[0] + 1) % SIZE, own[0], (own[0] + 2) % SIZE, (own[2] + 1) % SIZE, own[2]]
    if kept < 2:
        ids[4] = (own[2] + 3) % SIZE
    if kept < 1:
        ids[1] = (own[0] + 3) % SIZE
    path = [1, 4][:kept]
    expected = Accepted([own[0], *(own[1 + n] for n in path)], kept, path)
    assert coupled.build().accept(rows([ids], parents=[parents])) == [expected]


def test_a_chain_given_as_a_tree_is_the_chain() -> None:
    chain = [5, 6, 7]
    own = own_choices([-1, 0, 1], chain)
    for right in range(4):
        ids = [*own[:right], *((t + 1) % SIZE for t in own[right:3])]
        (tree,) = coupled.build().accept(rows([ids], parents=[[-1, 0, 1]]))
        (plain,) = coupled.build().accept(rows([ids]))
        assert (tree.token_ids, tree.num_accepted) == (plain.token_ids, plain.num_accepted)
        assert tree.path == list(range(right))


def test_trees_and_chains_share_a_batch() -> None:
    drafts, parents = [[1, 2, 3], [4], []], [[-1, -1, 0], None, None]
    together = rows(drafts, parents=parents)
    answers = coupled.build().accept(together)
    assert [a.path is None for a in answers] == [False, True, True]
    assert [len(a.token_ids) for a in answers] == [a.num_accepted + 1 for a in answers]


# --- how often drafts agree -------------------------------------------------------------------------------------------


def agreement(stream: int) -> tuple[float, float, float]:
    """Share of drafts that the coupled rule accepts, (1 - TV) / (1 + TV), and the bound's standard deviation."""
    n = 20_000
    g = torch.Generator().manual_seed(2)
    p = torch.randn(16, generator=g)
    q = p + 0.4 * torch.randn(16, generator=g)
    seeds, positions = torch.arange(n), torch.full((n,), 7)
    keys = seeds if stream == noise.TARGET else noise.keys(seeds, positions, stream, positions)
    drafts = ops.sample(q.expand(n, 16).contiguous(), torch.ones(n), keys, positions).tolist()
    batch = VerifyBatch(
        p.expand(2 * n, 16).contiguous(), torch.ones(2 * n), seeds.repeat_interleave(2), torch.tensor([7, 8]).repeat(n),
        list(range(0, 2 * n + 1, 2)), [[d] for d in drafts],
    )  # fmt: skip
    accepted = sum(a.num_accepted for a in coupled.build().accept(batch)) / n
    tv = 0.5 * float((p.softmax(-1) - q.softmax(-1)).abs().sum())
    bound = (1 - tv) / (1 + tv)
    return accepted, bound, (bound * (1 - bound) / n) ** 0.5


def test_shared_noise_agrees_as_often_as_the_bound_says() -> None:
    accepted, bound, deviation = agreement(noise.TARGET)
    assert accepted > bound - 5 * deviation


def test_independent_noise_is_seen_by_the_bound() -> None:
    """The mutation "accept if equal, with independent noise": correct but quietly slow."""
    accepted, bound, deviation = agreement(noise.DRAFT)
    assert accepted < bound - 50 * deviation


def test_rules_satisfy_the_runner() -> None:
    rules: list[Rule] = [rule.build() for rule in LOSSLESS]
    assert len(rules) == 3
