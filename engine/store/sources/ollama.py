"""Models that an Ollama on this machine has pulled: ``ollama:llama3.2:1b``, or the bare name where nobody else has it.

The weights stay where they are. What the model's small layers say becomes a ``Preset``; its prompt template, which is
Go's, is never run: the GGUF file brings its own, or there is none.
"""

import msgspec

from ...errors import BadModelFileError, StoreError, UnknownModelError
from .. import catalog, ollama_store, snapshot
from ..located import Located
from ..ollama_store import PREFIX, Blob, Name
from ..parameters import NO_EFFECT, parameter
from ..preset import Preset, is_plain, of_parameters
from ..request import Request

ORDER = 50
DRAFT = "#draft"
"""Behind a name: not the model itself, but the draft model that came with it."""
_WITHOUT_MEANING = {
    "adapter": "its adapter is not applied: the base model answers",
    "projector": "its projector is left out: images are not read",
}


def claims(name: str) -> bool:
    """``ollama:...``, or what the store has under that name."""
    return name.startswith(PREFIX) or ollama_store.find(name) is not None


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    wanted, draft, _ = name.removeprefix(PREFIX).partition(DRAFT)
    found = ollama_store.find(wanted)
    if found is None:
        raise UnknownModelError(_unknown(name, wanted))
    return describe(found, name, draft=bool(draft))


def describe(found: Name, name: str, *, draft: bool = False) -> Located:
    """A model of the store, or the draft model that came with it, under the name ``name``.

    Raises:
        StoreError: it has no GGUF file, or several; a layer is missing.
        BadModelFileError: the store is damaged there.
    """
    layers = ollama_store.layers(found)
    weights = [layer for layer in layers if layer.kind == ("draft" if draft else "model")]
    if len(weights) != 1:
        if any(layer.kind == "tensor" for layer in layers):
            what = "is stored as single tensors, which are not read here"
        else:
            what = f"has {len(weights)} files of weights"
        raise StoreError(f"{PREFIX}{found}: {what}; pull a GGUF of it, or take it from the Hugging Face hub")
    located = snapshot.from_gguf(weights[0].path, name, "ollama", weights[0].sha256)
    return located if draft else msgspec.structs.replace(located, preset=_preset(found, layers))


def _preset(name: Name, layers: list[Blob]) -> Preset:
    """What the small layers say. Values that nobody here would take are noted: their author is not at hand."""
    full = f"{PREFIX}{name}"
    notes = [f"{full}: {what}" for kind, what in _WITHOUT_MEANING.items() if any(b.kind == kind for b in layers)]
    pairs = [pair for blob in layers if blob.kind == "params" for pair in _parameters(full, blob, notes)]
    system, template = _text(layers, "system"), _text(layers, "template") or ""
    try:
        sampling = of_parameters(pairs)
    except ValueError as e:
        raise BadModelFileError(f"{full}: {e}") from e
    return msgspec.structs.replace(
        sampling,
        system=system,
        messages=[m for blob in layers if blob.kind == "messages" for m in _messages(blob)],
        go_template="" if is_plain(template) else template,
        draft_model=f"{full}{DRAFT}" if any(blob.kind == "draft" for blob in layers) else "",
        license="\n".join(ollama_store.text_of(blob) for blob in layers if blob.kind == "license"),
        notes=notes,
    )


def _parameters(full: str, blob: Blob, notes: list[str]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in ollama_store.json_of(blob, dict[str, object]).items():
        for one in value if isinstance(value, list) else [value]:
            try:
                if key in NO_EFFECT:
                    raise ValueError(f"{key} has no effect here: {NO_EFFECT[key]}")
                found.append(parameter(key, one))
            except ValueError as e:
                notes.append(f"{full}: {e}")
    return found


def _messages(blob: Blob) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in ollama_store.json_of(blob, list[_Message])]


class _Message(msgspec.Struct):
    role: str
    content: str = ""


def _text(layers: list[Blob], kind: str) -> str | None:
    return next((ollama_store.text_of(blob) for blob in layers if blob.kind == kind), None)


def _unknown(name: str, wanted: str) -> str:
    if not ollama_store.root().is_dir():
        return f"{name}: there is no Ollama store at {ollama_store.root()}; set OLLAMA_MODELS, or name another model"
    near = catalog.nearest(wanted, [str(n) for n in ollama_store.names()])
    here = [n for n in near if ollama_store.find(n)]
    hint = f"did you mean {PREFIX}{here[0]}?" if here else f"run: ollama pull {wanted}"
    return f"{name}: Ollama's store at {ollama_store.root()} has no such model; {hint}"
