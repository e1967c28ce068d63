"""A ``.gguf`` file on this machine, named by its path; or a file of Ollama's store, which is named by its digest."""

import os
from pathlib import Path

from .. import ollama_store, snapshot
from ..located import Located
from ..request import Request

ORDER = 10


def claims(name: str) -> bool:
    """Any name that ends in ``.gguf`` and is no folder; a path to ``sha256-<hex>``."""
    if "\0" in name or name.startswith(ollama_store.PREFIX):
        return False
    is_blob = ollama_store.digest_of_path(name) is not None and os.path.isfile(name)
    return is_blob or (name.lower().endswith(".gguf") and not os.path.isdir(name))


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    path = Path(name).expanduser().absolute()
    return snapshot.from_gguf(path, name, "gguf_file", ollama_store.digest_of_path(name))
