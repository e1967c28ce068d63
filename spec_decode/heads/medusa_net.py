"""Medusa's network (arXiv 2401.10774): heads that read one hidden state and each guess one token further ahead.

Head j is ``out(block(... block(h)))`` with ``block(x) = x + silu(linear(x))``; h is the target's hidden state behind
its final norm at a position i, where the target itself chooses token i + 1; head j guesses token i + 2 + j.

Two published layouts are read, and both may stand below a prefix::

    0.0.linear.weight  0.0.linear.bias  0.1.weight                      head.block.linear, head.(behind the blocks)
    blocks.0.layers.0.weight  blocks.0.layers.0.bias  lm_heads.0.weight
"""

import re
from dataclasses import dataclass

import torch

from ...engine.errors import ConfigError
from ...engine.nn.layers import Linear
from ...engine.nn.load import Loader
from .files import HeadFiles

_PREFIX = re.compile(r"^(base_model\.)?(medusa_lm_head|medusa_heads?|model)\.")
_BLOCK = re.compile(r"^(\d+)\.(\d+)\.linear\.(weight|bias)$|^blocks\.(\d+)\.layers\.(\d+)\.(?:linear\.)?(weight|bias)$")
_OUT = re.compile(r"^(\d+)\.(\d+)\.weight$|^lm_heads\.(\d+)\.weight$")


def rename(name: str) -> str | None:
    """A published name -> ``<head>.<block>.weight``, ``<head>.<block>.bias`` or ``<head>.out.weight``."""
    bare = _PREFIX.sub("", name)
    if found := _BLOCK.match(bare):
        return ".".join(part for part in found.groups() if part is not None)
    if found := _OUT.match(bare):
        return f"{found[1] or found[3]}.out.weight"
    return None


@dataclass(slots=True)
class _Head:
    blocks: list[Linear]
    out: Linear


class MedusaNet:
    """All heads of a file, in memory."""

    def __init__(self, heads: list[_Head], vocab_size: int) -> None:
        self._heads = heads
        self._vocab_size = vocab_size

    @property
    def num_heads(self) -> int:
        """How many tokens ahead it can guess."""
        return len(self._heads)

    def __call__(self, hidden: torch.Tensor, num_heads: int) -> torch.Tensor:
        """hidden [R, hidden_size] -> fp32 logits [R, num_heads, vocab_size] of the first ``num_heads`` heads."""
        logits = torch.empty((len(hidden), num_heads, self._vocab_size), dtype=torch.float32, device=hidden.device)
        for place, head in enumerate(self._heads[:num_heads]):
            x = hidden
            for block in head.blocks:
                x = x + torch.nn.functional.silu(block(x))
            logits[:, place] = head.out(x)
        return logits


def read(files: HeadFiles, loader: Loader, *, hidden_size: int, vocab_size: int, most: int) -> MedusaNet:
    """The first ``most`` heads of a file.

    Raises:
        ConfigError: a head is incomplete, or was trained for another target.
    """
    found = {int(name.split(".")[0]) for name in files.names}
    num_heads = len(found)
    if not found or found != set(range(num_heads)):
        raise ConfigError(f"{files.where}: holds heads {sorted(found)}; a Medusa head's file has 0, 1, 2, ...")
    if (told := files.size("medusa_num_heads", "num_heads", default=num_heads)) > num_heads:
        raise ConfigError(f"{files.where}/config.json: tells of {told} heads, the file has {num_heads}; fetch it again")
    heads: list[_Head] = []
    why = f"a target of hidden size {hidden_size} and {vocab_size} ids"
    for head in range(min(num_heads, most)):
        blocks = [name for name in files.names if re.fullmatch(rf"{head}\.\d+\.weight", name)]
        for block in range(len(blocks)):
            files.expect(f"{head}.{block}.weight", (hidden_size, hidden_size), why)
        files.expect(f"{head}.out.weight", (vocab_size, hidden_size), why)
        heads.append(
            _Head(
                [_block(files, loader, f"{head}.{block}", hidden_size, why) for block in range(len(blocks))],
                loader.linear({f"{head}.out": vocab_size}, hidden_size),
            )
        )
    return MedusaNet(heads, vocab_size)


def _block(files: HeadFiles, loader: Loader, name: str, hidden_size: int, why: str) -> Linear:
    has_bias = f"{name}.bias" in files.names
    if has_bias:
        files.expect(f"{name}.bias", (hidden_size,), why)
    return loader.linear({name: hidden_size}, hidden_size, bias=has_bias)
