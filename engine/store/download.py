"""Bytes to a verified file: one writer at a time, room checked first, hashed on the way, renamed only when right.

Knows nothing of hubs, wheels or model formats: a source opens a stream, ``place`` turns it into a file. A break at any
moment, power included, leaves either the complete file or none under the final name.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import DownloadError, StoreError
from .progress import Meter, Progress, Report
from .verify import bad_checksum, remember

_CHUNK = 1 << 20
_SPARE = 64 << 20
"""Bytes left free on the disk beyond what a fetch needs: a full root disk breaks more than us."""


def size_text(size: float) -> str:
    """Bytes for people, decimal units as disks and hubs count: ``98.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@contextmanager
def one_writer(target: Path, report: Report | None = None) -> Iterator[None]:
    """Hold the lock of ``target`` (made with its folder); waits for another process, saying so once.

    The lock file stays behind: removing it would let two waiters hold two different ones. The kernel drops the lock
    itself when its holder dies.

    Raises:
        StoreError: the folder cannot be written.
    """
    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise cannot_write(target.parent, e) from e
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if report is not None:
                report(Progress("wait", target.name))
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def check_space(folder: Path, need: int, what: str) -> None:
    """Refuse before the first byte what will not fit.

    Raises:
        DownloadError: ``folder``'s disk has less than ``need`` bytes (and a little) free.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need + _SPARE:
        raise DownloadError(
            f"{what} needs {size_text(need + _SPARE)} in {folder} but only {size_text(free)} are free; "
            "make room, or point PACELINE_HOME (or HF_HOME for hub models) at a larger disk"
        )


def place(stream: IO[bytes], target: Path, *, size: int, sha256: str, what: str, report: Report | None = None) -> None:
    """Copy ``stream`` to ``target``; call it under ``one_writer(target)``.

    Raises:
        DownloadError: the stream is shorter, longer or other than promised, or the disk filled up; nothing is left.
    """
    part = target.with_name(f".{target.name}.part")
    meter = Meter(report, "unpack", what, size)
    digest = hashlib.sha256()
    done = 0
    try:
        with open(part, "wb") as out:
            # One byte past the promised size proves that the stream is too long; more is never written.
            while done <= size and (chunk := stream.read(min(_CHUNK, size + 1 - done))):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                meter.at(done)
            out.flush()
            os.fsync(out.fileno())
        if done != size:
            much = f"more than {size}" if done > size else f"only {done} of {size}"
            raise DownloadError(f"{what}: got {much} bytes; pull it again, and tell its publisher if that repeats")
        if digest.hexdigest() != sha256:
            raise bad_checksum(what, digest.hexdigest(), sha256)
        meter.at(done, final=True)
        os.replace(part, target)
        _sync_folder(target.parent)
    except OSError as e:
        raise cannot_write(target.parent, e) from e
    finally:
        part.unlink(missing_ok=True)
    remember(target, sha256)


def cannot_write(folder: Path, error: OSError) -> StoreError:
    """The error for a folder that does not take our files."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(f"{folder}: the disk is full; make room, or set PACELINE_HOME to a larger one")
    cause = error.strerror or error
    return StoreError(f"{folder}: cannot be written ({cause}); fix that, or set PACELINE_HOME elsewhere")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
