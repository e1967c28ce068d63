"""The KV pages of one model on one device. Knows sizes only: who owns which block is the scheduler core's business."""

import numpy as np
import torch

from ..nn.model import KVCache
from ..types import ModelConfig

_DTYPES = {
    "auto": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def page_dtype(name: str) -> torch.dtype:
    """The torch dtype of ``cache.dtype``; ``auto`` is bfloat16."""
    return _DTYPES[name]


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of K and V of one block over all layers."""
    return block_size * config.kv_bytes_per_token(dtype.itemsize)


def allocate(
    config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> KVCache:
    """Zeroed pages ``[num_blocks, block_size, num_kv_heads, head_dim]`` for K and for V of every layer.

    On a CPU the zeros are the operating system's own fresh pages: memory is committed when a block is first written.
    """
    shape = (num_blocks, block_size, config.num_kv_heads, config.head_dim)

    def pages() -> torch.Tensor:
        if torch.device(device).type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=device)
        raw = np.zeros(shape, dtype=np.uint16 if dtype.itemsize == 2 else np.uint32)
        return torch.from_numpy(raw).view(dtype)

    return KVCache([pages() for _ in range(config.num_layers)], [pages() for _ in range(config.num_layers)], block_size)
