"""A model's name -> verified files on this machine, by asking each source in turn. Knows no source by name."""

from typing import cast

from .. import plugins
from ..errors import StoreError, UnknownModelError
from . import catalog, created, ollama_store, verify
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
        name: a library name (``smollm2:135m``), ``org/repo[:quant][@revision]``, a folder, a ``.gguf`` file, a
            Modelfile or what was created of one, or ``ollama:`` and a name in Ollama's store.
        progress: called with each ``Progress`` of a fetch, at most ten times a second.
        download: False = only what is here already.
        refresh: ask the hub for a newer revision although a complete copy is here.

    Raises:
        UnknownModelError: no source knows it; the message has the nearest names.
        StoreError, DownloadError, BadModelFileError: known but not to be had whole; one line with the remedy.
    """
    located = find(name, Request(download, refresh, progress))
    verify.check(located, progress)
    return located


def find(name: str, request: Request) -> Located:
    """The same without the check: for what reads headers only, or asks for many models.

    Raises:
        PacelineError: as ``locate``.
    """
    for source in sources():
        if source.claims(name):
            try:
                return source.locate(name, request)
            except StoreError as e:
                if (copy := ollama_store.find(name)) and not isinstance(e, UnknownModelError):
                    raise type(e)(f"{e}; Ollama has a copy: {ollama_store.PREFIX}{copy}") from e
                raise
    near = catalog.nearest(name, [*created.names(), *map(str, ollama_store.names())])
    if near:
        raise UnknownModelError(f"no model named {name!r}; did you mean {' or '.join(near)}?")
    known = ", ".join(e.name for e in catalog.entries())
    raise UnknownModelError(f"no model named {name!r}; known are {known}, or pass org/repo, a folder or a .gguf file")
