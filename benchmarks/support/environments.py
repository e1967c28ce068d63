"""An environment for each client, apart from this project's and from one another: their pins clash.

They live in a cache folder, named after what is in them, and are made once.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def cache_folder() -> Path:
    """Where environments are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paceline" / "clients"


def python(cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of a virtual environment that holds ``requirements``."""
    folder = _folder(cache, name, [sys.version.split()[0], *requirements])
    if not (folder / "complete").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *requirements])
        (folder / "complete").touch()
    return folder / "bin" / "python"


def node(cache: Path, name: str, packages: Sequence[str]) -> Path:
    """A folder whose ``node_modules`` hold ``packages``."""
    folder = _folder(cache, name, packages)
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *packages])
        (folder / "complete").touch()
    return folder


def _folder(cache: Path, name: str, contents: Sequence[str]) -> Path:
    return cache / f"{name}-{hashlib.sha256(' '.join(contents).encode()).hexdigest()[:10]}"


def _run(command: Sequence[str]) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{end}")
