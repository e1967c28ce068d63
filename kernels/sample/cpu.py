"""Keyed Gumbel-max on the native library."""

import torch

from ..native import load, tensors

why_not = load.why_not
_sample = load.function("pl_sample")


def run(logits: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """See ``ops.sample``."""
    logits = tensors.dense(logits)
    num_rows, vocab_size = logits.shape
    for name, given in (("temperature", temperature), ("seeds", seeds), ("positions", positions)):
        if given.numel() != num_rows:
            raise tensors.misfit("sample", name, given, logits)
    out = torch.empty(num_rows, dtype=torch.int64)
    _sample(
        tensors.fp32(logits), tensors.fp32(temperature), tensors.int64(seeds), tensors.int64(positions), out.data_ptr(),
        num_rows, vocab_size,
    )  # fmt: skip
    return out
