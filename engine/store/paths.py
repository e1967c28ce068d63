"""Where paceline keeps its own files: ``${PACELINE_HOME:-${XDG_DATA_HOME:-~/.local/share}/paceline}``.

Read at each call, so that a test or a shell may move it. Hub models are not here: they stay in the Hugging Face cache.
"""

import os
from pathlib import Path


def home() -> Path:
    """Root of paceline's own data; not created here."""
    if own := os.environ.get("PACELINE_HOME"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser().absolute() / "paceline"


def models() -> Path:
    """``models/<family>/<tag>/<file>``: library models whose files we placed ourselves."""
    return home() / "models"


def digests() -> Path:
    """One small file for each hashed model file: see ``verify.file_digest``."""
    return home() / "digests"
