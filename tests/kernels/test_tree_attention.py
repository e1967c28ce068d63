"""Attention over trees: each node's bits are those of its path as a chain; backends agree; bad trees are refused."""

import itertools
import random
from typing import Any

import pytest
import torch

from paceline.kernels import dispatch, ops
from paceline.kernels.native import load
from paceline.kernels.testing import attention_batch, call


@pytest.fixture(params=["reference", *load.ISAS])
def path(request: pytest.FixtureRequest) -> str:
    """The plain path, and the native one on each instruction set."""
    if request.param == "reference":
        dispatch.configure(native=False)
    elif reason := load.why_not("cpu"):
        pytest.skip(reason)
    elif load.limit_isa(request.param) != request.param:
        pytest.skip(f"this machine has no {request.param}")
    return request.param


def ancestors(parents: list[int], node: int) -> list[int]:
    found = []
    while node >= 0:
        found.insert(0, node)
        node = parents[node]
    return found


def ints(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def check(parents: list[int], before: int, fed: int, *, window: int, dtype: torch.dtype, seed: int) -> None:
    """A tree behind ``before`` computed slots and ``fed`` tokens, among other rows, against each of its paths alone."""
    block, count = 5, fed + len(parents)
    rows = [(3, 9), (count, before + count), (1, 4)]
    q, k, v, tables, starts, lens = attention_batch(
        rows, q_heads=6, k_heads=2, head_size=20, block_size=block, dtype=dtype, seed=seed
    )
    first = 3 + fed
    whole = [*range(-1, first - 1), *(first + p if p >= 0 else first - 1 for p in parents), -7]
    out = ops.paged_attention(q, k, v, tables, starts, lens, 0.3, window, 0.0, ints(whole))
    own = tables[1 : 2, : -(-(before + count) // block)].long()
    k_row, v_row = (pages[own[0]].flatten(0, 1) for pages in (k, v))
    for node in range(len(parents)):
        line = [*range(before + fed), *(before + fed + n for n in ancestors(parents, node))]
        size = -(-len(line) // 7)
        chain_k, chain_v = (torch.zeros(size, 7, 2, 20, dtype=dtype) for _ in "kv")
        chain_k.view(-1, 2, 20)[: len(line)], chain_v.view(-1, 2, 20)[: len(line)] = k_row[line], v_row[line]
        table = torch.arange(size, dtype=torch.int32).unsqueeze(0)
        at = first + node
        alone = ops.paged_attention(
            q[at : at + 1], chain_k, chain_v, table, ints([0, 1]), ints([len(line)]), 0.3, window
        )
        assert torch.equal(alone[0], out[at]), (parents, node)
    plain = ops.paged_attention(q, k, v, tables, starts, lens, 0.3, window)
    rest = [*range(first), len(q) - 1]  # other rows, and the committed tokens of this one
    assert torch.equal(out[rest], plain[rest])


@pytest.mark.parametrize(("before", "fed"), [(0, 1), (29, 1), (31, 1), (40, 3), (95, 1)])
@pytest.mark.parametrize("window", [0, 17])
def test_small_shapes(path: str, before: int, fed: int, window: int) -> None:
    """Every tree of up to three nodes, and some of four; forks on both sides of a span's end."""
    for num in (1, 2, 3):
        for parents in itertools.product(*(range(-1, n) for n in range(num))):
            check(list(parents), before, fed, window=window, dtype=torch.float32, seed=num)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_and_deep_trees(path: str, dtype: torch.dtype) -> None:
    rng = random.Random(3)
    for seed in range(3):
        parents = [rng.randint(max(-1, n - 6), n - 1) for n in range(40)]
        check(parents, rng.randint(20, 70), 1, window=rng.choice([0, 23]), dtype=dtype, seed=seed)


def test_backends_agree() -> None:
    if reason := load.why_not("cpu"):
        pytest.skip(reason)
    made = attention_batch([(9, 40), (2, 2)], q_heads=6, k_heads=2, head_size=64, block_size=16, dtype=torch.bfloat16)
    parents = ints([0, 0, 0, 1, 1, 3, 2, 6, 7, 8, 9])
    args = (*made, 0.125, 0, 3.0, parents)
    torch.testing.assert_close(
        call("paged_attention", "cpu", args), call("paged_attention", "reference", args), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("parent", [-1, 2, 3, 9])
def test_parents_that_are_no_earlier_token_of_the_row(path: str, parent: int) -> None:
    made = attention_batch([(1, 3), (3, 9)], q_heads=2, k_heads=1, head_size=4, block_size=4, dtype=torch.float32)
    args: tuple[Any, ...] = (*made, 0.5, 0, 0.0, ints([0, 0, parent, 2]))
    with pytest.raises(IndexError, match="paged_attention"):
        ops.paged_attention(*args)
