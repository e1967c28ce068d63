"""What a weight format gives to the loader, and what the loader gives to a layer. Knows no file and no model."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch


class Quant(Protocol):
    """A plug-in of ``engine.quant``: weights in memory and how they multiply.

    One whose ``linear`` is an op of ``kernels.ops`` names it in a constant ``OP``, so that whole layers can run in one
    call.
    """

    def pack(self, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Weight [N, K], fp32 or as the checkpoint has it, to the tensors that ``linear`` reads."""
        ...

    def linear(
        self, x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [T, K] times the packed weight [n, K], plus bias [n] -> [T, n]."""
        ...


class BlockQuant(Quant, Protocol):
    """A quant that can also take a file's blocks of codes as they are."""

    KINDS: Mapping[str, int]
    """Which, by the format's own words, and the bytes of a block."""

    def pack_blocks(self, blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
        """Rows of blocks uint8 [N, row bytes] to the tensors that ``linear`` reads."""
        ...


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix [num_outputs, num_inputs] in the form of ``quant``."""

    quant: Quant
    tensors: tuple[torch.Tensor, ...]
    num_outputs: int
    num_inputs: int


class WeightSource(Protocol):
    """An open checkpoint. Tensors go by Hugging Face's names whatever the file calls them. Threads may read at once."""

    where: str
    """File or folder, for messages."""

    @property
    def names(self) -> Collection[str]:
        """All tensors there are."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of ``name`` without reading it."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor in fp32, bf16 or fp16; it may share memory with the mapped file, so do not write to it.

        Raises:
            BadModelFileError: the file no longer holds it, or its type cannot be read.
        """
        ...

    def close(self) -> None:
        """Let the file go; tensors read before stay valid."""
        ...


@runtime_checkable
class BlockSource(WeightSource, Protocol):
    """A checkpoint of blocks of codes, which a quant may want as they are."""

    def kind(self, name: str) -> str:
        """How the file stores ``name``: the format's own word, such as Q4_K."""
        ...

    def blocks(self, name: str) -> torch.Tensor:
        """uint8 [rows, row bytes]: the rows of ``name`` in their order, whole blocks. Do not write to it."""
        ...

    def decoder(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """What makes fp32 [n, row length] of any n rows of ``blocks``; it needs the source no longer."""
        ...
