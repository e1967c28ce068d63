"""From a card and files to a model: finds the plug-ins, then reads, checks, fuses and packs each weight once.

Knows no architecture (``engine.models``), no file layout (``engine.formats``) and no arithmetic (``engine.quant``).
"""

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from types import ModuleType
from typing import NamedTuple, Self, TypeVar, cast

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

_SMALL = ("Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K")


class Storage(NamedTuple):
    """How weights are kept: the quant plug-in, in which dtype it gets matrices, and the dtype of the embedding.

    Blocks of ``kinds`` are taken as the file has them, by whichever plug-in can.
    """

    quant: str
    matrices: torch.dtype
    embedding: torch.dtype
    kinds: tuple[str, ...] = ()


DTYPES = {
    "mixed": Storage("int8", torch.float32, torch.bfloat16, (*_SMALL, "Q6_K", "Q8_0")),
    "int4": Storage("blocks", torch.float32, torch.bfloat16, _SMALL),  # the rest is rounded to 4 bits
    "int8": Storage("int8", torch.float32, torch.bfloat16),
    "bfloat16": Storage("none", torch.bfloat16, torch.bfloat16),
    "float16": Storage("none", torch.float16, torch.float16),
    "float32": Storage("none", torch.float32, torch.float32),
}
"""By the word in the config."""


def load_model(card: ModelCard | ModelConfig, located: Located, *, dtype: str = "auto", device: str = "cpu") -> Model:
    """The model of ``card`` with its weights in memory on ``device``.

    Args:
        dtype: a key of ``DTYPES``, or "auto": on a CPU mixed (a GGUF file's blocks as they are, all else int8),
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
    storage = DTYPES[dtype]
    quant = cast(Quant, plugins.load("engine.quant", storage.quant))
    source = plugin.source(config) if hasattr(plugin, "source") else open_weights(located)
    cache = None
    block_quants = find_block_quants(storage.kinds) if isinstance(source, BlockSource) else {}
    if device == "cpu" and storage.quant != "none":
        cache = open_cache(located, dtype if block_quants else storage.quant, _sample(quant, block_quants))
    try:
        with Loader(source, quant, dtype, torch.device(device), cache, block_quants) as loader:
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


def find_block_quants(kinds: Collection[str]) -> dict[str, BlockQuant]:
    """The quant plug-in that takes blocks of each of ``kinds``."""
    found: dict[str, BlockQuant] = {}
    for name in plugins.names("engine.quant"):
        plugin = plugins.load("engine.quant", name)
        found |= {kind: cast(BlockQuant, plugin) for kind in getattr(plugin, "KINDS", ()) if kind in kinds}
    return found


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
        block_quants: Mapping[str, BlockQuant] | None = None,
    ) -> None:
        self._source = source
        self._quant = quant
        self._block_quants = block_quants or {}
        _, self._matrix_dtype, self._embedding_dtype, _ = DTYPES[dtype]
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
        if self._block_quants:
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
            rows = _joined([source.blocks(f"{name}.weight") for name in sizes])
            return self._block_quants[kind].pack_blocks(rows, kind)

        packed = self._kept("+".join(sizes), pack_blocks if kind else pack)
        quant = self._block_quants[kind] if kind else self._quant
        return Weight(quant, packed, sum(sizes.values()), num_inputs)

    def _block_kind(self, name: str) -> str:
        """Kind of the blocks of matrix ``name`` where they are used as they are, else an empty string."""
        if not self._block_quants:
            return ""
        kind = cast(BlockSource, self._source).kind(f"{name}.weight")
        return kind if kind in self._block_quants else ""

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


def _sample(quant: Quant, block_quants: Mapping[str, BlockQuant]) -> tuple[torch.Tensor, ...]:
    """Something small of each kind, packed: it tells layouts in memory apart."""
    packed = quant.pack(torch.arange(17.0 * 65).view(17, 65))
    for kind, block_quant in sorted(block_quants.items()):
        size = block_quant.KINDS[kind]
        packed += block_quant.pack_blocks((torch.arange(17 * size) % 251).to(torch.uint8).view(17, size), kind)
    return packed


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
