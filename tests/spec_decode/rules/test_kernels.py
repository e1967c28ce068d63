"""Both backends of ``ops.verify`` against the rules over fractions, on grids of u and of laws."""

import itertools
from collections.abc import Callable
from fractions import Fraction

import exact_rules as er
import pytest
import torch

from paceline.kernels import noise
from paceline.kernels.verify import cpu, reference

V, K = 3, 2
Run = Callable[..., torch.Tensor]

LAWS = [
    [[1, 2, 5], [3, 3, 1], [4, 1, 1]],
    [[6, 1, 1], [0, 1, 3], [2, 0, 5]],
    [[1, 7, 2], [5, 5, 1], [1, 1, 9]],
]
"""Weights of p_1..p_3 of a window."""
DRAFT_LAWS = [[[2, 2, 3], [1, 5, 1]], [[1, 0, 3], [1, 1, 1]], [[7, 1, 2], [5, 5, 1]]]
U = [(2 * i + 1) / 22 for i in range(11)]


def window(
    run: Run, rule: str, p: list[list[int]], q: list[list[int]], drafts: list[int], seed: int, base: int
) -> tuple[int, int]:
    """One row through a backend: drafts accepted, next token."""
    k = len(drafts)
    weights = torch.tensor([*q[:k], [1] * V], dtype=torch.float32)
    decided = run(
        torch.tensor(p[: k + 1], dtype=torch.float32).log(),
        torch.ones(k + 1),
        torch.full((k + 1,), seed),
        torch.arange(base, base + k + 1),
        torch.tensor([*drafts, -1]),
        torch.arange(V).expand(k + 1, -1),
        weights,
        rule,
    )
    return int(decided[0, 0]), int(decided[0, 1])


def fractions(rows: list[list[int]]) -> list[er.Law]:
    return [er.normalised([Fraction(w) for w in row]) for row in rows]


def exponentials(seed: int, position: int, residual_of: int | None) -> list[Fraction]:
    """Of the target's own draw, or of the residual's in the window that began at ``residual_of``."""
    at, seeds = torch.tensor([position]), torch.tensor([seed])
    if residual_of is not None:
        seeds = noise.keys(seeds, at, noise.RESIDUAL, torch.tensor([residual_of]))
    return [Fraction(e) for e in noise.exponentials(seeds, at, V)[0].tolist()]


