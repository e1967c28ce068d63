"""The models of this machine, for the gateway: described, fetched, made, deleted. A seam around ``engine.store``.

What it does blocks; call it in a worker thread.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..engine.errors import ConfigError, InvalidRequestError, PacelineError, StoreError, UnknownModelError
from ..engine.store import card as cards
from ..engine.store import created, inventory, modelfile, parameters, resolve
from ..engine.store.located import Located, ModelCard
from ..engine.store.preset import Preset, of_parameters
from ..engine.store.progress import Report
from ..engine.store.request import Request
from .as_modelfile import as_modelfile, parameter_lines
from .describe import num_parameters

_NAME = re.compile(r"[\w.:@/+-]{1,200}")


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model of this machine."""

    name: str
    size_bytes: int
    modified_s: float
    """Unix time."""
    digest: str
    """sha256 in hex of its first weight file; empty where unknown."""
    format: str
    """gguf or safetensors."""
    card: ModelCard | None
    """None when its files are damaged."""
    parent: str = ""
    """The model that it was made of; empty = of none."""
    modelfile: str = ""
    parameters: list[tuple[str, Any]] = []
    """(Ollama's name, value) of what applies where a client says nothing."""

    @property
    def num_parameters(self) -> int:
        """As the card's sizes say; 0 without a card."""
        return num_parameters(self.card.model) if self.card is not None else 0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be made of another one, as a client describes it."""

    base: str
    is_served: bool = False
    """The server's owner named ``base``, not a client: it may be a path."""
    system: str | None = None
    template: str = ""
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    license: str = ""
    draft: str = ""


def describe(located: Located, card: ModelCard | None, modified_s: float, name: str) -> LocalModel:
    """A model of which the files are known."""
    preset = located.preset or Preset()
    return LocalModel(
        name=name,
        size_bytes=sum(located.sizes),
        modified_s=modified_s,
        digest=next((digest for digest in located.digests if digest), ""),
        format=located.kind,
        card=card,
        parent=_public(preset.base),
        modelfile=_modelfile(located, card),
        parameters=parameter_lines(located, card) if card is not None else [],
    )


class ModelStore:
    """Our store, the Hugging Face cache, and what Ollama has."""

    def models(self) -> list[LocalModel]:
        """All complete ones, by name."""
        return [describe(s.located, _card(s.located), s.modified_s, s.name) for s in inventory.models()]

    def pull(self, name: str, report: Report) -> None:
        """Fetch a model, or its newest revision. ``report`` may raise, which ends the fetch; it can be resumed.

        Raises:
            InvalidRequestError: no source knows the name.
            StoreError: it cannot be had.
        """
        _refuse_paths(name)
        try:
            resolve.locate(name, progress=report, refresh=True)
        except UnknownModelError as e:
            raise InvalidRequestError(str(e), param="model", code="model_not_found", not_found=True) from e

    def create(self, name: str, wish: Wish) -> list[str]:
        """Keep a Modelfile that says what ``wish`` does, in the place of one that had the same name.

        Returns:
            The names of parameters without effect here.

        Raises:
            InvalidRequestError: the base is not here, or something in the wish cannot be kept; names the parameter.
            StoreError: the folder cannot be written.
        """
        base, below = _local_name(wish.base, "from", wish.is_served), Preset()
        if base == created.full_name(name) and (path := created.find(base)):  # said anew: what it was made of stays
            before, _ = created.read(path, base)
            base, below = before.base, msgspec.structs.replace(before.preset, draft_model=before.draft)
        draft = _local_name(wish.draft, "draft") if wish.draft else ""
        pairs, ignored = [], []
        for key, value in wish.parameters.items():
            for one in value if isinstance(value, list) else [value]:
                if key in parameters.NO_EFFECT:
                    ignored.append(key)
                    break
                try:
                    pairs.append(parameters.parameter(key, one))
                    of_parameters(pairs)
                except ValueError as e:
                    raise InvalidRequestError(str(e), param=f"parameters.{key[:40]}") from e
        messages = [_message(m, f"messages.{i}") for i, m in enumerate(wish.messages)]
        preset = msgspec.structs.replace(
            of_parameters(pairs), system=wish.system, messages=messages, license=wish.license,
            chat_template=wish.template or None, draft_model=draft,
        ).over(below)  # fmt: skip
        try:
            created.write(name, modelfile.write(base, preset, preset.parameter_lines()))
        except ConfigError as e:
            raise InvalidRequestError(str(e), param="model") from e
        return ignored

    def copy(self, source: str, destination: str, is_served: bool = False) -> None:
        """Give a model a second name. No weights are copied: the new one is made of the old one.

        Raises:
            InvalidRequestError: the source is not here, or the new name cannot be.
            StoreError: the folder cannot be written.
        """
        base = _local_name(source, "source", is_served)
        path = created.find(base)
        try:
            created.write(destination, created.read(path, base)[1] if path else modelfile.write(base, Preset(), []))
        except ConfigError as e:
            raise InvalidRequestError(str(e), param="destination") from e

    def remove(self, name: str) -> None:
        """Delete a fetched model.

        Raises:
            InvalidRequestError: it is not here.
            StoreError: its files cannot be deleted.
        """
        _refuse_paths(name)
        if {name, created.full_name(name)}.isdisjoint(s.name for s in inventory.models()):
            raise not_found(name)
        inventory.remove(inventory.find(name))


def _modelfile(located: Located, card: ModelCard | None) -> str:
    try:
        text = as_modelfile(located, card) if card is not None else ""
    except ConfigError:
        return f"FROM {located.name}\n"  # it holds a text that no Modelfile can
    draft = located.preset.draft_model if located.preset is not None else ""
    return modelfile.rebased(text, located.name, _public(located.name), _public(draft)) if text else ""


def _public(name: str) -> str:
    """A model's name for clients: of a path the last part, for they need not know where things lie."""
    return os.path.basename(name) if os.path.isabs(name) else name


def _card(located: Located) -> ModelCard | None:
    try:
        return cards.read(located)
    except PacelineError:
        return None  # one bad file must not hide the others


def _refuse_paths(name: str) -> None:
    """What a client names must not tell it which files this machine has: a path is a name that nobody knows."""
    is_name = _NAME.fullmatch(name) and not name.startswith((".", "/")) and not name.endswith(".gguf")
    if not is_name or os.path.exists(name):
        raise not_found(name)


def _local_name(name: str, param: str, is_served: bool = False) -> str:
    """The full name of a model that is here.

    Raises:
        InvalidRequestError: it is not.
    """
    if is_served:
        return created.anchored(name, Path.cwd())
    _refuse_paths(name)
    with suppress(StoreError):
        return inventory.find(name).name
    try:
        resolve.find(name, Request(download=False))
    except PacelineError as e:
        raise not_found(name, param) from e
    return name


def _message(message: dict[str, Any], param: str) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in modelfile.ROLES or not isinstance(content, str) or not content.strip():
        raise InvalidRequestError(f"{param}: must have a role of {', '.join(modelfile.ROLES)}, and text", param=param)
    return {"role": role, "content": content}


def not_found(name: str, param: str = "model") -> InvalidRequestError:
    """In the words that Ollama's clients look for."""
    return InvalidRequestError(f"model '{name[:100]}' not found", param=param, code="model_not_found", not_found=True)
