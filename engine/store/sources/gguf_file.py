"""A ``.gguf`` file on this machine, named by its path."""

from pathlib import Path

from .. import snapshot
from ..located import Located
from ..request import Request

ORDER = 10


def claims(name: str) -> bool:
    """Any name that ends in ``.gguf`` and is no folder."""
    return name.lower().endswith(".gguf") and "\0" not in name and not Path(name).is_dir()


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    return snapshot.from_gguf(Path(name).expanduser().absolute(), name, "gguf_file")
