"""Weight format: GGUF. Tensors go by Hugging Face's names, are dequantised as they are read, or handed on as blocks.

The header reader and the config reader need neither torch nor numpy. Dequantising is the ``gguf`` package's: it is the
oracle, and with rows joined into longer ones (see ``_dequantise``) fast enough to load from.
"""

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import BadModelFileError
from ..store.located import Located
from .headers.gguf import GGUFHeader as GGUFHeader
from .headers.gguf import SkippedArray as SkippedArray
from .headers.gguf import TensorInfo
from .headers.gguf import read_header as read_header
from .headers.gguf_config import model_config_from_gguf as model_config_from_gguf
from .headers.mapping import map_file

if TYPE_CHECKING:
    import torch

    from ..nn.weights import BlockSource

# Types of ggml that hold running sums for a dot product, or integers: never weights.
_NOT_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_freqs",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d{1,5})\.)?([a-z_]+)\.(weight|bias)")
# Floats a dequantising call should make at a time: enough to hide its Python, few enough to stay in the L2 cache.
_CHUNK = 1 << 17


def claims(located: Located) -> bool:
    """Whether this format reads the model."""
    return located.kind == "gguf"


def open(located: Located) -> "BlockSource":
    """Check the header and map the file.

    Raises:
        BadModelFileError: the file is missing, changed, damaged, split, or of a type that cannot be read.
    """
    if len(located.files) != 1:
        raise BadModelFileError(f"{located.folder}: {len(located.files)} GGUF files; merge the parts into one first")
    path = located.files[0]
    header = read_header(path, skip_arrays=True)
    if header.file_size != located.sizes[0]:
        raise BadModelFileError(f"{path}: {header.file_size} bytes, {located.sizes[0]} when checked; fetch it again")
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise BadModelFileError(f"{path}: is one part of a split model; merge the parts into one file first")
    for name, info in header.tensors.items():
        if info.type_name in _NOT_WEIGHTS:
            raise BadModelFileError(f"{path}: tensor {name!r} has type {info.type_name}; use a Q4_K, Q8_0 or F16 file")
    return GGUFWeights(header)


def hugging_face_name(name: str) -> str:
    """``blk.0.attn_q.weight`` -> ``model.layers.0.self_attn.q_proj.weight``; an unknown name stays as it is."""
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    layer, stem, leaf = match.groups()
    if layer is None:
        return f"{_OUTER[stem]}.{leaf}" if stem in _OUTER else name
    return f"model.layers.{int(layer)}.{_INNER[stem]}.{leaf}" if stem in _INNER else name


class GGUFWeights:
    """BlockSource over one mapped file."""

    def __init__(self, header: GGUFHeader) -> None:
        self.where = header.path
        self._tensors = {hugging_face_name(name): info for name, info in header.tensors.items()}
        self._heads = _permuted_heads(header)
        self._map = map_file(header.path, header.file_size)

    @property
    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def kind(self, name: str) -> str:
        return self._tensors[name].type_name

    def blocks(self, name: str) -> "torch.Tensor":
        import torch

        return torch.from_numpy(self._rows(name))

    def decoder(self, name: str) -> "Callable[[torch.Tensor], torch.Tensor]":
        info = self._tensors[name]
        if info.type_name not in (*_PLAIN, "Q8_0"):
            from gguf.quants import dequantize  # noqa: F401  # now rather than in the first step

        return partial(_numbers, info)

    def read(self, name: str) -> "torch.Tensor":
        import torch

        info = self._tensors[name]
        return _numbers(info, torch.from_numpy(self._rows(name))).view(info.shape)

    def _rows(self, name: str) -> Any:
        """Bytes [..., row bytes], in the order of Hugging Face's rows."""
        import numpy as np

        info = self._tensors[name]
        raw = np.frombuffer(self._map, dtype=np.uint8, count=info.num_bytes, offset=info.offset)
        rows = raw.reshape(*info.shape[:-1], -1)
        num_heads = self._heads.get(name.rpartition(".")[0].rpartition(".")[2])
        if not num_heads:
            return rows
        # Each stored unit of axis 0 is one output: a row of bytes, or for a bias (one row in all) one number.
        return _halves_layout(raw.reshape(info.shape[0], -1), num_heads).reshape(rows.shape)

    def close(self) -> None:
        # A map cannot be closed under the arrays made from it; it goes with the last of them.
        del self._map


def _permuted_heads(header: GGUFHeader) -> dict[str, int]:
    """Heads of the projections whose rows the ``llama`` architecture stores in pairs."""
    if header.metadata.get("general.architecture") != "llama":
        return {}
    config = model_config_from_gguf(header)
    return {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}


def _halves_layout(units: Any, num_heads: int) -> Any:
    """Undo the rotary permutation: in each head, outputs stored as (0, D/2, 1, D/2+1, ...) go back to 0, 1, 2, ..."""
    num_outputs, width = units.shape
    pairs = units.reshape(num_heads, num_outputs // num_heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(num_outputs, width)


def _numbers(info: TensorInfo, rows: "torch.Tensor") -> "torch.Tensor":
    """Bytes [..., row bytes] of a tensor's rows, any number of them, to its numbers [..., row length]."""
    import torch

    if not rows.numel():
        return torch.empty(*rows.shape[:-1], info.shape[-1])
    plain = _PLAIN.get(info.type_name)
    if plain:
        return rows.view(getattr(torch, plain))
    if info.type_name == "Q8_0":
        import numpy as np

        # numpy's calls are shorter than torch's, which counts where one row is looked up for every token of an answer.
        blocks = rows.numpy().reshape(-1, 34)  # a scale in fp16, 32 codes
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        return torch.from_numpy(blocks[:, 2:].view(np.int8) * scales).view(*rows.shape[:-1], -1)
    return torch.from_numpy(_dequantise(rows.numpy(), info)).view(*rows.shape[:-1], -1)


def _dequantise(rows: Any, info: TensorInfo) -> Any:
    """Bytes [..., row bytes] -> float32, flat.

    The package takes sixteen rows at a time, in Python. Blocks know nothing of rows, so rows are joined until sixteen
    of them fill ``_CHUNK``: twice as fast on narrow matrices.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    num_rows, width = rows.size // rows.shape[-1], info.shape[-1]
    joined = 1
    while num_rows % (joined * 2) == 0 and joined * 2 * width * 16 <= _CHUNK:
        joined *= 2
    return dequantize(rows.reshape(num_rows // joined, -1), GGMLQuantizationType(info.ggml_type)).reshape(-1)
