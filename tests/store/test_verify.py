"""Digests and their records; headers against file sizes."""

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from paceline.engine.errors import BadModelFileError, DownloadError, PacelineError, StoreError
from paceline.engine.store import paths, snapshot, verify


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_record_is_used_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert verify.file_digest(path) == sha(b"one")
    (record,) = paths.digests().iterdir()
    forged = msgspec.json.decode(record.read_bytes()) | {"sha256": "f" * 64}
    record.write_bytes(msgspec.json.encode(forged))
    assert verify.file_digest(path) == "f" * 64, "the record was not used"
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert verify.file_digest(path) == sha(b"two")


@pytest.mark.parametrize("rubbish", [b"", b"{", b'{"path": 5}', b"\xff"])
def test_a_damaged_record_is_only_slow(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    verify.file_digest(path)
    (record,) = paths.digests().iterdir()
    record.write_bytes(rubbish)
    assert verify.file_digest(path) == sha(b"one")


def test_a_home_that_cannot_be_written_is_only_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "file"))
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert verify.file_digest(path) == sha(b"one") == verify.file_digest(path)


def test_check_refuses_other_bytes_and_other_sizes(tmp_path: Path, gguf_bytes: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes)
    located = snapshot.from_gguf(path, "a", "test", sha(gguf_bytes))
    verify.check(located)
    with pytest.raises(DownloadError, match="sha256"):
        verify.check(msgspec.structs.replace(located, digests=["0" * 64]))
    with pytest.raises(BadModelFileError, match=f"expected {len(gguf_bytes) + 1}"):
        verify.check(msgspec.structs.replace(located, sizes=[len(gguf_bytes) + 1]))
    path.unlink()
    with pytest.raises(StoreError, match=r"a\.gguf"):
        verify.check(located)


@pytest.mark.parametrize("cut", [0, 3, 8, 24, 100, -1])
def test_a_cut_gguf_is_refused_by_name(tmp_path: Path, gguf_bytes: bytes, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_bytes[:cut])
    with pytest.raises(BadModelFileError, match=r"cut\.gguf"):
        verify.check(snapshot.from_gguf(path, "cut", "test"))


@pytest.mark.parametrize("cut", [0, 7, 8, 100, -1])
def test_a_cut_shard_is_refused_by_name(tmp_path: Path, sharded: Path, cut: int) -> None:
    for file in sharded.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(PacelineError, match=shard.name):
        verify.check(snapshot.from_folder(tmp_path, "m", "test"))
