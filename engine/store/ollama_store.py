"""What an Ollama on this machine has pulled, read in place; nothing here writes, prunes or follows a name outside.

``${OLLAMA_MODELS:-~/.ollama/models}`` holds ``manifests/<host>/<namespace>/<model>/<tag>``, which are JSON, and
``blobs/sha256-<hex>``. A name becomes a path only when each of its parts is one that Ollama itself would write.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import BadModelFileError, StoreError
from . import verify

PREFIX = "ollama:"
_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    rf"(?:(?:(?P<host>[A-Za-z0-9][A-Za-z0-9.-]{{0,254}}(?::\d{{1,5}})?)/)?(?P<namespace>{_PART})/)?"
    rf"(?P<model>{_PART})(?::(?P<tag>{_PART}))?"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BLOB = re.compile(r"sha256-([0-9a-f]{64})")
_TYPE = "application/vnd.ollama.image."
_MAX_MANIFEST = 4 << 20
_MAX_LAYERS = 4096
_MAX_SMALL = 4 << 20
"""Bytes of a layer that is not weights."""


class Name(NamedTuple):
    """A model's full name in the store."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """As people write it: without what goes without saying."""
        tail = f"{self.model}:{self.tag}" if self.tag != _TAG else self.model
        if self.host != _HOST:
            return f"{self.host}/{self.namespace}/{tail}"
        return f"{self.namespace}/{tail}" if self.namespace != _NAMESPACE else tail


class _Layer(msgspec.Struct, frozen=True):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")


class _Manifest(msgspec.Struct, frozen=True):
    layers: list[_Layer]


class Blob(NamedTuple):
    """A layer's file, there and of the size that the manifest says."""

    kind: str
    """Such as ``model`` or ``params``: the media type without its beginning."""
    path: Path
    size: int
    sha256: str
    """In hex; what the content must have."""


def root() -> Path:
    """The store's folder, there or not."""
    return Path(os.environ.get("OLLAMA_MODELS") or "~/.ollama/models").expanduser().absolute()


def parse(text: str) -> Name | None:
    """A model's name with or without tag, namespace and host; None for any other text."""
    m = _NAME.fullmatch(text)
    if m is None:
        return None
    return Name(m["host"] or _HOST, m["namespace"] or _NAMESPACE, m["model"], m["tag"] or _TAG)


def find(text: str) -> Name | None:
    """The model that ``text`` names, if the store has it; in any case, as Ollama looks it up."""
    wanted = parse(text)
    if wanted is None:
        return None
    if _manifest_path(wanted).is_file():
        return wanted
    folded = tuple(part.casefold() for part in wanted)
    return next((name for name in names() if tuple(part.casefold() for part in name) == folded), None)


def names() -> Iterator[Name]:
    """All models that have a manifest, by name."""
    folder = root() / "manifests"
    for path in sorted(folder.glob("*/*/*/*")):
        host, *rest = path.relative_to(folder).parts
        name = parse(f"{host}/{rest[0]}/{rest[1]}:{rest[2]}")
        if name is not None and path.is_file():
            yield name


def layers(name: Name) -> list[Blob]:
    """The layers of a model in the manifest's order, each with its file.

    Raises:
        BadModelFileError: no manifest, or one with a digest that is none.
        StoreError: a layer's file is missing or of another size.
    """
    path = _manifest_path(name)
    try:
        manifest = msgspec.json.decode(_read(path, _MAX_MANIFEST), type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise BadModelFileError(f"{path}: is no manifest ({e}); run: ollama pull {name}") from e
    if len(manifest.layers) > _MAX_LAYERS:
        raise BadModelFileError(f"{path}: has {len(manifest.layers)} layers: at most {_MAX_LAYERS}; use another model")
    return [_blob(name, layer, path) for layer in manifest.layers]


def text_of(blob: Blob) -> str:
    """The content of a small layer.

    Raises:
        BadModelFileError: too large, not UTF-8, or not what its digest promises.
    """
    raw = _read(blob.path, _MAX_SMALL)
    if hashlib.sha256(raw).hexdigest() != blob.sha256:
        raise BadModelFileError(f"{blob.path}: its sha256 is not its name; pull the model with Ollama again")
    try:
        return raw.decode()
    except UnicodeDecodeError as e:
        raise BadModelFileError(f"{blob.path}: is not UTF-8 at byte {e.start}; pull the model with Ollama again") from e


def json_of(blob: Blob, kind: Any) -> Any:
    """The content of a small layer of JSON, as a ``kind``.

    Raises:
        BadModelFileError: as ``text_of``, or no such JSON.
    """
    try:
        return msgspec.json.decode(text_of(blob), type=kind)
    except (msgspec.DecodeError, RecursionError) as e:
        raise BadModelFileError(f"{blob.path}: is no {blob.kind} layer ({e}); pull the model with Ollama again") from e


def digest_of_path(path: str) -> str | None:
    """The sha256 that a blob's file is named by; None for any other path."""
    m = _BLOB.fullmatch(os.path.basename(path))
    return m[1] if m else None


def _manifest_path(name: Name) -> Path:
    return root().joinpath("manifests", *name)


def _blob(name: Name, layer: _Layer, manifest: Path) -> Blob:
    digest = _DIGEST.fullmatch(layer.digest)
    if digest is None or layer.size < 0:
        shown = f"{layer.digest[:80]!r} of {layer.size} bytes"
        raise BadModelFileError(f"{manifest}: names the layer {shown}, which is no digest; run: ollama pull {name}")
    path = root() / "blobs" / f"sha256-{digest[1]}"
    found = verify.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size != layer.size:
        what = f"has {found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "is no file"
        raise BadModelFileError(f"{path}: {what}, {manifest.name} says {layer.size}; run: ollama pull {name}")
    return Blob(layer.media_type.removeprefix(_TYPE), path, layer.size, digest[1])


def _read(path: Path, most: int) -> bytes:
    """A plain file of at most ``most`` bytes: what else a name may lead to (a pipe, a device) is never opened."""
    found = verify.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size > most:
        what = f"has {found.st_size} bytes: at most {most}" if stat.S_ISREG(found.st_mode) else "is no file"
        raise BadModelFileError(f"{path}: {what}; pull the model with Ollama again")
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as e:
        raise StoreError(f"{path}: cannot be read ({e.strerror or e}); check its permissions") from e
