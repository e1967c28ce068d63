"""Arguments that would read or write outside a tensor are refused before any memory is touched."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from paceline.kernels import ops
from paceline.kernels.testing import attention_batch, decoder_case, random_blocks

pytestmark = pytest.mark.usefixtures("native")


def _ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _attend(**changes: Any) -> torch.Tensor:
    names = ("q", "k_pages", "v_pages", "block_tables", "query_starts", "context_lens")
    made = attention_batch([(2, 9), (1, 3)], q_heads=2, k_heads=1, head_size=4, block_size=4, dtype=torch.float32)
    return ops.paged_attention(**{**dict(zip(names, made, strict=True)), "scale": 0.5, **changes})


@pytest.mark.parametrize("bad", [-1, 8])
def test_slots_and_positions_outside(bad: int) -> None:
    kv, pages = torch.ones(2, 1, 4), torch.zeros(2, 4, 1, 4)
    with pytest.raises(IndexError, match=rf"store_kv: slot {bad} of token 1 is outside 0..7"):
        ops.store_kv(kv, kv, pages, pages.clone(), _ints(0, bad))
    assert not pages.any()  # nothing was written, not even the good one
    with pytest.raises(IndexError, match=rf"rope: position {bad} of token 1 is outside 0..7"):
        ops.rope(kv, kv.clone(), torch.zeros(8, 4), _ints(0, bad))
    for moves in ((_ints(0, bad), _ints(1, 2)), (_ints(1, 2), _ints(0, bad))):
        numbered = torch.arange(32.0).view(2, 4, 1, 4)
        with pytest.raises(IndexError, match=rf"move_kv: slot {bad} of move 1 is outside 0..7"):
            ops.move_kv([numbered, pages], *moves)
        assert torch.equal(numbered, torch.arange(32.0).view(2, 4, 1, 4))
    assert (kv == 1).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"block_tables": _ints(0, 1, 99, 0, 0, 0).view(2, 3)},
        {"block_tables": _ints(0, 1, -1, 0, 0, 0).view(2, 3)},
        {"block_tables": _ints(0, 0).view(2, 1)},
        {"context_lens": _ints(1, 3)},
        {"context_lens": _ints(9, 10**6)},
        {"query_starts": _ints(0, 2, 4)},
        {"query_starts": _ints(0, 3, 2)},
        {"query_starts": _ints(1, 2, 3)},
    ],
)
def test_attention_over_impossible_rows(changes: dict[str, torch.Tensor]) -> None:
    with pytest.raises(IndexError, match=r"paged_attention: row . has impossible"):
        _attend(**changes)


def test_attention_needs_no_table_entries_outside_its_window() -> None:
    tables = _ints(-5, 1, 2, 0, 0, 0).view(2, 3)
    assert _attend(block_tables=tables, window=3).isfinite().all()


def _calls() -> dict[str, Callable[[], Any]]:
    x, kv, pages = torch.zeros(2, 8), torch.zeros(2, 1, 4), torch.zeros(2, 4, 1, 4)
    packed = ops.pack_int8(torch.zeros(20, 8))
    packed_int4 = ops.pack_blocks(random_blocks(5, 2, "Q4_0"), "Q4_0")
    ones, longs = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    return {
        "rms_norm: weight": lambda: ops.rms_norm(x, torch.ones(7), 1e-5),
        "rms_norm: residual": lambda: ops.rms_norm(x, torch.ones(8), 1e-5, torch.zeros(3, 8)),
        "silu_mul: x": lambda: ops.silu_mul(torch.zeros(2, 7)),
        "rope: k": lambda: ops.rope(kv, torch.zeros(1, 1, 4), torch.zeros(8, 4), _ints(0, 0)),
        "rope: cos_sin": lambda: ops.rope(kv, kv, torch.zeros(8, 6), _ints(0, 0)),
        "rope: positions": lambda: ops.rope(kv, kv, torch.zeros(8, 4), _ints(0)),
        "store_kv: v": lambda: ops.store_kv(kv, torch.zeros(1, 1, 4), pages, pages, _ints(0, 1)),
        "store_kv: k_pages": lambda: ops.store_kv(kv, kv, torch.zeros(2, 4, 2, 4), pages, _ints(0, 1)),
        "store_kv: v_pages": lambda: ops.store_kv(kv, kv, pages, pages.bfloat16(), _ints(0, 1)),
        "store_kv: slots": lambda: ops.store_kv(kv, kv, pages, pages, _ints(0)),
        "paged_attention: k_pages": lambda: _attend(k_pages=torch.zeros(9, 4, 1, 8)),
        "paged_attention: v_pages": lambda: _attend(v_pages=torch.zeros(1, 4, 1, 4)),
        "paged_attention: query_starts": lambda: _attend(query_starts=_ints(0, 3)),
        "paged_attention: context_lens": lambda: _attend(context_lens=_ints(9)),
        "linear_int8: packed": lambda: ops.linear_int8(torch.zeros(1, 40), packed, 20),
        "linear_blocks: packed": lambda: ops.linear_blocks(torch.zeros(1, 65), packed_int4, 5),
        "linear_blocks: bias": lambda: ops.linear_blocks(torch.zeros(1, 64), packed_int4, 5, torch.zeros(4)),
        "linear_int8: bias": lambda: ops.linear_int8(x, packed, 20, torch.zeros(19)),
        "sample: seeds": lambda: ops.sample(x, ones, longs[:1], longs),
    }


@pytest.mark.parametrize("what", sorted(_calls()))
def test_shapes_that_do_not_fit(what: str) -> None:
    with pytest.raises(ValueError, match=rf"{what} \(.* does not fit .*; see ops\."):
        _calls()[what]()


def test_wrong_dtypes() -> None:
    with pytest.raises(TypeError, match=r"float32 here, not torch.float64"):
        ops.silu_mul(torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"int32 tensor here, not torch.int64"):
        _attend(context_lens=torch.tensor([9, 3]))
    with pytest.raises(TypeError, match=r"int64 tensor here, not torch.int32"):
        ops.sample(torch.zeros(1, 4), torch.ones(1), _ints(0), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"positions": _ints(0, 9, 1)}, IndexError, "rope refuses entry 1"),
        ({"slots": _ints(0, 1, -1)}, IndexError, "store_kv refuses entry 2"),
        ({"context_lens": _ints(10**6, 1)}, IndexError, "paged_attention refuses entry 0"),
        ({"positions": _ints(0, 1)}, ValueError, "positions"),
        ({"query_starts": _ints(0, 3)}, ValueError, "query_starts"),
        ({"v_pages": [torch.zeros(1)]}, ValueError, "pages"),
    ],
)
def test_decoder_layers_over_impossible_rows(changes: dict[str, Any], error: type[Exception], match: str) -> None:
    x, residual, rows, decoder = decoder_case([(2, 2), (1, 1)])
    packed = ops.pack_decoder_layers(decoder)
    with pytest.raises(error, match=f"decoder_layers: .*{match}"):
        ops.decoder_layers(packed, rows._replace(**changes), x, residual, 0, 3)
    with pytest.raises(ValueError, match="decoder_layers: x"):
        ops.decoder_layers(packed, rows, x[:, :-1], residual, 0, 3)
