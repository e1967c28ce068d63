"""Weights of 4 to 6 bits are the file's: what the op computes against the gguf package's numbers, and odd values."""

import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from paceline.kernels import gguf_blocks, ops
from paceline.kernels.testing import random_blocks

KINDS = sorted(gguf_blocks.KINDS)


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _exact(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """The weights as the package reads them, fp64 [N, K]."""
    return torch.from_numpy(dequantize(blocks.numpy(), GGMLQuantizationType[kind])).double()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_file(either: None, kind: str) -> None:
    """One input of 127 at a time: its scale is 1 and its code exact, so that every single weight comes out."""
    blocks = random_blocks(20, 8, kind)
    want = _exact(blocks, kind)
    got = ops.linear_blocks(torch.eye(256) * 127, ops.pack_blocks(blocks, kind), 20).T.double() / 127
    first, second = (part.abs().double() for part in gguf_blocks.numbers(gguf_blocks.split(blocks, kind), kind))
    # The sum of code * scale and least is rounded in fp32; in blocks of eight groups both were first rounded to fp16.
    most = 2 ** gguf_blocks.KINDS[kind].bits - 1
    if kind == "Q6_K":  # a scale each for 16 inputs
        size = torch.stack([first, second], -1).flatten(1).repeat_interleave(16, 1) * most
    else:
        size = (first * most + second).repeat_interleave(32, 1)
    unit, smallest = (2.0**-11, most * 2.0**-25) if kind.endswith("K") else (2.0**-22, 0.0)
    assert ((got - want).abs() <= size * unit + smallest).all()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_activations_are_rounded(either: None, kind: str) -> None:
    x, blocks = _draw(16, 512), random_blocks(96, 16, kind)
    if kind.endswith("K"):  # the grid's blocks are of tiny and of large scale by turns: one row each is one scale
        blocks = blocks[:, : gguf_blocks.KINDS[kind].num_bytes].repeat(1, 2)
    exact = x.double() @ _exact(blocks, kind).T
    error = (ops.linear_blocks(x, ops.pack_blocks(blocks, kind), 96) - exact).square().mean().sqrt()
    assert error < 0.008 * exact.square().mean().sqrt()


def test_exact_weights_give_exact_sums(either: None) -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (19, 96), generator=g, dtype=torch.uint8)
    scale_and_least = torch.tensor([2.0, -9.0]).half().view(torch.uint8)
    low, high = codes.unflatten(1, (3, 2, 16)).unbind(2)
    blocks = torch.cat([scale_and_least.expand(19, 3, 4), low | high << 4], -1).flatten(1)
    x = torch.randint(-127, 128, (5, 96), generator=g).float()
    x[:, ::32] = 127
    bias = torch.arange(19.0)
    want = x @ (codes.float() * 2 - 9).T + bias
    assert torch.equal(ops.linear_blocks(x, ops.pack_blocks(blocks, "Q4_1"), 19, bias), want)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_values_show(either: None, bad: float) -> None:
    x, packed = _draw(3, 64), ops.pack_blocks(random_blocks(7, 2, "Q4_1"), "Q4_1")
    x[1, 40] = bad
    out = ops.linear_blocks(x, packed, 7)
    assert not out[1].isfinite().any()
    assert out[[0, 2]].isfinite().all()


def test_infinite_and_tiny_scales_are_the_files(either: None) -> None:
    blocks = random_blocks(3, 1, "Q4_1")
    blocks[0, :2] = torch.tensor([torch.inf]).half().view(torch.uint8)
    blocks[1, :4] = torch.tensor([2.0**-24, -(2.0**-24)]).half().view(torch.uint8)
    blocks[2, :4] = 0
    out = ops.linear_blocks(torch.full((1, 32), 127.0), ops.pack_blocks(blocks, "Q4_1"), 3)[0]
    want = _exact(blocks[1:], "Q4_1").sum(1) * 127
    assert not out[0].isfinite()
    assert want[0] != 0 and out[1].double() == want[0]
    assert out[2] == 0


@pytest.mark.parametrize(("kind", "bits"), [("Q4_K", 5), ("Q5_0", 6), ("Q6_K", 7)])
def test_a_weight_costs_a_bit_more_than_its_code(native: None, kind: str, bits: int) -> None:
    (packed,) = ops.pack_blocks(random_blocks(32, 8, kind), kind)
    assert packed.nbytes * 8 == 32 * 256 * bits


@pytest.mark.parametrize(
    ("blocks", "kind", "said"),
    [
        (torch.zeros(4, 36, dtype=torch.uint8), "Q2_K", r"no kind 'Q2_K'; known: Q4_0, Q4_1, Q4_K"),
        (torch.zeros(4, 35, dtype=torch.uint8), "Q4_0", r"no rows of Q4_0 blocks of 18 bytes"),
        (torch.zeros(4, 0, dtype=torch.uint8), "Q4_0", r"no rows of Q4_0"),
        (torch.zeros(36, dtype=torch.uint8), "Q4_0", r"no rows of Q4_0"),
        (torch.zeros(4, 36), "Q4_0", r"no rows of Q4_0"),
    ],
)
def test_what_is_no_block_is_refused(either: None, blocks: torch.Tensor, kind: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ops.pack_blocks(blocks, kind)


def test_views_are_taken(either: None) -> None:
    x, blocks = _draw(4, 128), random_blocks(9, 4, "Q4_0")
    expected = ops.linear_blocks(x[:, ::2].contiguous(), ops.pack_blocks(blocks[:, 36:].contiguous(), "Q4_0"), 9)
    assert torch.equal(ops.linear_blocks(x[:, ::2], ops.pack_blocks(blocks[:, 36:], "Q4_0"), 9), expected)
