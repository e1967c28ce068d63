"""A model's name -> verified files on this machine, by asking each source in turn. Knows no source by name."""

from typing import cast

from .. import plugins
from ..errors import UnknownModelError
from . import catalog, verify
from .located import Located
from .progress import Report
from .request import Request, Source

_FOLDER = "engine.store.sources"


def sources() -> list[Source]:
    """All sources, in the order they are asked."""
    found = [cast(Source, plugins.load(_FOLDER, name)) for name in plugins.names(_FOLDER)]
    return sorted(found, key=lambda source: source.ORDER)


def locate(name: str, *, progress: Report | None = None, download: bool = True, refresh: bool = False) -> Located:
    """Find ``name``, fetching it where needed and allowed, and check every file before anybody reads it.

    Args:
        name: a library name (``smollm2:135m``), ``org/repo[:quant][@revision]``, a folder, or a ``.gguf`` file.
        progress: called with each ``Progress`` of a fetch, at most ten times a second.
        download: False = only what is here already.
        refresh: ask the hub for a newer revision although a complete copy is here.

    Raises:
        UnknownModelError: no source knows it; the message has the nearest names.
        StoreError, DownloadError, BadModelFileError: known but not to be had whole; one line with the remedy.
    """
    request = Request(download, refresh, progress)
    for source in sources():
        if source.claims(name):
            located = source.locate(name, request)
            verify.check(located, progress)
            return located
    near = catalog.nearest(name)
    if near:
        raise UnknownModelError(f"no model named {name!r}; did you mean {' or '.join(near)}?")
    known = ", ".join(e.name for e in catalog.entries())
    raise UnknownModelError(f"no model named {name!r}; known are {known}, or pass org/repo, a folder or a .gguf file")
