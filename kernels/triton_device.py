"""What the Triton backends share: may they serve a device, and how wide a tile is. Imports no triton."""

import os

import torch


def why_not(device: str) -> str | None:
    """Why Triton kernels cannot serve this kind of device, or None. The interpreter serves the CPU, for tests."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device != "cuda":
        return f"Triton kernels serve cuda, not {device}"
    return None if torch.cuda.is_available() else "there is no GPU that torch can use"


def power_of_two(n: int) -> int:
    """The least one that is no less than ``n``."""
    return 1 << max(0, n - 1).bit_length()
