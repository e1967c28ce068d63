"""Placing bytes: complete or absent, whatever breaks; one writer; room is checked first."""

import errno
import hashlib
import io
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from paceline.engine.errors import DownloadError, StoreError
from paceline.engine.store import download, verify
from paceline.engine.store.progress import Progress

DATA = bytes(range(256)) * 12345
SHA = hashlib.sha256(DATA).hexdigest()


def put(stream: Any, target: Path, **changes: Any) -> None:
    with download.one_writer(target):
        download.place(stream, target, **({"size": len(DATA), "sha256": SHA, "what": "thing"} | changes))


def leftovers(target: Path) -> list[str]:
    return sorted(p.name for p in target.parent.iterdir() if not p.name.endswith(".lock"))


def test_whole_file_arrives_with_progress_and_is_not_hashed_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = home / "m" / "a.gguf"
    seen: list[Progress] = []
    put(io.BytesIO(DATA), target, report=seen.append)
    assert target.read_bytes() == DATA and leftovers(target) == ["a.gguf"]
    assert seen[-1].done == seen[-1].total == len(DATA) and seen[-1].phase == "unpack"
    monkeypatch.setattr(hashlib, "sha256", lambda *a: pytest.fail("hashed again") if not a else _sha256(*a))
    assert verify.file_digest(target) == SHA


_sha256 = hashlib.sha256


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", f"only 0 of {len(DATA)}"),
        (DATA[:-1], f"only {len(DATA) - 1} of {len(DATA)}"),
        (DATA + b"x", f"more than {len(DATA)}"),
        (DATA[:-1] + b"?", "sha256 is"),
    ],
)
def test_wrong_bytes_leave_nothing(home: Path, data: bytes, says: str) -> None:
    target = home / "m" / "a.gguf"
    with pytest.raises(DownloadError, match=says):
        put(io.BytesIO(data), target)
    assert leftovers(target) == []


def test_wrong_bytes_do_not_touch_the_old_file(home: Path) -> None:
    target = home / "m" / "a.gguf"
    put(io.BytesIO(DATA), target)
    with pytest.raises(DownloadError):
        put(io.BytesIO(DATA[:9]), target)
    assert target.read_bytes() == DATA


class Breaking(io.BytesIO):
    """Fails after the first chunk."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(DATA)
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_a_break_leaves_nothing_and_passes_on(home: Path, error: BaseException) -> None:
    target = home / "m" / "a.gguf"
    with pytest.raises(type(error)):
        put(Breaking(error), target)
    assert leftovers(target) == []


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [(errno.ENOSPC, DownloadError, "disk is full"), (errno.EROFS, StoreError, "cannot be written")],
)
def test_a_disk_that_fails_is_one_line(home: Path, number: int, kind: type[StoreError], says: str) -> None:
    target = home / "m" / "a.gguf"
    with pytest.raises(kind, match=says) as caught:
        put(Breaking(OSError(number, "told so")), target)
    assert "PACELINE_HOME" in str(caught.value) and leftovers(target) == []


def test_a_file_where_a_folder_must_be(home: Path) -> None:
    (home / "m").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        put(io.BytesIO(DATA), home / "m" / "a.gguf")


def test_room_is_checked_with_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 100 * 10**6))
    download.check_space(home / "not" / "there" / "yet", 30 * 10**6, "thing")
    with pytest.raises(DownloadError, match=r"thing needs .* only 100.0 MB are free"):
        download.check_space(home, 90 * 10**6, "thing")


def test_one_writer_at_a_time_and_the_waiting_one_says_so(home: Path) -> None:
    target = home / "m" / "a.gguf"
    order: list[str] = []
    waiting = threading.Event()

    def report(progress: Progress) -> None:
        assert progress.phase == "wait"
        waiting.set()

    def second() -> None:
        with download.one_writer(target, report):
            order.append("second")

    with download.one_writer(target):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_sizes_for_people() -> None:
    assert [download.size_text(n) for n in (0, 999, 1000, 98362432, 3.2e9, 5e12)] == [
        "0 B", "999 B", "1.0 kB", "98.4 MB", "3.2 GB", "5.0 TB",
    ]  # fmt: skip
