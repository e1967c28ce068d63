"""Sizes from memory: each bound on its own, what is said of it, and memory limits read from control groups."""

from pathlib import Path

import msgspec
import psutil
import pytest

from paceline.engine.config import Cache, Config, Scheduler, Target
from paceline.engine.errors import ConfigError
from paceline.engine.sizing import Sizes, decide, free_memory
from paceline.engine.types import ModelConfig

MODEL = ModelConfig(
    architecture="X", vocab_size=100, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    intermediate_size=128, max_position=1024,
)  # fmt: skip
TOKEN = 2 * 2 * 2 * 16 * 2
BLOCK = 16 * TOKEN


def sized(free_bytes: int, seqs: int = 4, length: int = 0, **cache: int | float) -> Sizes:
    config = Config(
        scheduler=Scheduler(max_num_seqs=seqs), target=Target(max_model_len=length), cache=msgspec.convert(cache, Cache)
    )
    return decide(MODEL, config, free_bytes, 2)


def test_plenty_of_memory_gives_what_all_requests_could_fill_and_no_more() -> None:
    assert sized(1 << 30) == Sizes(4 * 64, 1024, 4, [])
    assert sized(1 << 30, length=100) == Sizes(4 * 7, 100, 4, [])


def test_memory_fraction_bounds_the_pool_and_is_named() -> None:
    sizes = sized(200 * BLOCK, memory_fraction=0.5)
    assert (sizes.num_blocks, sizes.max_model_len) == (100, 1024)
    assert len(sizes.notes) == 1 and "100 blocks" in sizes.notes[0] and "50%" in sizes.notes[0]


def test_max_bytes_bounds_the_pool_and_the_context_shrinks_with_it() -> None:
    sizes = sized(1 << 30, max_bytes=20 * BLOCK + BLOCK - 1)
    assert (sizes.num_blocks, sizes.max_model_len) == (20, 320)
    assert "cache.max_bytes" in sizes.notes[0] and "320 tokens instead of 1024" in sizes.notes[1]


def test_a_given_number_of_blocks_is_taken_as_it_is() -> None:
    sizes = sized(1 << 30, num_blocks=3)
    assert (sizes.num_blocks, sizes.max_model_len, sizes.max_num_seqs) == (3, 48, 3)
    assert len(sizes.notes) == 2


@pytest.mark.parametrize(
    ("free_bytes", "length", "cache", "words"),
    [
        (10 * BLOCK, 0, {}, ["80 tokens", "128"]),
        (1 << 30, 0, {"max_bytes": BLOCK}, ["cache.max_bytes", "16 tokens"]),
        (1 << 30, 2048, {}, ["target.max_model_len = 2048", "1024"]),
        (10 * BLOCK, 0, {"num_blocks": 11}, ["cache.num_blocks = 11", "at most 10"]),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(free_bytes: int, length: int, cache: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as e:
        sized(free_bytes, length=length, **cache)
    assert "\n" not in str(e.value) and all(w in str(e.value) for w in words)


def test_a_short_model_is_its_own_minimum() -> None:
    assert sized(4 * BLOCK, length=20).num_blocks == 2


def group(root: Path, version: int, path: str, limit: str, usage: int, droppable: int) -> None:
    folder = root / "sys/fs/cgroup" / ("memory" if version == 1 else "") / path
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {droppable}\n")
    proc = root / "proc/self"
    proc.mkdir(parents=True, exist_ok=True)
    (proc / "cgroup").write_text("0::/a/b\n" if version == 2 else "5:cpu:/x\n4:memory:/a/b\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_control_group_counts(tmp_path: Path, version: int) -> None:
    group(tmp_path, version, "a/b", "1000000", 600000, 100000)
    assert free_memory(tmp_path) == 500000
    group(tmp_path, version, "a", "700000", 600000, 0)
    assert free_memory(tmp_path) == 100000


def test_no_limit_is_the_machines_own_memory(tmp_path: Path) -> None:
    group(tmp_path, 2, "a/b", "max", 1, 1)
    assert free_memory(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert free_memory(tmp_path / "nothing") > 0
