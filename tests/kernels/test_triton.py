"""Triton's kernels against the references: on a GPU where there is one, else in the interpreter, which is slow."""

import importlib
import os
from typing import Any

import pytest
import torch

from paceline.kernels import testing, triton_device
from paceline.kernels.testing import Case, attention_batch

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy tells of every infinity

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPS = ("rms_norm", "rope", "silu_mul", "store_kv", "sample")
_TOLERANCES = {"sample": 0.0, "store_kv": 0.0 if DEVICE == "cuda" else 2**-7}
"""The interpreter cuts off where a GPU rounds to bf16."""
_MOST_ELEMENTS = 40_000
"""Of a case's largest argument, in the interpreter."""


def _is_small(case: Case) -> bool:
    return max((x.numel() for x in case.make() if isinstance(x, torch.Tensor)), default=0) <= _MOST_ELEMENTS


def _on(device: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in args)


def _compare(op: str, args: tuple[Any, ...], law: tuple[Any, ...], tolerance: float) -> None:
    """Result and arguments, for some are changed in place."""
    ours = _on(DEVICE, args)
    actual = importlib.import_module(f"paceline.kernels.{op}.triton").run(*ours)
    expected = testing.call(op, "reference", law)
    got, want = [actual, *ours], [expected, *law]
    for a, e in zip(got, want, strict=True):
        if isinstance(e, torch.Tensor):
            torch.testing.assert_close(a.cpu(), e, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("op", OPS)
def test_agrees_with_the_reference(op: str) -> None:
    cases = [case for case in testing.cases(op) if DEVICE == "cuda" or _is_small(case)]
    assert len(cases) >= 4
    for case in cases:
        try:
            _compare(op, case.make(), case.make(), _TOLERANCES.get(op, 3e-5))
        except AssertionError as e:
            raise AssertionError(f"{op} {case.name}: {e}") from e


@pytest.mark.parametrize("op", ["rms_norm", "rope", "silu_mul"])
def test_half_precision_rounds_once(op: str) -> None:
    """bf16 in, fp32 between, bf16 out: within one step of the fp64 result."""
    case = [case for case in testing.cases(op) if _is_small(case)][4]

    def make(dtype: torch.dtype) -> tuple[Any, ...]:
        narrow = [x.bfloat16() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in case.make()]
        if op == "rope":
            narrow[2] = case.make()[2]  # angles are fp32
        return tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype is torch.bfloat16 else x for x in narrow)

    ours, exact = _on(DEVICE, make(torch.bfloat16)), make(torch.float32)
    actual = importlib.import_module(f"paceline.kernels.{op}.triton").run(*ours)
    expected = testing.call(op, "reference", exact)
    a, e = (ours[0], exact[0]) if op == "rope" else (actual, expected)
    torch.testing.assert_close(a.cpu().float(), e.float(), rtol=2**-7, atol=2**-7)


ROWS = {
    "decode": [(1, n) for n in (1, 16, 33, 100)],
    "prefill": [(20, 20), (0, 3), (17, 40)],
    "verify": [(5, 70), (1, 9), (3, 3)],
    "long": [(1, 1300), (2, 700)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (20, 0.0), (0, 3.0)])
@pytest.mark.parametrize("rows", ROWS)
def test_attention(rows: str, window: int, soft_cap: float, dtype: torch.dtype) -> None:
    for q_heads, k_heads, size in ((6, 2, 64), (5, 1, 20), (2, 2, 80))[: 1 if rows == "long" else 3]:
        made = attention_batch(
            ROWS[rows], q_heads=q_heads, k_heads=k_heads, head_size=size, block_size=16, dtype=dtype
        )
        args = (*made, size**-0.5, window, soft_cap)
        _compare("paged_attention", args, args, 3e-5)


@pytest.mark.parametrize("length", [12, 700])
def test_attention_over_trees(length: int) -> None:
    rows = [(1, 9), (7, length)]
    made = attention_batch(rows, q_heads=4, k_heads=2, head_size=16, block_size=16, dtype=torch.float32)
    parents = torch.tensor([0, 1, 1, 2, 1, 4, 4, 6], dtype=torch.int32)
    _compare("paged_attention", (*made, 0.25, 0, 0.0, parents), (*made, 0.25, 0, 0.0, parents), 3e-5)


def test_a_slot_outside_the_pages_is_not_written() -> None:
    kv, pages = torch.ones(3, 1, 4, device=DEVICE), torch.zeros(2, 4, 1, 4, device=DEVICE)
    slots = torch.tensor([0, -1, 8], dtype=torch.int32, device=DEVICE)
    importlib.import_module("paceline.kernels.store_kv.triton").run(kv, kv, pages, pages.clone(), slots)
    assert pages.sum() == 4


def test_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "cuda, not cpu" in (triton_device.why_not("cpu") or "")
    assert (triton_device.why_not("cuda") is None) == torch.cuda.is_available()
    assert os.environ.get("TRITON_INTERPRET") is None
