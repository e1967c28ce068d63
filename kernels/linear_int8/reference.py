"""Int8 weights times int8 activations, both in groups of 32 along K, in plain torch.

The products of a group are summed exactly (below 2**24, so any order of fp32 additions gives the same integer);
everything after that is single multiplications and additions in a fixed order. Hence the same bits for any batch.
"""

import torch

from ..gguf_blocks import whole_blocks

GROUP = 32
"""Inputs that share a scale."""
LEAST = 2.0**-100
"""A group whose largest magnitude is below this counts as zeros, so that its scale can be inverted."""


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """fp32 [N, K] -> codes int8 [G, N, 32], scales fp32 [G, N] that are fp16 values. See ``ops.pack_int8``."""
    groups = _groups(weight)  # [G, N, 32]
    most = groups.abs().amax(-1)
    scales = _half_up(torch.where(most < LEAST, 0.0, most / 127.0))
    divisor = torch.where(scales == 0.0, torch.inf, scales).unsqueeze(-1)
    return torch.round(groups / divisor).to(torch.int8), scales


def pack_blocks(blocks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """uint8 [N, row bytes] of Q8_0 -> what ``pack`` makes. See ``ops.pack_int8_blocks``."""
    parts = whole_blocks("pack_int8_blocks", blocks, "Q8_0", 2 + GROUP)
    scales = parts[..., :2].contiguous().view(torch.float16)[..., 0].float()
    return parts[..., 2:].view(torch.int8).transpose(0, 1).contiguous(), scales.T.contiguous()


def run(x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.linear_int8``."""
    codes, scales = packed
    x_codes, x_scales = quantise(x)
    out = torch.zeros(x.shape[0], n, device=x.device)
    for g in range(codes.shape[0]):
        sums = x_codes[g] @ codes[g].float().T  # [T, N], integers
        out += sums * scales[g] * x_scales[g].unsqueeze(1)
    return out if bias is None else out + bias


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 [T, K] -> integers -127..127 as fp32 [G, T, 32], scales fp32 [G, T]."""
    groups = _groups(x)
    most = groups.abs().amax(-1)
    most = torch.where(most < LEAST, 0.0, most)
    factor = torch.where(most == 0.0, 0.0, 127.0 / most)
    return torch.round(groups * factor.unsqueeze(-1)), most / 127.0


def _groups(x: torch.Tensor) -> torch.Tensor:
    """[M, K] -> [G, M, 32], the last group filled up with zeros."""
    padded = torch.nn.functional.pad(x.float(), (0, -x.shape[1] % GROUP))
    return padded.unflatten(1, (-1, GROUP)).transpose(0, 1).contiguous()


def _half_up(x: torch.Tensor) -> torch.Tensor:
    """The least fp16 value that is not below x (>= 0), as fp32: half the bytes, and codes never exceed 127."""
    nearest = x.half()
    return (nearest.view(torch.int16) + (nearest.float() < x).short()).view(torch.float16).float()
