"""How large the KV pool may be and how long a request: model sizes, memory that is really free, and the config.

Shrinks rather than fails, and says what it shrank and why. Torch-free; the free memory of a GPU is passed in.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from .config import Config
from .errors import ConfigError
from .types import ModelConfig

LEAST_TOKENS = 128
"""A pool that cannot hold one request of this length (or of the model's, if shorter) is not worth a start."""


class Sizes(msgspec.Struct, frozen=True):
    """What was decided. ``notes`` are sentences for people: whatever is smaller than asked for, and why."""

    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    notes: list[str]


def decide(model: ModelConfig, config: Config, free_bytes: int, kv_dtype_bytes: int) -> Sizes:
    """Sizes for ``model`` whose weights are already in memory.

    The pool is the least of ``cache.memory_fraction`` of what is free, ``cache.max_bytes``, and what
    ``scheduler.max_num_seqs`` requests of full length could ever fill; or exactly ``cache.num_blocks``.

    Raises:
        ConfigError: the lengths contradict each other, or not even one short request fits.
    """
    block_size = config.cache.block_size
    longest = _longest(model, config)
    block_bytes = block_size * model.kv_bytes_per_token(kv_dtype_bytes)
    notes: list[str] = []
    if config.cache.num_blocks:
        num_blocks = config.cache.num_blocks
        if num_blocks * block_bytes > free_bytes:
            raise ConfigError(
                f"cache.num_blocks = {num_blocks} takes {_mib(num_blocks * block_bytes)} but only {_mib(free_bytes)}"
                f" are free; use at most {free_bytes // block_bytes}, or 0 to have it chosen"
            )
    else:
        num_blocks = _from_memory(config, longest, block_bytes, free_bytes, notes)
    max_model_len = min(longest, num_blocks * block_size)
    if max_model_len < longest:
        notes.append(f"longest request {max_model_len} tokens instead of {longest}: all that the KV pool holds")
    max_num_seqs = min(config.scheduler.max_num_seqs, num_blocks)
    if max_num_seqs < config.scheduler.max_num_seqs:
        notes.append(f"{max_num_seqs} requests at once instead of {config.scheduler.max_num_seqs}: one block each")
    return Sizes(num_blocks, max_model_len, max_num_seqs, notes)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes this process may still take: the machine's available memory, or what its control groups leave if less."""
    return max(0, min([psutil.virtual_memory().available, *_group_rooms(root)]))


def _longest(model: ModelConfig, config: Config) -> int:
    wanted = config.target.max_model_len
    if wanted > model.max_position:
        raise ConfigError(
            f"target.max_model_len = {wanted}: the model was made for {model.max_position} positions; use at most that,"
            " or 0"
        )
    return wanted or model.max_position


def _from_memory(config: Config, longest: int, block_bytes: int, free_bytes: int, notes: list[str]) -> int:
    cache = config.cache
    most = config.scheduler.max_num_seqs * -(-longest // cache.block_size)
    allowed = int(cache.memory_fraction * free_bytes)
    reason = f"{cache.memory_fraction:.0%} of the {_mib(free_bytes)} that are free"
    if cache.max_bytes and cache.max_bytes < allowed:
        allowed, reason = cache.max_bytes, f"cache.max_bytes = {cache.max_bytes}"
    num_blocks = min(allowed // block_bytes, most)
    least = min(longest, LEAST_TOKENS)
    if num_blocks * cache.block_size < least:
        raise ConfigError(
            f"the KV pool may take {_mib(allowed)} ({reason}), which is {num_blocks * cache.block_size} tokens; one"
            f" request of {least} needs {_mib(-(-least // cache.block_size) * block_bytes)}: free memory, raise that"
            " bound, or use a smaller model"
        )
    if num_blocks < most:
        notes.append(
            f"KV pool {num_blocks} blocks ({_mib(num_blocks * block_bytes)}) instead of {most} for"
            f" {config.scheduler.max_num_seqs} requests of {longest} tokens: {reason}"
        )
    return num_blocks


def _group_rooms(root: Path) -> Iterator[int]:
    """What each memory control group above this process leaves, files that the kernel can drop counted as free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds:  # version 2
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            base, names = (
                root / "sys/fs/cgroup/memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(base) and (room := _room(group, *names)) is not None:
                yield room


def _room(group: Path, limit_file: str, usage_file: str, droppable: str) -> int | None:
    try:
        limit = (group / limit_file).read_text().strip()
        usage = int((group / usage_file).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return int(limit) - usage + int(stat.get(droppable, 0)) if limit.isdigit() else None


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
