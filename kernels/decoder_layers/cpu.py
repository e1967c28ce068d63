"""A run of decoder layers in one call of the native library (kernels/native/decoder.cpp)."""

import ctypes
from collections.abc import Sequence

import torch

from ..decoder import Decoder, Product, Rows
from ..linear_blocks.cpu import BITS
from ..native import load, tensors
from . import reference

why_not = load.why_not
_decoder_layers = load.function("pl_decoder_layers")

_INT8 = 8
"""Kind of an int8 product; that of blocks is the bits of their codes."""
_REFUSED = 1 << 40
_OPS = {1: "rope", 2: "store_kv", 3: "paged_attention"}
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class _Product(ctypes.Structure):
    _fields_ = [("codes", _POINTER), ("scales", _POINTER), ("bias", _POINTER), ("kind", _INT), ("n", _INT)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("qkv", "output", "gate_up", "down")),
        *((f"num_{name}", _INT) for name in ("qkv", "output", "gate_up", "down")),
        ("mlp_norm", _POINTER),
        ("next_norm", _POINTER),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("layers", _POINTER),
        ("cos_sin", _POINTER),
        *((name, _INT) for name in ("hidden_size", "inner_size", "q_heads", "k_heads", "head_size")),
        *((name, _INT) for name in ("max_position", "window")),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("positions", "slots", "block_tables", "query_starts", "context_lens")),
        *((name, _POINTER) for name in ("parents", "k_pages", "v_pages")),
        *((name, _INT) for name in ("num_tokens", "num_rows", "block_size", "num_blocks", "max_blocks", "pages")),
    ]


class Packed:
    """The native structs of a decoder, and the tensors that they point into."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._held: list[object] = [decoder]
        layers = (_Layer * len(decoder.layers))()
        for at, layer in zip(layers, decoder.layers, strict=True):
            for name in ("qkv", "output", "gate_up", "down"):
                products = self._products(getattr(layer, name))
                setattr(at, name, ctypes.addressof(products))
                setattr(at, f"num_{name}", len(products))
            at.mlp_norm, at.next_norm = tensors.fp32(layer.mlp_norm), tensors.fp32(layer.next_norm)
        self._held.append(layers)
        hidden = decoder.layers[0].mlp_norm.numel()
        self.native = _Decoder(
            ctypes.addressof(layers), tensors.fp32(decoder.cos_sin), hidden, decoder.inner_size, decoder.num_heads,
            decoder.num_kv_heads, decoder.head_size, decoder.cos_sin.shape[0], decoder.window, decoder.eps,
            decoder.head_size**-0.5,
        )  # fmt: skip
        self.hidden_size = hidden
        self._pages: list[Sequence[torch.Tensor]] = [(), ()]
        self._page_addresses: list[ctypes.Array[ctypes.c_void_p]] = []

    def addresses(self, rows: Rows) -> list[int]:
        """Of the arrays that point to the pages of all layers, of k and of v; made anew where pages are others."""
        if rows.k_pages is not self._pages[0] or rows.v_pages is not self._pages[1]:
            both = [rows.k_pages, rows.v_pages]
            self._page_addresses = [_addresses(pages, rows.k_pages[0], self.decoder) for pages in both]
            self._pages = both
        return [ctypes.addressof(array) for array in self._page_addresses]

    def _products(self, products: tuple[Product, ...]) -> "ctypes.Array[_Product]":
        made = (_Product * len(products))()
        for at, product in zip(made, products, strict=True):
            codes = product.packed[0]
            at.codes = codes.data_ptr()
            at.scales = product.packed[1].data_ptr() if len(product.packed) > 1 else None
            at.bias = None if product.bias is None else tensors.fp32(product.bias)
            at.kind = _INT8 if product.op == "linear_int8" else BITS[codes.size(2)]
            at.n = product.num_outputs
        self._held.append(made)
        return made


def pack(decoder: Decoder) -> Packed:
    """See ``ops.pack_decoder_layers``."""
    return Packed(decoder)


def run(packed: Packed, rows: Rows, x: torch.Tensor, residual: torch.Tensor, first: int, last: int) -> None:
    """See ``ops.decoder_layers``."""
    decoder = packed.decoder
    pages = rows.k_pages[first] if first < last else None
    if pages is None or pages.dtype not in tensors.PAGES:
        return reference.run(decoder, rows, x, residual, first, last)
    num_tokens = x.shape[0]
    shape = (num_tokens, packed.hidden_size)
    if x.shape != shape or residual.shape != shape or not x.is_contiguous() or not residual.is_contiguous():
        raise tensors.misfit("decoder_layers", "x", x, residual)
    num_rows, max_blocks = rows.block_tables.shape
    sizes = {"positions": num_tokens, "slots": num_tokens, "query_starts": num_rows + 1, "context_lens": num_rows}
    for name, size in sizes.items():
        if getattr(rows, name).numel() != size:
            raise tensors.misfit("decoder_layers", name, getattr(rows, name), x)
    if rows.parents is not None and rows.parents.numel() != num_tokens:
        raise tensors.misfit("decoder_layers", "parents", rows.parents, x)
    num_blocks, block_size = pages.shape[:2]
    native = _Rows(
        tensors.int32(rows.positions), tensors.int32(rows.slots), tensors.int32(rows.block_tables),
        tensors.int32(rows.query_starts), tensors.int32(rows.context_lens),
        None if rows.parents is None else tensors.int32(rows.parents),
        *packed.addresses(rows), num_tokens, num_rows, block_size, num_blocks, max_blocks, tensors.PAGES[pages.dtype],
    )  # fmt: skip
    bad = _decoder_layers(
        ctypes.addressof(packed.native), ctypes.addressof(native), tensors.fp32(x), tensors.fp32(residual), first, last
    )
    if bad:
        op, place = divmod(bad, _REFUSED)
        raise IndexError(f"decoder_layers: {_OPS[op]} refuses entry {place - 1} of its positions, slots or rows")


def _addresses(pages: Sequence[torch.Tensor], like: torch.Tensor, decoder: Decoder) -> "ctypes.Array[ctypes.c_void_p]":
    """Of the pages of all layers, which are of one shape and kind."""
    if len(pages) < len(decoder.layers) or like.shape[2:] != (decoder.num_kv_heads, decoder.head_size):
        raise tensors.misfit("decoder_layers", "pages", like, decoder.cos_sin)
    for page in pages:
        if page.shape != like.shape or page.dtype is not like.dtype or not page.is_contiguous():
            raise tensors.misfit("decoder_layers", "pages", page, like)
    return (_POINTER * len(pages))(*(page.data_ptr() for page in pages))
