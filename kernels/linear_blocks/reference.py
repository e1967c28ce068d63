"""Weights of 4 to 6 bits, as GGUF's blocks hold them, times int8 activations in groups of 32 along K, in plain torch.

Activations are quantised as in ``linear_int8``. As there, sums inside a group are exact and all that follows is single
fp32 operations in a fixed order. Hence the same bits for any batch.
"""

import torch

from ..gguf_blocks import GROUP, KINDS, numbers, split
from ..linear_int8.reference import quantise


def pack(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """uint8 [N, row bytes] -> codes int8 [G, N, 32], and two fp16 numbers of a group, [G, N]. See ``ops.pack_blocks``.

    Codes with scale and least value are not negative; those with two scales are -32..31, in a layout of their own:
    [G, N, 2, 16].
    """
    parts = split(blocks, kind)
    codes = _codes(parts, kind).transpose(0, 1).contiguous()
    first, second = (part.T.contiguous() for part in numbers(parts, kind))
    return (codes - 32).unflatten(-1, (2, -1)) if kind == "Q6_K" else codes, first, second


def _codes(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """uint8 [N, blocks, block bytes] -> int8 [N, G, 32]."""
    known = KINDS[kind]
    low = blocks[..., known.low_at : known.low_at + 16 * known.num_groups]
    if known.num_groups == 8:  # two groups share 32 bytes, one in their low halves and one in their high halves
        low = low.unflatten(-1, (4, GROUP))
    if kind == "Q6_K":  # here neighbours but one share them: groups 0 and 2, 1 and 3
        low = low.unflatten(-2, (2, 2))
        low = torch.stack([low & 15, low >> 4], -3)
    else:
        low = torch.stack([low & 15, low >> 4], -2)
    codes = low.flatten(1).unflatten(1, (-1, GROUP))
    high = blocks[..., known.high_at : known.high_at + 4 * known.num_groups * (known.bits - 4)]
    if known.bits == 5:
        shifts = torch.arange(8, dtype=torch.uint8)
        if known.num_groups == 1:  # bit j of one word is that of input j
            bits = high.unsqueeze(-1) >> shifts & 1
        else:  # bit g of byte j is that of input j of group g
            bits = high.unsqueeze(-2) >> shifts.unsqueeze(-1) & 1
        codes = codes | bits.flatten(1).unflatten(1, (-1, GROUP)) << 4
    if known.bits == 6:  # pairs of bits of 32 bytes serve four groups
        pairs = high.unflatten(-1, (2, 1, GROUP)) >> (torch.arange(4, dtype=torch.uint8) * 2).unsqueeze(-1) & 3
        codes = codes | pairs.flatten(1).unflatten(1, (-1, GROUP)) << 4
    return codes.to(torch.int8)


def run(x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.linear_blocks``."""
    codes, first, second = packed
    x_codes, x_scales = quantise(x)
    out = torch.zeros(x.shape[0], n, device=x.device)
    for g in range(codes.shape[0]):
        if codes.dim() == 4:
            halves = x_codes[g].unflatten(-1, (2, -1))
            sums, other = (halves[:, i] @ codes[g, :, i].float().T for i in (0, 1))  # [T, N], integers
        else:
            sums, other = x_codes[g] @ codes[g].float().T, x_codes[g].sum(-1, keepdim=True)  # [T, N], [T, 1], integers
        out += (sums * first[g].float() + other * second[g].float()) * x_scales[g].unsqueeze(1)
    return out if bias is None else out + bias