@pytest.mark.parametrize("run", [reference.run, cpu.run], ids=["reference", "cpu"])
@pytest.mark.parametrize("rule", ["token", "block"])
def test_decisions_on_a_grid_of_u(run: Run, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every u_1, u_2 and every pair of drafts that could be drawn: the count, and the next token by the keyed race."""
    for p, q in itertools.product(LAWS, DRAFT_LAWS):
        exact_p, exact_q = fractions(p), fractions(q)
        for drafts in itertools.product(range(V), repeat=K):
            if not all(q[i][x] for i, x in enumerate(drafts)):
                continue
            chances = er.thresholds(exact_p, exact_q, drafts, rule)
            for u in itertools.product(U[::5], repeat=K):
                if any(abs(a - h) < 1e-6 for a, h in zip(u, chances, strict=True)):
                    continue
                given = torch.tensor([*u, 0.5], dtype=torch.float64)
                monkeypatch.setattr(noise, "uniforms", lambda s, *_, given=given: given[: len(s)])
                num, token = window(run, rule, p, q, list(drafts), seed=9, base=4)
                assert num == er.count(chances, [Fraction(a) for a in u], rule), (p, q, drafts, u)
                law = er.next_law(exact_p, exact_q, drafts, num, rule)
                e = exponentials(9, 4 + num, None if num == K else 4)
                assert token == er.race(law, e), (p, q, drafts, u)


@pytest.mark.parametrize("run", [reference.run, cpu.run], ids=["reference", "cpu"])
@pytest.mark.parametrize("rule", ["token", "block"])
def test_keyed_noise_decides(run: Run, rule: str) -> None:
    """u is word 0 of id 0 in the accept stream, with the row's base as window."""
    for seed in range(300):
        p, q = LAWS[seed % 3], DRAFT_LAWS[seed // 3 % 3]
        drafts = [seed % 3 if q[0][seed % 3] else 0, seed // 9 % 3]
        base = seed * 7
        keys = (torch.full((K,), seed), torch.arange(base, base + K), noise.ACCEPT, torch.full((K,), base))
        u = [Fraction(a) for a in noise.uniforms(*keys).tolist()]
        chances = er.thresholds(fractions(p), fractions(q), drafts, rule)
        assert window(run, rule, p, q, drafts, seed, base)[0] == er.count(chances, u, rule)


@pytest.mark.parametrize("run", [reference.run, cpu.run], ids=["reference", "cpu"])
@pytest.mark.parametrize("rule", ["token", "block"])
def test_a_draft_that_its_drafter_could_not_have_said_is_refused(run: Run, rule: str) -> None:
    for seed in range(50):
        assert window(run, rule, [[1, 8, 1], [1, 1, 1]], [[1, 0, 1]], [1], seed, 3)[0] == 0


@pytest.mark.parametrize("run", [reference.run, cpu.run], ids=["reference", "cpu"])
@pytest.mark.parametrize("rule", ["token", "block"])
def test_equal_laws_accept_everything(run: Run, rule: str) -> None:
    for seed in range(100):
        p = [[5, 2, 9], [1, 1, 3], [1, 2, 3]]
        assert window(run, rule, p, p[:2], [seed % 3, seed // 3 % 3], seed, 3)[0] == K


@pytest.mark.parametrize("rule", ["token", "block"])
def test_backends_agree_over_a_wide_vocabulary(rule: str) -> None:
    """Sparse q of 64 ids with unused ones, rows of several depths, greedy and sampled, steep and flat."""
    g = torch.Generator().manual_seed(5)
    v, m, depths = 5003, 64, torch.tensor([0, 1, 2, 5, 3, 0, 8, 4, 1, 2] * 5)
    size = int((depths + 1).sum())
    row = torch.arange(len(depths)).repeat_interleave(depths + 1)
    logits = torch.randn(size, v, generator=g) * torch.tensor([0.5, 3.0, 12.0])[row % 3].unsqueeze(1)
    q_ids = logits.topk(m).indices
    weights = torch.rand(size, m, generator=g) ** 6
    weights[:, m - 9 :] = 0.0
    q_ids[:, m - 9 :] = 0  # as padding
    q_ids[:, 0], weights[:, 0] = torch.where(q_ids[:, 0] == 0, 1, q_ids[:, 0]), 0.5
    weights[q_ids == 0] = 0.0
    drafts = q_ids.gather(1, torch.multinomial(weights, 1, generator=g))[:, 0]
    drafts[(depths + 1).cumsum(0) - 1] = -1
    positions = torch.arange(size)
    args = (logits, (row % 4 > 0).float(), row * 31, positions, drafts, q_ids, weights, rule)
    ours, law = cpu.run(*args), reference.run(*args)
    assert torch.equal(ours, law)
    assert bool((law[:, 0] > 0).any()) and bool((law[:, 0] < depths).any())


@pytest.mark.parametrize("run", [reference.run, cpu.run], ids=["reference", "cpu"])
@pytest.mark.parametrize("rule", ["token", "block"])
def test_rows_do_not_depend_on_their_neighbours(run: Run, rule: str) -> None:
    g = torch.Generator().manual_seed(8)
    logits = torch.randn(40, 50, generator=g)
    drafts = torch.tensor([3, 9, 11, -1] * 10)
    q_ids = torch.stack([drafts.clamp(min=0), torch.full_like(drafts, 40)], dim=1)
    weights = torch.rand(40, 2, generator=g)
    args = (logits, torch.ones(40), torch.arange(40) // 4, torch.arange(40), drafts, q_ids, weights)
    together = run(*args, rule)
    alone = [run(*(a[i : i + 4] for a in args), rule) for i in range(0, 40, 4)]
    assert torch.equal(torch.cat(alone), together)
    assert len(set(together[:, 0].tolist())) > 1


@pytest.mark.parametrize("run", [reference.run, cpu.run], ids=["reference", "cpu"])
@pytest.mark.parametrize("rule", ["token", "block"])
def test_impossible_logits_do_not_crash(run: Run, rule: str) -> None:
    """Rows that are all masked, or all NaN, get some id, whose logit the runner then finds unusable."""
    for fill in (-torch.inf, torch.nan):
        logits = torch.full((2, 6), fill)
        token = int(run(
            logits, torch.ones(2), torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.tensor([1, -1]),
            torch.tensor([[1], [0]]), torch.ones(2, 1), rule,
        )[0, 1])  # fmt: skip
        assert 0 <= token < 6
