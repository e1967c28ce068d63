"""An Ollama store on disk, as its ``pull`` would leave it: manifests and blobs, made of bytes given here."""

import hashlib
import json
from pathlib import Path
from typing import Any

TYPE = "application/vnd.ollama.image."


class Store:
    """``Store(folder).add("llama3.2:1b", model=gguf_bytes, params={"stop": ["x"]})``; set OLLAMA_MODELS to ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)
        (root / "manifests").mkdir()

    def add(self, name: str, *layers: tuple[str, bytes], **more: Any) -> Path:
        """Write a model; its manifest. ``layers`` are (kind, content), and so is ``more``: objects become JSON."""
        listed = [*layers, *((kind, value) for kind, value in more.items())]
        config = self.blob(json.dumps({"model_format": "gguf", "model_family": "llama"}).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **config},
            "layers": [{"mediaType": TYPE + kind, **self.blob(_bytes(value))} for kind, value in listed],
        }
        return self.manifest(name, json.dumps(manifest))

    def manifest(self, name: str, text: str) -> Path:
        """Write a manifest as it is. ``name`` is ``[host/][namespace/]model[:tag]``."""
        *where, model = name.split("/")
        path = self.root.joinpath("manifests", *["registry.ollama.ai", "library"][: 2 - len(where)], *where)
        path = path.joinpath(*(model if ":" in model else f"{model}:latest").split(":"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def blob(self, content: bytes) -> dict[str, Any]:
        """Write a blob; its digest and size."""
        digest = hashlib.sha256(content).hexdigest()
        self.path(digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def path(self, digest: str) -> Path:
        """Where the blob of a digest lies."""
        return self.root / "blobs" / f"sha256-{digest}"

    def bytes(self) -> dict[str, tuple[bytes, int]]:
        """Content and time of every file: equal as long as nobody wrote."""
        files = sorted(p for p in self.root.rglob("*") if p.is_file())
        return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()
