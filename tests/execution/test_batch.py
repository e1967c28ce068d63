"""Packing by example: a prompt chunk, a decode row and a verify row, with tables of unequal length; and the pages."""

import pytest
import torch

from paceline.engine.core.plan import NewRequest, Row
from paceline.engine.execution.batch import pack
from paceline.engine.execution.kv_pool import allocate, block_bytes, page_dtype
from paceline.engine.execution.state import RequestTable
from paceline.engine.types import ModelConfig, SamplingParams

PARAMS = SamplingParams(max_tokens=9)


def table_of(**requests: tuple[list[int], list[int]]) -> RequestTable:
    table = RequestTable(num_blocks=32, block_size=4, vocab_size=100)
    for name, (ids, blocks) in requests.items():
        table.open(NewRequest(name, 0, ids, len(ids), blocks, PARAMS))
    return table


def test_rows_lie_end_to_end() -> None:
    table = table_of(a=([10, 11, 12, 13, 14, 15], [7, 3]), b=([20, 21], [9]), c=([30, 31, 32], [5, 6, 8]))
    rows = [
        table.admit(0, Row("a", 0, 2, 3, 2, [])),
        table.admit(1, Row("b", 0, 1, 1, 1, [], True)),
        table.admit(2, Row("c", 0, 2, 1, 1, [2], True, draft_ids=[40, 41])),
    ]
    batch, starts = pack(rows, table, 4)
    assert batch.token_ids.tolist() == [12, 13, 14, 21, 32, 40, 41]
    assert batch.positions.tolist() == [2, 3, 4, 1, 2, 3, 4]
    assert batch.slots.tolist() == [30, 31, 12, 37, 22, 23, 8]
    assert batch.query_starts.tolist() == starts.tolist() == [0, 3, 4, 7]
    assert batch.context_lens.tolist() == [5, 2, 5]
    assert batch.block_tables.tolist() == [[7, 3], [9, 0], [5, 2]]
    assert batch.parents is None
    assert {getattr(batch, name).dtype for name in batch.__slots__ if name != "parents"} == {torch.int32}


def test_one_token_a_row_packs_as_any_other() -> None:
    table = table_of(a=([10, 11, 12, 13, 14], [7, 3]), b=([20, 21], [9]))
    batch, _ = pack([table.admit(0, Row("b", 0, 1, 1, 1, [])), table.admit(1, Row("a", 0, 4, 1, 2, []))], table, 4)
    assert (batch.token_ids.tolist(), batch.slots.tolist()) == ([21, 14], [37, 12])
    assert (batch.query_starts.tolist(), batch.context_lens.tolist()) == ([0, 1, 2], [2, 5])


def test_a_line_taken_over_shows_nothing_of_the_one_before() -> None:
    table = table_of(a=(list(range(20)), [1, 2, 3, 4, 5]))
    table.close("a")
    for name, ids, blocks in (("b", [9], [6]), ("c", list(range(9)), [7, 8, 9])):
        table.open(NewRequest(name, 0, ids, len(ids), blocks, PARAMS))
    batch, _ = pack([table.admit(0, Row("b", 0, 0, 1, 1, [])), table.admit(1, Row("c", 0, 8, 1, 3, []))], table, 4)
    assert batch.block_tables.tolist() == [[6, 0, 0], [7, 8, 9]]


def test_the_table_grows_in_every_direction_and_keeps_what_it_holds() -> None:
    table = RequestTable(num_blocks=3000, block_size=1, vocab_size=100)
    for i in range(30):
        ids = [i] * (1 + 97 * i)
        table.open(NewRequest(f"r{i}", 0, ids, len(ids), list(range(len(ids))), PARAMS))
    for i in range(30):
        size = 1 + 97 * i
        fed = table.admit(0, Row(f"r{i}", 0, 0, size, size, []))
        assert table.context(fed.held).tolist() == [i] * size
        assert pack([fed], table, 1)[0].slots.tolist() == list(range(size))
    assert len(table) == 30


@pytest.mark.parametrize("name", ["auto", "bfloat16", "float16", "float32"])
def test_pages_are_zero_of_the_right_shape_and_as_large_as_said(name: str) -> None:
    config = ModelConfig(
        architecture="X", vocab_size=9, hidden_size=8, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6,
        intermediate_size=8, max_position=64,
    )  # fmt: skip
    dtype = page_dtype(name)
    kv = allocate(config, 5, 4, dtype)
    assert len(kv.k) == len(kv.v) == 3 and kv.block_size == 4
    assert all(p.shape == (5, 4, 2, 6) and p.dtype == dtype and not p.any() for p in (*kv.k, *kv.v))
    assert sum(p.nbytes for p in (*kv.k, *kv.v)) == 5 * block_bytes(config, 4, dtype)
    kv.k[0][0] = 1.5
    assert not kv.k[1].any() and not kv.v[0].any()
