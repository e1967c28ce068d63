"""Find a plug-in by file name: the folder is the registry. Nothing is imported until it is asked for."""

import difflib
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_ROOT = __name__.rpartition(".engine.")[0]


def names(folder: str) -> list[str]:
    """Names of the plug-ins in ``folder``, a dotted path below the package such as ``engine.models``."""
    root = Path(__file__).resolve().parent.parent
    return sorted(p.stem for p in root.joinpath(*folder.split(".")).glob("*.py") if p.stem != "__init__")


def load(folder: str, name: str) -> ModuleType:
    """Import plug-in ``name`` of ``folder``; a dotted name is imported as it stands, from outside the package.

    Raises:
        LookupError: unknown name; the message lists the known ones, the nearest first.
    """
    if _DOTTED.fullmatch(name):
        try:
            return import_module(name)
        except ImportError as e:
            raise LookupError(f"plug-in module {name!r} cannot be imported: {e}") from e
    known = names(folder)
    if not _NAME.fullmatch(name) or name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"no {folder.rpartition('.')[2]} plug-in named {name!r}{hint} (known: {', '.join(known)})")
    return import_module(f"{_ROOT}.{folder}.{name}")
