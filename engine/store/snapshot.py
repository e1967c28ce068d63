"""A folder in Hugging Face's layout -> Located. Used for local folders and for the hub's cache; fetches nothing."""

import os
import re
from pathlib import Path

from ..errors import StoreError
from ..formats.headers import safetensors
from . import verify
from .located import Located

POOLING_FILE = "1_Pooling/config.json"
"""Where sentence-transformers says how a model's hidden states become a vector."""
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    safetensors.INDEX_NAME,
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    POOLING_FILE,
)
"""What the card, the tokenizer and ``show`` read; all but one at the top of a repo."""

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def choose_weights(names: list[str]) -> list[str]:
    """Of all file names at a repo's top, the safetensors to load, in order; empty when there are none.

    ``consolidated*`` are the same weights once more under the publisher's own names.
    """
    found = sorted(n for n in names if n.endswith(".safetensors") and "/" not in n)
    standard = [n for n in found if re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", n)]
    return standard or [n for n in found if not n.startswith("consolidated")]


def choose_gguf(names: list[str], tag: str, where: str) -> str:
    """The one GGUF file of a repo or folder that ``tag`` (part of its name, any case) picks.

    Raises:
        StoreError: none or several; the message lists them.
    """
    found = sorted(n for n in names if n.lower().endswith(".gguf") and "/" not in n and not n.startswith("mmproj"))
    picked = [n for n in found if tag.lower() in n.lower()]
    exact = [n for n in picked if re.search(rf"[-._]{re.escape(tag)}\.gguf$", n, re.IGNORECASE)] if tag else []
    chosen = exact or picked
    if len(chosen) == 1:
        return chosen[0]
    wanted = f" matching {tag!r}" if tag else ""
    if not chosen:
        has = f"; it has {', '.join(found)}" if found else ""
        raise StoreError(f"{where}: no .gguf file{wanted}{has}")
    raise StoreError(f"{where}: {len(chosen)} .gguf files{wanted} ({', '.join(chosen[:12])}); name one of them")


def from_folder(folder: Path, name: str, source: str) -> Located:
    """Describe the model in ``folder``: safetensors with ``config.json``, or a single GGUF file.

    Raises:
        StoreError: it holds no complete model; the message names what is missing.
        BadModelFileError: the index of a sharded checkpoint is damaged.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as e:
        raise StoreError(f"{folder}: cannot be read ({e.strerror or e}); pass a model's folder") from e
    if "config.json" not in names:
        if any(n.lower().endswith(".gguf") for n in names):
            return from_gguf(folder / choose_gguf(names, "", str(folder)), name, source)
        raise StoreError(f"{folder}: no config.json and no .gguf file; pass a folder that holds a model")
    if safetensors.INDEX_NAME in names:
        weights = sorted(set(safetensors.read_index(folder / safetensors.INDEX_NAME).values()))
    else:
        weights = choose_weights(names)
    if not weights:
        pickled = next((n for n in names if n.endswith(_PICKLED)), None)
        if pickled:
            raise StoreError(f"{folder}: only pickled weights ({pickled}), never loaded here; convert to safetensors")
        raise StoreError(f"{folder}: config.json but no .safetensors file; add the weights or pull the model again")
    for weight in weights:
        if weight not in names:
            raise StoreError(f"{folder}: {weight} is missing; add it or pull the model again")
    files = [folder / w for w in weights]
    return Located(
        name=name,
        kind="safetensors",
        folder=str(folder),
        files=[str(f) for f in files],
        sizes=[verify.stat(f).st_size for f in files],
        digests=[blob_digest(f) for f in files],
        source=source,
    )


def from_gguf(path: Path, name: str, source: str, digest: str | None = None) -> Located:
    """Describe one GGUF file.

    Raises:
        StoreError: missing, no plain file, or a part of a split one.
    """
    split = _SPLIT.search(path.name)
    if split and int(split[1]) > 1:
        parts = int(split[1])
        raise StoreError(f"{path}: is one of {parts} parts of a split GGUF; merge them with llama-gguf-split --merge")
    size = verify.stat(path).st_size
    if not path.is_file():
        raise StoreError(f"{path}: is not a file; pass a .gguf file")
    return Located(
        name=name,
        kind="gguf",
        folder=str(path.parent),
        files=[str(path)],
        sizes=[size],
        digests=[digest or blob_digest(path)],
        source=source,
    )


def blob_digest(path: Path) -> str | None:
    """The sha256 that the hub's cache puts into the name of a large file's blob; None for any other file."""
    if not path.is_symlink():
        return None
    blob = os.path.basename(os.path.realpath(path))
    return blob if _SHA256.fullmatch(blob) else None
