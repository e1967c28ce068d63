"""What the int8 linear loses, and what it does with odd values."""

import pytest
import torch

from paceline.kernels import dispatch, ops
from paceline.kernels.native import load


@pytest.fixture(params=["reference", "native"])
def either(request: pytest.FixtureRequest) -> None:
    if request.param == "reference":
        dispatch.configure(native=False)
    elif reason := load.why_not("cpu"):
        pytest.skip(reason)


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_error_is_that_of_two_roundings(either: None) -> None:
    x, weight = _draw(16, 576), _draw(96, 576)
    exact = x.double() @ weight.double().T
    error = (ops.linear_int8(x, ops.pack_int8(weight), 96) - exact).square().mean().sqrt()
    assert error < 0.012 * exact.square().mean().sqrt()


def test_small_integers_are_exact(either: None) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (5, 70), generator=g).float()
    weight = torch.randint(-127, 128, (20, 70), generator=g).float()
    for begin in (0, 32, 64):  # scale 1 for every group of both
        x[:, begin] = 127
        weight[:, begin] = -127
    bias = torch.arange(20.0)
    assert torch.equal(ops.linear_int8(x, ops.pack_int8(weight), 20, bias), x @ weight.T + bias)


def test_zero_groups_and_tiny_values(either: None) -> None:
    x, weight = _draw(3, 64), _draw(5, 64)
    x[1] = 0
    x[2, 32:] = 1e-35
    weight[0] = 0
    weight[1, :32] = -1e-38
    out = ops.linear_int8(x, ops.pack_int8(weight), 5)
    assert out.isfinite().all()
    assert not out[1].any() and not out[:, 0].any()
    torch.testing.assert_close(out[0, 1], (x[0, 32:] * weight[1, 32:]).sum(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_values_show(either: None, bad: float) -> None:
    x = _draw(3, 64)
    x[1, 40] = bad
    out = ops.linear_int8(x, ops.pack_int8(_draw(7, 64)), 7)
    assert not out[1].isfinite().any()
    assert out[[0, 2]].isfinite().all()


def test_scales_cost_two_bytes_a_group(native: None) -> None:
    codes, scales = ops.pack_int8(_draw(32, 64))
    assert codes.numel() * codes.element_size() == 32 * 64
    assert scales.numel() * scales.element_size() == 32 * 2 * 2


def test_views_are_taken(either: None) -> None:
    x, weight = _draw(4, 128), _draw(9, 128)
    expected = ops.linear_int8(x[:, ::2].contiguous(), ops.pack_int8(weight[:, ::2].contiguous()), 9)
    assert torch.equal(ops.linear_int8(x[:, ::2], ops.pack_int8(weight[:, ::2]), 9), expected)
