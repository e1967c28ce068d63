"""Matrices as the kernels want them, kept on disk, so that the second start neither dequantises nor packs.

One safetensors file for each (weight files, quant, layout of the kernels) in ``$XDG_CACHE_HOME/paceline/packed``. It
is written under another name and renamed when it is whole; a file that does not fit is ignored and replaced. The least
recently used files go when all together pass ``MAX_BYTES``. Losing any of them costs one slow start.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import BadModelFileError
from ..formats.headers import safetensors
from ..store.located import Located

FORMAT_VERSION = 1
MAX_BYTES = 32 << 30
MIN_MODEL_BYTES = 32 << 20
"""Smaller models are packed in no time."""
_ALIGNMENT = 64
_CHUNK = 16 << 20
_STALE_S = 3600.0

Tensors = tuple[torch.Tensor, ...]


class PackedCache:
    """The kept matrices of one model. ``get`` what is there, ``keep`` what is not, ``save`` at the end."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = identity
        self._tensors = _read(path, identity)
        self._fresh: dict[str, torch.Tensor] = {}

    def get(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors kept under ``key``, or what ``make`` returns, which is kept. Threads may call it at once."""
        found: list[torch.Tensor] = []
        while (tensor := self._tensors.get(f"{key}#{len(found)}")) is not None:
            found.append(tensor)
        if found:
            return tuple(found)
        made = make()
        self._fresh.update({f"{key}#{i}": tensor for i, tensor in enumerate(made)})
        return made

    def save(self) -> None:
        """Write the file if anything is new. Shortage of space or rights is no error: the cache is a convenience."""
        if not self._fresh:
            with contextlib.suppress(OSError):
                os.utime(self.path)  # the order of eviction
            return
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {**self._tensors, **self._fresh}
        size = sum(tensor.nbytes for tensor in tensors.values())
        part = self.path.with_suffix(f".part-{os.getpid()}-{threading.get_ident()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self.path.parent, size)
            if shutil.disk_usage(self.path.parent).free < 2 * size:
                return
            save_file(tensors, part, metadata={"paceline": self._identity})
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.path)
        except (OSError, SafetensorError):
            return
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def save_later(self) -> threading.Thread:
        """``save`` beside whatever comes next; the tensors are only read."""
        thread = threading.Thread(target=self.save, name="packed-cache")
        thread.start()
        return thread


def open_cache(located: Located, dtype: str, probe: Tensors) -> PackedCache | None:
    """The cache of this model, or None where it is not worth one or its files cannot be identified.

    Args:
        probe: a small matrix as the quant packs it; what it hashes to stands for the kernels' layout.
    """
    if sum(located.sizes) < MIN_MODEL_BYTES:
        return None
    layout = hashlib.sha256()
    for tensor in probe:
        layout.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        layout.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    try:
        files = [digest or _stamp(file) for file, digest in zip(located.files, located.digests, strict=True)]
    except OSError:
        return None
    identity = json.dumps({"version": FORMAT_VERSION, "files": files, "dtype": dtype, "layout": layout.hexdigest()})
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return PackedCache(folder() / f"{name}.safetensors", identity)


def folder() -> Path:
    """Where the files are."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return Path(root if os.path.isabs(root) else Path.home() / ".cache") / "paceline" / "packed"


def _stamp(file: str) -> str:
    stat = os.stat(file)
    return f"{os.path.realpath(file)}:{stat.st_size}:{stat.st_mtime_ns}"


def _read(path: Path, identity: str) -> dict[str, torch.Tensor]:
    """All tensors, in memory; empty where the file is absent, damaged or another model's."""
    if not path.exists():
        return {}
    try:
        header = safetensors.read_header(path)
        if header.metadata.get("paceline") != identity:
            return {}
        data = _read_data(path, header.data_start, header.file_size - header.data_start)
        return {name: _slice(data, info, header.data_start) for name, info in header.tensors.items()}
    except (BadModelFileError, OSError, KeyError):
        return {}


def _read_data(path: Path, start: int, size: int) -> torch.Tensor:
    # Copied rather than mapped: weights are read at every step, and only anonymous memory gets huge pages, which halve
    # the time this takes and spare the kernels address look-ups.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)

    def read(offset: int) -> None:
        end = min(offset + _CHUNK, size)
        while offset < end:
            count = os.preadv(file.fileno(), [view[offset:end]], start + offset)
            if not count:
                raise OSError(f"{path} became shorter while it was read")
            offset += count

    with path.open("rb") as file, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(read, range(0, size, _CHUNK)))
    return torch.frombuffer(memory, dtype=torch.uint8)


_TYPES = {"U8": torch.uint8, "I8": torch.int8, "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def _slice(data: torch.Tensor, info: Any, data_start: int) -> torch.Tensor:
    start = info.offset - data_start
    raw = data[start : start + info.num_bytes]
    if raw.data_ptr() % _ALIGNMENT:
        raw = raw.clone()
    return raw.view(_TYPES[info.dtype]).view(info.shape)


def _is_written(part: Path) -> bool:
    """Whether its writer may still live. A wrong answer, as for another container's process, costs one slow start."""
    return psutil.pid_exists(int(part.suffix.split("-")[1]))


def _make_room(where: Path, size: int) -> None:
    """Delete least recently used files until ``size`` more bytes fit, and parts that a killed process left."""
    for part in where.glob("*.part-*"):
        if not _is_written(part) or time.time() - part.stat().st_mtime > _STALE_S:
            part.unlink(missing_ok=True)
    kept = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in where.glob("*.safetensors"))
    total = sum(num_bytes for _, num_bytes, _ in kept)
    for _, num_bytes, path in kept:
        if total + size <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= num_bytes
