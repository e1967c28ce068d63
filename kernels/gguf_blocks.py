"""GGUF's blocks of 4 to 6 bits: what a block says about its groups of 32. Layouts are those of ggml-common.h.

With 4 and 5 bits every weight is code * scale + least. Q4_0, Q4_1, Q5_0 and Q5_1 keep one group in a block, with a
scale of its own; Q4_K and Q5_K keep eight, whose scales and least values are 6-bit multiples of two fp16 numbers. A
weight of Q6_K is (code - 32) * scale, with a scale for every 16 inputs, an 8-bit multiple of one fp16 number.
"""

from typing import NamedTuple

import torch

GROUP = 32
"""Inputs that the kernels take together, and that share a scale but in Q6_K."""


class Kind(NamedTuple):
    """A block: its number in the native library, bits of a code, bytes, groups; where its low and high bits begin."""

    number: int
    bits: int
    num_bytes: int
    num_groups: int
    low_at: int
    high_at: int


KINDS = {
    "Q4_0": Kind(0, 4, 18, 1, 2, 0),
    "Q4_1": Kind(1, 4, 20, 1, 4, 0),
    "Q4_K": Kind(2, 4, 144, 8, 16, 0),
    "Q5_0": Kind(3, 5, 22, 1, 6, 2),
    "Q5_1": Kind(4, 5, 24, 1, 8, 4),
    "Q5_K": Kind(5, 5, 176, 8, 48, 16),
    "Q6_K": Kind(6, 6, 210, 8, 0, 128),
}


def split(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """Rows of blocks, uint8 [N, row bytes] -> dense uint8 [N, blocks, block bytes].

    Raises:
        ValueError: unknown kind, or rows that are no whole number of its blocks.
    """
    if kind not in KINDS:
        raise ValueError(f"pack_blocks: no kind {kind!r}; known: {', '.join(KINDS)}")
    return whole_blocks("pack_blocks", blocks, kind, KINDS[kind].num_bytes)


def whole_blocks(op: str, blocks: torch.Tensor, kind: str, size: int) -> torch.Tensor:
    """``split`` for blocks of ``size`` bytes; errors name ``op`` and ``kind``."""
    if blocks.dtype is not torch.uint8 or blocks.dim() != 2 or blocks.shape[1] % size or not blocks.shape[1]:
        raise ValueError(
            f"{op}: blocks {tuple(blocks.shape)} {blocks.dtype} are no rows of {kind} blocks of {size} bytes; "
            "pass uint8 [N, row bytes]"
        )
    return blocks.contiguous().unflatten(1, (-1, size))


def numbers(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, blocks, block bytes] -> two numbers of each group, dense fp16 [N, groups].

    Scale and least value; of Q6_K the scales of the first and the last 16 inputs. Exact for blocks of one group (as
    long as 16 scales are no overflow). Of blocks of eight they are products of up to 19 bits and rounded to fp16's 11:
    at most 1 part in 2048 of a scale, where a step of the codes is 1 part in 63 or more.
    """
    if kind == "Q6_K":
        return _scales_of_sixteen(blocks)
    if KINDS[kind].num_groups == 8:
        return _scales_and_least_of_eight(blocks)
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
    if kind in ("Q4_1", "Q5_1"):
        return scales, blocks[..., 2:4].contiguous().view(torch.float16)[..., 0]
    return scales, scales * -(1 << (KINDS[kind].bits - 1))


def _scales_and_least_of_eight(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = blocks[..., :4].contiguous().view(torch.float16).float()  # of scales, of least values
    first, second, third = blocks[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat([first & 63, (third & 15) | (first >> 6 << 4)], -1)
    least = torch.cat([second & 63, (third >> 4) | (second >> 6 << 4)], -1)
    parts = (scales * both[..., :1], least * -both[..., 1:])
    return tuple(part.half().flatten(1) for part in parts)  # type: ignore[return-value]


def _scales_of_sixteen(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    unit = blocks[..., 208:].contiguous().view(torch.float16).float()
    scales = (blocks[..., 192:208].view(torch.int8) * unit).half().unflatten(-1, (8, 2))
    return scales[..., 0].flatten(1), scales[..., 1].flatten(1)
