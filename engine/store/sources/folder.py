"""A folder on this machine, named by its path."""

import os
from pathlib import Path

from ...errors import StoreError
from .. import snapshot
from ..located import Located
from ..request import Request

ORDER = 30


def claims(name: str) -> bool:
    """An existing folder, or anything that can only be a path."""
    if "\0" in name:
        return False
    return name.startswith(("./", "../", "/", "~")) or name in (".", "..") or os.path.isdir(name)


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    folder = Path(name).expanduser().absolute()
    if os.path.isfile(folder):
        if folder.suffix == ".safetensors":
            raise StoreError(f"{name}: is one file of a model; pass its folder, {folder.parent}")
        raise StoreError(f"{name}: is neither a folder nor a .gguf file; pass a model's folder, or pull a library name")
    if not os.path.isdir(folder):
        raise StoreError(f"{name}: no such file or folder; check the path, or pull a library name such as smollm2:135m")
    return snapshot.from_folder(folder, name, "folder")
