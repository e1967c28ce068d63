"""Weight format: safetensors, one file or shards, read by mmap. The header reader alone needs no torch."""

import mmap
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BadModelFileError
from ..store.located import Located
from .headers.mapping import map_file
from .headers.safetensors import INDEX_NAME, TensorInfo, read_index
from .headers.safetensors import SafetensorsHeader as SafetensorsHeader
from .headers.safetensors import read_header as read_header

if TYPE_CHECKING:
    import torch

    from ..nn.weights import WeightSource

_READABLE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def claims(located: Located) -> bool:
    """Whether this format reads the model."""
    return located.kind == "safetensors"


def open(located: Located) -> "WeightSource":
    """Check all headers and map the files.

    Raises:
        BadModelFileError: a file is missing, changed, damaged, or does not agree with the index.
    """
    headers: dict[str, SafetensorsHeader] = {}
    for file, size in zip(located.files, located.sizes, strict=True):
        header = read_header(file)
        if header.file_size != size:
            raise BadModelFileError(f"{file}: {header.file_size} bytes, {size} when checked; fetch it again")
        headers[file] = header
    index = Path(located.folder, INDEX_NAME)
    if len(headers) > 1 and index.exists():
        _check_index(index, headers)
    places: dict[str, _Place] = {}
    for file, header in headers.items():
        for name, info in header.tensors.items():
            if name in places:
                raise BadModelFileError(f"{file}: tensor {name!r} is in {places[name].file} too; remove the stray file")
            places[name] = _Place(file, info)
    maps = {file: map_file(file, header.file_size) for file, header in headers.items()}
    return SafetensorsWeights(located.folder, places, maps)


class _Place(NamedTuple):
    file: str
    info: TensorInfo


class SafetensorsWeights:
    """WeightSource over mapped files."""

    def __init__(self, where: str, places: dict[str, _Place], maps: dict[str, mmap.mmap]) -> None:
        self.where = where
        self._places = places
        self._maps = maps

    @property
    def names(self) -> Collection[str]:
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].info.shape

    def read(self, name: str) -> "torch.Tensor":
        import torch

        file, info = self._places[name]
        if info.dtype not in _READABLE:
            raise BadModelFileError(
                f"{file}: tensor {name!r} is {info.dtype}, not one of {', '.join(_READABLE)}; use an unquantised model"
            )
        dtype = getattr(torch, _READABLE[info.dtype])
        count = info.num_bytes // dtype.itemsize
        if not count:
            return torch.empty(info.shape, dtype=dtype)
        buffer = self._maps[file]
        if info.offset % dtype.itemsize:
            copy = bytearray(buffer[info.offset : info.offset + info.num_bytes])
            return torch.frombuffer(copy, dtype=dtype).view(info.shape)
        return torch.frombuffer(buffer, dtype=dtype, count=count, offset=info.offset).view(info.shape)

    def close(self) -> None:
        # Tensors hold the maps; dropping our references lets each go with its last tensor.
        self._maps = {}


def _check_index(index: Path, headers: dict[str, SafetensorsHeader]) -> None:
    by_name = {os.path.basename(file): header for file, header in headers.items()}
    for tensor, file_name in read_index(index).items():
        header = by_name.get(file_name)
        if header is None:
            raise BadModelFileError(f"{index}: names {file_name}, which is not there; fetch the model again")
        if tensor not in header.tensors:
            raise BadModelFileError(f"{index}: puts {tensor!r} into {file_name}, which lacks it; fetch the model again")
