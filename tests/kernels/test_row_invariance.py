"""A token's result has the same bits alone, among others, at any index, in any chunk, and on any number of threads."""

from collections.abc import Callable

import pytest
import torch

from paceline.kernels import dispatch, ops
from paceline.kernels.native import load
from paceline.kernels.testing import attention_batch, random_blocks

Run = Callable[[torch.Tensor], torch.Tensor]


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


def _threads(count: int) -> None:
    torch.set_num_threads(count)
    load.set_num_threads(count)


def _check_rows(run: Run, x: torch.Tensor) -> None:
    """run maps rows to rows: whole, cut, shuffled and one by one must agree."""
    _threads(2)
    whole = run(x)
    _threads(1)
    assert torch.equal(run(x), whole)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    assert torch.equal(run(x[order]), whole[order])
    for size in (1, 2, 3, 5, 8, 13):
        cut = torch.cat([run(part) for part in x.split(size)])
        assert torch.equal(cut, whole), f"cut into {size}"
    _threads(2)
    assert torch.equal(torch.cat([run(part) for part in x.split(4)]), whole)


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("size", [60, 577])
def test_rms_norm(path: str, size: int) -> None:
    weight = _draw(size)
    _check_rows(lambda x: ops.rms_norm(x, weight, 1e-5), _draw(61, size))
    _check_rows(lambda x: ops.rms_norm(x, weight, 1e-5, x.clone()), _draw(61, size))


@pytest.mark.parametrize("size", [61, 700])
def test_silu_mul(path: str, size: int) -> None:
    _check_rows(ops.silu_mul, _draw(63, 2 * size) * 5)


@pytest.mark.parametrize(("n", "k"), [(33, 60), (130, 576), (16, 1536)])
def test_linear_int8(path: str, n: int, k: int) -> None:
    packed, bias = ops.pack_int8(_draw(n, k)), _draw(n)
    _check_rows(lambda x: ops.linear_int8(x, packed, n, bias), _draw(101, k))


@pytest.mark.parametrize(("n", "groups", "kind"), [(33, 2, "Q4_0"), (130, 18, "Q4_1"), (16, 48, "Q4_K")])
def test_linear_blocks(path: str, n: int, groups: int, kind: str) -> None:
    packed, bias = ops.pack_blocks(random_blocks(n, groups, kind), kind), _draw(n)
    _check_rows(lambda x: ops.linear_blocks(x, packed, n, bias), _draw(101, 32 * groups - 3))


def test_linear_int8_ignores_an_outlier_next_door(path: str) -> None:
    packed = ops.pack_int8(_draw(40, 64))
    x = _draw(9, 64)
    loud = x.clone()
    loud[4] *= 1e6
    keep = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(ops.linear_int8(loud, packed, 40)[keep], ops.linear_int8(x, packed, 40)[keep])
    loud[4] = torch.nan
    out = ops.linear_int8(loud, packed, 40)
    assert torch.equal(out[keep], ops.linear_int8(x, packed, 40)[keep])
    assert out[4].isnan().all()


def test_rope(path: str) -> None:
    table = _draw(64, 20)

    def run(x: torch.Tensor) -> torch.Tensor:
        q, k = x[:, :60].reshape(-1, 3, 20).clone(), x[:, 60:80].reshape(-1, 1, 20).clone()
        ops.rope(q, k, table, x[:, 80].int())
        return torch.cat([q, k], 1)

    _check_rows(run, torch.cat([_draw(50, 80), torch.arange(50.0).unsqueeze(1)], 1))


def test_sample(path: str) -> None:
    logits = _draw(40, 515) * 3
    columns = torch.stack([torch.arange(40) % 3 / 2, torch.arange(40) * 7, torch.arange(40)], 1)

    def run(x: torch.Tensor) -> torch.Tensor:
        temperature, seeds, positions = (x[:, 515 + i].contiguous() for i in range(3))
        return ops.sample(x[:, :515].contiguous(), temperature, seeds.long(), positions.long())

    _check_rows(run, torch.cat([logits, columns.float()], 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (23, 0.0), (0, 4.0)])
def test_attention_in_any_chunks(path: str, dtype: torch.dtype, window: int, soft_cap: float) -> None:
    """One context of 75 tokens: whole, in chunks, token by token, in another block layout, and among other rows."""
    length, block_size, rest = 75, 8, (0.2, window, soft_cap)
    q, k_pages, v_pages, tables, _, _ = attention_batch(
        [(length, length)], q_heads=6, k_heads=2, head_size=20, block_size=block_size, dtype=dtype
    )

    def chunk(first: int, end: int) -> torch.Tensor:
        starts, lens = torch.tensor([0, end - first]).int(), torch.tensor([end]).int()
        return ops.paged_attention(q[first:end], k_pages, v_pages, tables, starts, lens, *rest)

    _threads(2)
    whole = chunk(0, length)
    for threads, size in ((1, length), (1, 1), (2, 7), (1, 32), (2, 11)):
        _threads(threads)
        parts = [chunk(a, min(a + size, length)) for a in range(0, length, size)]
        assert torch.equal(torch.cat(parts), whole), f"chunks of {size}"
    moved_k, moved_v, moved_tables = _moved(k_pages, v_pages, tables, 8, 4)
    starts, lens = torch.tensor([0, 30, 70, 71, 80]).int(), torch.tensor([30, 70, 71, length - 1]).int()
    rows = torch.cat([q[:30], q[30:70], q[70:71], q[length - 10 : length - 1]])
    among = ops.paged_attention(rows, moved_k, moved_v, moved_tables.repeat(4, 1), starts, lens, *rest)
    assert torch.equal(among, torch.cat([whole[:71], whole[length - 10 : length - 1]]))


def _moved(k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, old: int, new: int) -> tuple[torch.Tensor, ...]:
    """The same context in blocks of ``new`` slots, in reverse order, with NaN in every slot that is not its own."""
    own = table[0, : -(-75 // old)].long()
    slots = [pages[own].flatten(0, 1)[:75] for pages in (k, v)]
    count = -(-75 // new)
    moved_table = torch.arange(count, 0, -1, dtype=torch.int32).unsqueeze(0)
    moved: list[torch.Tensor] = []
    for part in slots:
        pages = torch.full((count + 1, new, *part.shape[1:]), torch.nan, dtype=part.dtype)
        filled = torch.full((count * new, *part.shape[1:]), torch.nan, dtype=part.dtype)
        filled[:75] = part
        pages[moved_table[0].long()] = filled.unflatten(0, (count, new))
        moved.append(pages)
    return (*moved, moved_table)
