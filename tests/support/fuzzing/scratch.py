"""A folder for targets whose entry point takes a file's name; in memory where the system has such a place."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def folder() -> Path:
    """Made once a process, gone with it."""
    shared = "/dev/shm"
    path = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def write(name: str, data: bytes) -> str:
    """The path of a file with this content."""
    path = folder() / name
    with open(path, "wb", buffering=0) as file:
        file.write(data)
    return str(path)
