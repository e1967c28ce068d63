"""Tensors as the pointers that the C functions take: what could read or write outside of one is refused first."""

import torch

PAGES = {torch.float32: 0, torch.bfloat16: 1}
"""Kinds of KV pages, ``PlPages`` in abi.h."""


def dense(x: torch.Tensor) -> torch.Tensor:
    """x, copied if its elements do not follow one another."""
    return x if x.is_contiguous() else x.contiguous()


def fp32(x: torch.Tensor) -> int:
    """Address of an fp32 tensor whose strides the caller knows."""
    if x.dtype is not torch.float32:
        raise TypeError(f"native kernels take float32 here, not {x.dtype}; convert it")
    return x.data_ptr()


def int32(x: torch.Tensor) -> int:
    """Address of a dense int32 tensor."""
    if x.dtype is not torch.int32 or not x.is_contiguous():
        raise TypeError(f"native kernels take a contiguous int32 tensor here, not {x.dtype} of strides {x.stride()}")
    return x.data_ptr()


def int64(x: torch.Tensor) -> int:
    """Address of a dense int64 tensor."""
    if x.dtype is not torch.int64 or not x.is_contiguous():
        raise TypeError(f"native kernels take a contiguous int64 tensor here, not {x.dtype} of strides {x.stride()}")
    return x.data_ptr()


def bias(op: str, given: torch.Tensor | None, n: int, beside: torch.Tensor) -> int:
    """Address of a bias fp32 [n] of ``op``, 0 for none."""
    if given is None:
        return 0
    if given.numel() != n:
        raise misfit(op, "bias", given, beside)
    return fp32(given)


def misfit(op: str, name: str, given: torch.Tensor, beside: torch.Tensor) -> ValueError:
    """The error for an argument that does not fit another one."""
    return ValueError(
        f"{op}: {name} {tuple(given.shape)} {given.dtype}, strides {given.stride()}, does not fit "
        f"{tuple(beside.shape)}; see ops.{op} for shapes"
    )
