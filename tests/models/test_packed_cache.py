"""The packed cache: same tensors back, and anything wrong with a file costs a slow start, never a wrong model."""

import os
import threading
from pathlib import Path

import msgspec
import pytest
import torch
from model_runs import all_logits, config_of
from tiny_models import located, make_llama

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats import safetensors
from paceline.engine.nn import packed_cache
from paceline.engine.nn.load import load_model
from paceline.engine.nn.packed_cache import PackedCache, open_cache

PROBE = (torch.arange(6, dtype=torch.uint8).view(2, 3),)


def parts() -> tuple[torch.Tensor, ...]:
    # Sizes that are no multiple of the alignment, so that later tensors start anywhere.
    return torch.arange(7, dtype=torch.uint8), torch.randn(3, 5), torch.randn(33).bfloat16()


def never() -> tuple[torch.Tensor, ...]:
    raise AssertionError("should have been kept")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "MIN_MODEL_BYTES", 0)
    return tmp_path / "cache" / "paceline" / "packed"


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.safetensors"
    cache = PackedCache(path, "me")
    made = {key: cache.get(key, parts) for key in ("one", "two")}
    cache.save()
    again = PackedCache(path, "me")
    for key, tensors in made.items():
        for got, want in zip(again.get(key, never), tensors, strict=True):
            assert torch.equal(got, want) and got.dtype == want.dtype and got.data_ptr() % 64 == 0
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_a_file_of_another_identity_or_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    cache = PackedCache(path, "me")
    cache.get("one", parts)
    cache.save()
    whole = path.read_bytes()
    fresh = (torch.zeros(2),)
    assert PackedCache(path, "you").get("one", lambda: fresh) is fresh
    for damage in (b"", whole[:100], whole[:-1], b"\xff" * 64, whole + b"x"):
        path.write_bytes(damage)
        cache = PackedCache(path, "me")
        assert cache.get("one", lambda: fresh) is fresh
        cache.save()
        assert torch.equal(PackedCache(path, "me").get("one", never)[0], fresh[0])


def test_nothing_is_written_when_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = PackedCache(blocked / "a.safetensors", "me")
    cache.get("one", parts)
    cache.save()
    path = tmp_path / "b.safetensors"
    cache = PackedCache(path, "me")
    cache.get("one", parts)
    monkeypatch.setattr(packed_cache.shutil, "disk_usage", lambda _: _Full)
    cache.save()
    assert not path.exists() and not list(tmp_path.glob("*.part*"))


class _Full:
    free = 10


def test_the_least_recently_used_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "MAX_BYTES", 5000)
    for age, name in ((300, "old"), (100, "new"), (200, "used")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(bytes(2000))
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    stale = tmp_path / "x.part-1-2"
    stale.write_bytes(b"")
    os.utime(stale, (0, 0))
    (tmp_path / "x.part-999999999-2").write_bytes(b"")  # new, but its writer is dead
    cache = PackedCache(tmp_path / "mine.safetensors", "me")
    cache.get("one", lambda: (torch.zeros(500, dtype=torch.uint8),))
    cache.save()
    assert {p.stem for p in tmp_path.iterdir() if p.is_file()} == {"new", "used", "mine"}


def test_identity_follows_files_dtype_and_layout(tmp_path: Path) -> None:
    where = located(make_llama(tmp_path / "m"))

    def path(located: object = where, dtype: str = "int8", probe: tuple[torch.Tensor, ...] = PROBE) -> Path:
        cache = open_cache(located, dtype, probe)  # type: ignore[arg-type]
        assert cache is not None
        return cache.path

    first = path()
    assert path() == first
    others = [path(dtype="x"), path(probe=(PROBE[0] + 1,)), path(probe=(PROBE[0].view(3, 2),))]
    others.append(path(msgspec.structs.replace(where, digests=["ab" * 32])))
    os.utime(where.files[0], (1, 1))
    others.append(path())
    assert len({first, *others}) == 6


def test_a_second_load_reads_no_matrix(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, config = located(make_llama(tmp_path / "m")), config_of(tmp_path / "m")
    first = all_logits(load_model(config, where), [1, 2, 3])
    _wait_for(home)
    read = safetensors.SafetensorsWeights.read

    def vectors_only(self: safetensors.SafetensorsWeights, name: str) -> torch.Tensor:
        if len(self.shape(name)) > 1:
            raise BadModelFileError(name)
        return read(self, name)

    monkeypatch.setattr(safetensors.SafetensorsWeights, "read", vectors_only)
    assert torch.equal(all_logits(load_model(config, where), [1, 2, 3]), first)


def test_small_models_and_plain_dtypes_are_not_kept(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, config = located(make_llama(tmp_path / "m")), config_of(tmp_path / "m")
    load_model(config, where, dtype="bfloat16")
    monkeypatch.setattr(packed_cache, "MIN_MODEL_BYTES", 1 << 20)
    load_model(config, where, dtype="int8")
    assert not home.exists()


def _wait_for(home: Path) -> None:
    for thread in threading.enumerate():
        if thread.name == "packed-cache":
            thread.join()
    assert len(list(home.iterdir())) == 1
