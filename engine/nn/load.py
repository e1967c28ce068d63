"""From a card and files to a model: finds the plug-ins, then reads, checks, fuses and packs each weight once.

Knows no architecture (``engine.models``), no file layout (``engine.formats``) and no arithmetic (``engine.quant``).
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from types import ModuleType
from typing import Self, TypeVar, cast

import torch

from .. import plugins
from ..errors import BadModelFileError, ConfigError
from ..store.located import Located, ModelCard
from ..types import ModelConfig
from .layers import Embedding, Linear
from .model import Model
from .packed_cache import PackedCache, open_cache
from .weights import BlockQuant, BlockSource, Quant, Weight, WeightSource

Part = TypeVar("Part")

# Word in the config -> (quant plug-in, dtype in which it gets matrices, dtype of the embedding).
DTYPES: dict[str, tuple[str, torch.dtype, torch.dtype]] = {
    "mixed": ("int8", torch.float32, torch.bfloat16),  # but 4-bit blocks as the file has them
    "int4": ("int4", torch.float32, torch.bfloat16),  # the rest is rounded to 4 bits
    "int8": ("int8", torch.float32, torch.bfloat16),
    "bfloat16": ("none", torch.bfloat16, torch.bfloat16),
    "float16": ("none", torch.float16, torch.float16),
    "float32": ("none", torch.float32, torch.float32),
}


def load_model(card: ModelCard | ModelConfig, located: Located, *, dtype: str = "auto", device: str = "cpu") -> Model:
    """The model of ``card`` with its weights in memory on ``device``.

    Args:
        dtype: a key of ``DTYPES``, or "auto": on a CPU mixed (4-bit blocks of a file as they are, all else int8),
            bfloat16 elsewhere.

    Raises:
        BadModelFileError: a file is damaged, or a tensor is missing or of the wrong shape.
        ConfigError: unknown dtype.
    """
    config = card.model if isinstance(card, ModelCard) else card
    if dtype == "auto":
        dtype = "mixed" if device == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise ConfigError(f"target.dtype = {dtype!r}: use one of auto, {', '.join(DTYPES)}")
    plugin = find_model(config.architecture)
    quant = cast(Quant, plugins.load("engine.quant", DTYPES[dtype][0]))
    source = plugin.source(config) if hasattr(plugin, "source") else open_weights(located)
    cache = None
    block_quant = None
    if dtype in ("mixed", "int4") and isinstance(source, BlockSource):
        block_quant = cast(BlockQuant, plugins.load("engine.quant", "int4"))
    if device == "cpu" and DTYPES[dtype][0] != "none":
        probe = torch.arange(17.0 * 65).view(17, 65)
        layout = quant.pack(probe) + (block_quant.pack(probe) if block_quant else ())
        cache = open_cache(located, dtype if block_quant else DTYPES[dtype][0], layout)
    try:
        with Loader(source, quant, dtype, torch.device(device), cache, block_quant) as loader:
            model = plugin.build(config, loader)
    finally:
        source.close()
    if cache is not None:
        cache.save_later()
    return model


def find_model(architecture: str) -> ModuleType:
    """The model plug-in that builds ``architecture``.

    Raises:
        BadModelFileError: there is none; the message lists what there is.
    """
    known: list[str] = []
    for name in plugins.names("engine.models"):
        plugin = plugins.load("engine.models", name)
        if architecture in plugin.ARCHITECTURES:
            return plugin
        known.extend(plugin.ARCHITECTURES)
    raise BadModelFileError(f"architecture {architecture!r} is not supported; use one of: {', '.join(known)}")


def open_weights(located: Located) -> WeightSource:
    """The checkpoint of ``located``, through the format that claims it.

    Raises:
        BadModelFileError: a file is damaged, or no format claims them.
    """
    for name in plugins.names("engine.formats"):
        plugin = plugins.load("engine.formats", name)
        if plugin.claims(located):
            return plugin.open(located)
    raise BadModelFileError(f"{located.folder}: no weight format reads {located.kind!r}; use safetensors or GGUF files")


class Loader:
    """Hands a model plug-in its parts, ready to run. Safe to call from several threads."""

    def __init__(
        self,
        source: WeightSource,
        quant: Quant,
        dtype: str,
        device: torch.device,
        cache: PackedCache | None = None,
        block_quant: BlockQuant | None = None,
    ) -> None:
        self._source = source
        self._quant = quant
        self._block_quant = block_quant
        _, self._matrix_dtype, self._embedding_dtype = DTYPES[dtype]
        self._device = device
        self._cache = cache
        # CPU kernels take fp32; a GPU computes in the dtype of the embedding.
        self._activations = torch.float32 if device.type == "cpu" else self._embedding_dtype
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "load")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def linear(self, sizes: Mapping[str, int], num_inputs: int, *, bias: bool = False) -> Linear:
        """One product for the matrices ``<name>.weight`` [size, num_inputs], outputs in the order of ``sizes``.

        Quants scale each output by itself, so joining outputs before packing changes no result. Neighbours that the
        file stores in blocks of different kinds stay weights of their own.
        """
        for name, size in sizes.items():
            self._check(f"{name}.weight", (size, num_inputs))
        weights = [
            self._weight(kind, {name: sizes[name] for name in names}, num_inputs)
            for kind, names in groupby(sizes, self._block_kind)
        ]
        biases = [self.vector(f"{name}.bias", size) for name, size in sizes.items()] if bias else []
        added = torch.cat(biases).to(self._activations) if biases else None
        return Linear(weights[0], added, *weights[1:])

    def embedding(self, name: str, num_rows: int, width: int) -> Embedding:
        """A look-up table [num_rows, width]: bf16 beside int8 products, and the file's own bytes beside its blocks."""
        self._check(name, (num_rows, width))
        if self._block_quant is not None:
            source = cast(BlockSource, self._source)
            return Embedding(source.blocks(name).clone(), self._activations, source.decoder(name))
        (table,) = self._kept(name, lambda: (self._source.read(name).to(self._embedding_dtype, copy=True),))
        return Embedding(self.place(table), self._activations)

    def vector(self, name: str, size: int) -> torch.Tensor:
        """fp32 [size]: a norm's weight or a bias."""
        self._check(name, (size,))
        return self.place(self._source.read(name).to(torch.float32, copy=True))

    def optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """fp32 tensor, on the CPU, or None where the checkpoint has none."""
        if name not in self._source.names:
            return None
        self._check(name, shape)
        return self._source.read(name).to(torch.float32, copy=True)

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` on the model's device."""
        return tensor.to(self._device)

    def start(self, build: Callable[[], Part]) -> "Future[Part]":
        """Build a part on another thread: dequantising and packing leave the interpreter free."""
        return self._pool.submit(build)

    def _weight(self, kind: str, sizes: Mapping[str, int], num_inputs: int) -> Weight:
        """The matrices of ``sizes`` as one: as blocks of ``kind``, or where that is empty packed from numbers."""

        def pack() -> tuple[torch.Tensor, ...]:
            parts = [self._source.read(f"{name}.weight").to(self._matrix_dtype) for name in sizes]
            return self._quant.pack(self.place(_joined(parts)))

        def pack_blocks() -> tuple[torch.Tensor, ...]:
            source = cast(BlockSource, self._source)
            return int4.pack_blocks(_joined([source.blocks(f"{name}.weight") for name in sizes]), kind)

        int4 = cast(BlockQuant, self._block_quant)
        packed = self._kept("+".join(sizes), pack_blocks if kind else pack)
        return Weight(int4 if kind else self._quant, packed, sum(sizes.values()), num_inputs)

    def _block_kind(self, name: str) -> str:
        """Kind of the blocks of matrix ``name`` where they are used as they are, else an empty string."""
        if self._block_quant is None:
            return ""
        kind = cast(BlockSource, self._source).kind(f"{name}.weight")
        return kind if kind in self._block_quant.KINDS else ""

    def _kept(self, key: str, make: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        return self._cache.get(key, make) if self._cache is not None else make()

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        where = self._source.where
        if name not in self._source.names:
            raise BadModelFileError(f"{where}: tensor {name!r} is missing; use a complete copy of the model")
        found = tuple(self._source.shape(name))
        if found != shape:
            raise BadModelFileError(
                f"{where}: tensor {name!r} has shape {list(found)}, the model's config asks for {list(shape)}; "
                "use config and weights of one model"
            )


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
