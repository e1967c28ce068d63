"""4-bit weights, as GGUF's blocks hold them, times int8 activations, both in groups of 32 along K, in plain torch.

Activations are quantised as in ``linear_int8``. As there, sums inside a group are exact and all that follows is single
fp32 operations in a fixed order. Hence the same bits for any batch.
"""

import torch

from ..gguf_int4 import GROUP, KINDS, scales_and_least, split
from ..linear_int8.reference import quantise


def pack(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """uint8 [N, row bytes] -> codes uint8 [G, N, 32], scales and least values fp16 [G, N]. See ``ops.pack_int4``."""
    parts = split(blocks, kind)
    codes = parts[..., KINDS[kind].codes_at :]
    if kind == "Q4_K":  # four times 32 bytes, each with one group in its low halves and the next in its high halves
        codes = codes.unflatten(-1, (4, GROUP))
    codes = torch.stack([codes & 15, codes >> 4], -2).flatten(1).unflatten(1, (-1, GROUP))
    scales, least = scales_and_least(parts, kind)
    return codes.transpose(0, 1).contiguous(), scales.T.contiguous(), least.T.contiguous()


def run(x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.linear_int4``."""
    codes, scales, least = packed
    x_codes, x_scales = quantise(x)
    x_sums = x_codes.sum(-1, keepdim=True)  # [G, T, 1], integers
    out = torch.zeros(x.shape[0], n, device=x.device)
    for g in range(codes.shape[0]):
        sums = x_codes[g] @ codes[g].float().T  # [T, N], integers
        out += (sums * scales[g].float() + x_sums[g] * least[g].float()) * x_scales[g].unsqueeze(1)
    return out if bias is None else out + bias
