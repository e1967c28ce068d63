"""Which backend serves an op on a device: chosen once, at the first call, and kept.

A backend is a file ``kernels/<op>/<backend>.py`` with the functions of ``reference.py`` beside it, same signatures, and
``why_not(device) -> str | None``. Knows nothing of what an op computes.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from .native import load

OPS = (
    "rms_norm", "rope", "store_kv", "move_kv", "paged_attention", "silu_mul", "linear_int8", "linear_blocks", "sample",
    "verify", "decoder_layers",
)  # fmt: skip
_PREFERRED = {"cpu": ("cpu",), "cuda": ("triton",)}
"""Backends to try on each kind of device, best first; the reference comes last everywhere."""

_chosen: dict[tuple[str, str], Callable[..., Any]] = {}
"""(op, function) -> the function on the CPU, where calls are many and short."""
_chosen_elsewhere: dict[tuple[str, str, str], Callable[..., Any]] = {}
_native = True


def backend(op: str, tensor: torch.Tensor, fn: str = "run") -> Callable[..., Any]:
    """The function ``fn`` of the backend that serves ``op`` where ``tensor`` lives."""
    if tensor.is_cpu:
        found = _chosen.get((op, fn))
        if found is None:
            found = _chosen[op, fn] = _load(op, "cpu", fn)
        return found
    key = (op, fn, tensor.device.type)
    found = _chosen_elsewhere.get(key)
    if found is None:
        found = _chosen_elsewhere[key] = _load(op, key[2], fn)
    return found


def select(op: str, device: str) -> tuple[str, dict[str, str]]:
    """The backend's name for ``op`` on a kind of device, and of each better one why it was passed over.

    Raises:
        LookupError: there is no such op.
    """
    if op not in OPS:
        raise LookupError(f"no op {op!r}; known: {', '.join(OPS)}")
    passed_over: dict[str, str] = {}
    for name in _PREFERRED.get(device, ()):
        reason = _why_not(op, name, device)
        if reason is None:
            return name, passed_over
        passed_over[name] = reason
    return "reference", passed_over


def why(device: str = "cpu") -> dict[str, str]:
    """For each op one sentence: its backend on this kind of device, and why each other was passed over."""
    told: dict[str, str] = {}
    for op in OPS:
        name, passed_over = select(op, device)
        told[op] = "; ".join([name, *(f"not {other}: {reason}" for other, reason in passed_over.items())])
    return told


def configure(native: bool = True, num_threads: int = 0) -> None:
    """Set up before the first op: hide the native library, or give its pool ``num_threads`` threads (0 = one a core).

    Weights packed before a change of ``native`` are of the other backend's layout: pack them again.
    """
    global _native
    _native = native
    _chosen.clear()
    if native:
        load.set_num_threads(num_threads)


def _load(op: str, device: str, fn: str) -> Callable[..., Any]:
    name = select(op, device)[0]
    return getattr(importlib.import_module(f"{__package__}.{op}.{name}"), fn)


def _why_not(op: str, name: str, device: str) -> str | None:
    if name == "cpu" and not _native:
        return "native kernels are hidden by configuration"
    if importlib.util.find_spec(f"{__package__}.{op}.{name}") is None:
        return "not written for this op"
    if name == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed; install paceline[gpu]"
    return importlib.import_module(f"{__package__}.{op}.{name}").why_not(device)
