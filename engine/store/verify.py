"""Are a model's files whole? sha256 against what the source promised, headers against the files' sizes.

Hashing is remembered by (size, mtime), because a warm start must not read gigabytes: any later write changes the mtime.
Nothing here allocates by what a file claims about itself.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from ..errors import BadModelFileError, DownloadError, StoreError
from ..formats.headers import gguf, safetensors
from . import paths
from .located import Located
from .progress import Meter, Report

_CHUNK = 1 << 20


class _Record(msgspec.Struct, frozen=True):
    """One hashed file, kept in ``paths.digests()``."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


def bad_checksum(what: str, found: str, wanted: str) -> DownloadError:
    """The error for bytes that are not the promised ones."""
    return DownloadError(
        f"{what}: sha256 is {found}, expected {wanted}; the file is damaged or was replaced: pull it again"
    )


def check(located: Located, report: Report | None = None) -> None:
    """Refuse files of the wrong size or digest, and headers that point outside their file.

    Raises:
        DownloadError: a known digest does not match.
        BadModelFileError: cut short, hostile, or not of the kind it should be.
    """
    for path, size, digest in zip(located.files, located.sizes, located.digests, strict=True):
        found = stat(Path(path)).st_size
        if found != size:
            raise BadModelFileError(f"{path}: has {found} bytes, expected {size}; pull the model again")
        if located.kind == "gguf":
            gguf.read_header(path, skip_arrays=True)
        else:
            safetensors.read_header(path)
        if digest is not None and (real := file_digest(Path(path), report)) != digest:
            raise bad_checksum(path, real, digest)


def matches(path: Path, size: int, sha256: str, report: Report | None = None) -> bool:
    """Whether ``path`` is there with exactly these bytes."""
    try:
        return path.stat().st_size == size and file_digest(path, report) == sha256
    except OSError:
        return False


def stat(path: Path) -> os.stat_result:
    """``path.stat()`` with our error.

    Raises:
        StoreError: missing, unreadable, or a loop of links.
    """
    try:
        return path.stat()
    except OSError as e:
        raise StoreError(f"{path}: cannot be read ({e.strerror or e}); check the path, or pull the model again") from e


def file_digest(path: Path, report: Report | None = None) -> str:
    """sha256 of ``path`` in hex, from the record if the file has not changed since.

    Raises:
        OSError: the file cannot be read.
    """
    real = path.resolve()
    before = real.stat()
    record = _recall(real)
    if record and (record.path, record.size, record.mtime_ns) == (str(real), before.st_size, before.st_mtime_ns):
        return record.sha256
    digest = hashlib.sha256()
    meter = Meter(report, "verify", path.name, before.st_size)
    with open(real, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            meter.at(file.tell())
    meter.at(before.st_size, final=True)
    found = digest.hexdigest()
    _write_record(_Record(str(real), before.st_size, before.st_mtime_ns, found))
    return found


def remember(path: Path, sha256: str) -> None:
    """Record a digest that was computed while the file was written."""
    real = path.resolve()
    now = real.stat()
    _write_record(_Record(str(real), now.st_size, now.st_mtime_ns, sha256))


def _record_path(real: Path) -> Path:
    return paths.digests() / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"


def _recall(real: Path) -> _Record | None:
    try:
        return msgspec.json.decode(_record_path(real).read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return None  # never hashed, or a damaged record: hash again


def _write_record(record: _Record) -> None:
    target = _record_path(Path(record.path))
    part = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(record))
        os.replace(part, target)
    except OSError:  # a read-only or full home only costs hashing again next time
        with suppress(OSError):
            part.unlink()
