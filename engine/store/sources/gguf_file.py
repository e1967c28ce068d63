"""A ``.gguf`` file on this machine, named by its path."""

import os
from pathlib import Path

from .. import snapshot
from ..located import Located
from ..request import Request

ORDER = 10


def claims(name: str) -> bool:
    """Any name that ends in ``.gguf`` and is no folder."""
    return name.lower().endswith(".gguf") and "\0" not in name and not os.path.isdir(name)


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    return snapshot.from_gguf(Path(name).expanduser().absolute(), name, "gguf_file")
