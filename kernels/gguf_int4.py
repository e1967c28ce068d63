"""GGUF's blocks of 4-bit codes: what a block says about its groups of 32. Layouts are those of ggml-common.h.

Every weight of these kinds is code * scale + least, code 0..15. Q4_0 and Q4_1 keep one group in a block, with a scale
of its own; Q4_K keeps eight, whose scales and least values are 6-bit multiples of two fp16 numbers.
"""

from typing import NamedTuple

import torch

GROUP = 32
"""Inputs that share a scale."""


class Kind(NamedTuple):
    """A block: its number in the native library, its bytes, its groups, and where its codes begin."""

    number: int
    num_bytes: int
    num_groups: int
    codes_at: int


KINDS = {"Q4_0": Kind(0, 18, 1, 2), "Q4_1": Kind(1, 20, 1, 4), "Q4_K": Kind(2, 144, 8, 16)}


def split(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """Rows of blocks, uint8 [N, row bytes] -> dense uint8 [N, blocks, block bytes].

    Raises:
        ValueError: unknown kind, or rows that are no whole number of its blocks.
    """
    if kind not in KINDS:
        raise ValueError(f"pack_int4: no kind {kind!r}; known: {', '.join(KINDS)}")
    size = KINDS[kind].num_bytes
    if blocks.dtype is not torch.uint8 or blocks.dim() != 2 or blocks.shape[1] % size or not blocks.shape[1]:
        raise ValueError(
            f"pack_int4: blocks {tuple(blocks.shape)} {blocks.dtype} are no rows of {kind} blocks of {size} bytes; "
            "pass uint8 [N, row bytes]"
        )
    return blocks.contiguous().unflatten(1, (-1, size))


def scales_and_least(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, blocks, block bytes] -> scale and least value of each group, dense fp16 [N, groups].

    Exact for Q4_0 and Q4_1 (as long as 8 scales are no overflow). The products of Q4_K have up to 17 bits and are
    rounded to fp16's 11: at most 1 part in 2048 of a scale, where a step of the codes is 1 part in 15.
    """
    if kind == "Q4_K":
        return _scales_and_least_of_eight(blocks)
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
    least = blocks[..., 2:4].contiguous().view(torch.float16)[..., 0] if kind == "Q4_1" else scales * -8
    return scales, least


def _scales_and_least_of_eight(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = blocks[..., :4].contiguous().view(torch.float16).float()  # of scales, of least values
    first, second, third = blocks[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat([first & 63, (third & 15) | (first >> 6 << 4)], -1)
    least = torch.cat([second & 63, (third >> 4) | (second >> 6 << 4)], -1)
    parts = (scales * both[..., :1], least * -both[..., 1:])
    return tuple(part.half().flatten(1) for part in parts)  # type: ignore[return-value]
