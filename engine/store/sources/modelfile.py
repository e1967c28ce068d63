"""A Modelfile on this machine, named by its path, or a model that ``paceline create`` made of one.

It names another model and says more about it; the files are that model's.
"""

import os
from pathlib import Path

import msgspec

from ...errors import StoreError
from .. import created, resolve
from ..located import Located
from ..preset import Preset
from ..request import Request

ORDER = 5
_MAX_DEPTH = 16
"""Models made of models made of ..."""


def claims(name: str) -> bool:
    """A file with ``modelfile`` in its name, or a created model."""
    if "\0" in name or len(name) > 4096:
        return False
    is_file = "modelfile" in os.path.basename(name).lower() and os.path.isfile(os.path.expanduser(name))
    return is_file or created.find(name) is not None


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    path = created.find(name) or Path(name).expanduser().absolute()
    found, _ = created.read(path, name)
    if request.depth >= _MAX_DEPTH:
        raise StoreError(f"{name}: more than {_MAX_DEPTH} models are made of one another; let FROM name the first one")
    base = created.anchored(found.base, path.parent)
    located = resolve.find(base, request._replace(depth=request.depth + 1))
    below = located.preset or Preset()
    draft = created.anchored(found.draft, path.parent)
    notes = list(found.preset.notes)
    if found.preset.go_template not in ("", below.go_template):
        what = "TEMPLATE is in Go's language, which is not run here; the chat template of the model's own files is used"
        notes.append(f"{name}: {what}")
    own = msgspec.structs.replace(found.preset, base=below.base or base, draft_model=draft, notes=notes)
    preset = own.over(below)
    return msgspec.structs.replace(located, name=name, source="modelfile", preset=preset)
