"""What the int8 linear loses, and what it does with odd values."""

import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from paceline.kernels import ops


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


def test_weights_of_a_file_are_kept(either: None) -> None:
    """One input of 127 at a time: its scale is 1 and its code exact, so that every single weight comes out."""
    blocks = torch.randint(0, 256, (19, 5, 34), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    blocks[..., :2] = (_draw(19, 5, 1) * 0.01).half().view(torch.uint8)
    blocks[0, 0, :2] = torch.tensor([2.0**-24]).half().view(torch.uint8)
    rows = blocks.flatten(1)
    want = torch.from_numpy(dequantize(rows.numpy(), GGMLQuantizationType.Q8_0))
    assert torch.equal(ops.linear_int8(torch.eye(160) * 127, ops.pack_int8_blocks(rows), 19).T, want * 127)


def test_what_is_no_block_is_refused(either: None) -> None:
    with pytest.raises(ValueError, match=r"pack_int8_blocks: .*no rows of Q8_0 blocks of 34 bytes"):
        ops.pack_int8_blocks(torch.zeros(4, 35, dtype=torch.uint8))


@pytest.mark.parametrize("small", [3e-5, 2e-6, 3e-8])
def test_scales_below_the_normal_range_only_round_more_coarsely(either: None, small: float) -> None:
    weight = _draw(8, 64) * small
    got = ops.linear_int8(torch.eye(64) * 127, ops.pack_int8(weight), 8).T / 127
    step = float(weight.abs().max()) / 127 + 2.0**-24  # rounded up to a multiple of 2**-24
    assert (got - weight).abs().max() <= step * 0.51


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
