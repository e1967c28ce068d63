"""Models of the user's own making: a Modelfile each, in our models folder. The weights are another model's."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError, StoreError
from . import catalog, download, modelfile, paths
from .modelfile import Modelfile

FILE = "Modelfile"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
_NAME = re.compile(rf"({_PART})(?::({_PART}))?")
_MAX_BYTES = 4 * modelfile.MAX_CHARS
_RESERVED = ("ollama",)
"""Families that would be read as the prefix of a source."""


def full_name(name: str) -> str | None:
    """``name:tag``, with the tag that goes without saying; None where it can be no created model's name."""
    m = _NAME.fullmatch(name)
    if m is None or name.lower().endswith(".gguf") or m[1].lower() in _RESERVED:
        return None
    return f"{m[1]}:{m[2] or 'latest'}"


def find(name: str) -> Path | None:
    """The Modelfile of the created model called ``name``."""
    full = full_name(name)
    if full is None:
        return None
    path = _path(full)
    return path if path.is_file() else None


def names() -> Iterator[str]:
    """The full names of all created models."""
    for path in sorted(paths.models().glob(f"*/*/{FILE}")):
        yield f"{path.parent.parent.name}:{path.parent.name}"


def check_name(name: str) -> str:
    """The full name to create a model under.

    Raises:
        ConfigError: not of the right form, or the library's.
    """
    full = full_name(name)
    if full is None:
        raise ConfigError(f"{name[:100]!r} cannot name a model; use NAME or NAME:TAG of letters, digits and any of _.-")
    for known in (name, full):
        if catalog.find(known):
            raise ConfigError(f"{name} is a model of the library; choose another name")
    return full


def write(name: str, text: str) -> Path:
    """Keep a Modelfile, whole or not at all, in the place of one that had the same name.

    Raises:
        ConfigError: a name that cannot be, no Modelfile, or one that would be made of itself.
        StoreError: the folder cannot be written.
    """
    full = check_name(name)
    _check_chain(full, modelfile.parse(text, name).base)
    path = _path(full)
    part = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        with suppress(OSError):
            part.unlink()
        raise download.cannot_write(path.parent, e) from e
    return path


def remove(path: Path) -> int:
    """Delete a created model's Modelfile, and its folders where nothing else is in them; bytes freed.

    Raises:
        OSError: it cannot be deleted.
    """
    size = path.stat().st_size
    path.unlink()
    for folder in (path.parent, path.parent.parent):
        with suppress(OSError):
            folder.rmdir()
    return size


def read(path: Path, shown: str) -> tuple[Modelfile, str]:
    """A Modelfile's values and its text; ``shown`` names it in messages.

    Raises:
        StoreError: it cannot be read.
        ConfigError: it is no Modelfile; with the line.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        text = raw.decode()
    except OSError as e:
        raise StoreError(f"{shown}: cannot be read ({e.strerror or e}); check the path") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{shown}: is not UTF-8 at byte {e.start}; save it as UTF-8") from e
    return modelfile.parse(text, shown), text


def anchored(name: str, folder: Path) -> str:
    """A name behind FROM or DRAFT in a Modelfile of ``folder``, as it holds everywhere: paths become absolute."""
    if not name:
        return name
    path = folder / Path(name).expanduser()
    is_path = name.startswith(("./", "../", "/", "~")) or name in (".", "..") or path.exists()
    return os.path.abspath(path) if is_path else name


def _check_chain(full: str, base: str) -> None:
    """Refuse a circle of models before it is closed."""
    seen: set[str] = set()
    while base not in seen:
        seen.add(base)
        if full_name(base) == full:
            raise ConfigError(f"{full} would be made of itself; choose another name, or let FROM name another model")
        path = find(base)
        if path is None:
            return
        base = read(path, base)[0].base


def _path(full: str) -> Path:
    return paths.models().joinpath(*full.split(":"), FILE)
