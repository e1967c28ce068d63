"""The models of this machine, for the gateway: described, fetched, deleted. A seam around ``engine.store``.

What it does blocks; call it in a worker thread.
"""

import os
import re

import msgspec

from ..engine.errors import InvalidRequestError, PacelineError, UnknownModelError
from ..engine.store import card as cards
from ..engine.store import inventory, resolve
from ..engine.store.located import Located, ModelCard
from ..engine.store.progress import Report
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

    @property
    def num_parameters(self) -> int:
        """As the card's sizes say; 0 without a card."""
        return num_parameters(self.card.model) if self.card is not None else 0


def describe(located: Located, card: ModelCard | None, modified_s: float, name: str) -> LocalModel:
    """A model of which the files are known."""
    return LocalModel(
        name=name,
        size_bytes=sum(located.sizes),
        modified_s=modified_s,
        digest=next((digest for digest in located.digests if digest), ""),
        format=located.kind,
        card=card,
    )


class ModelStore:
    """Our store and the Hugging Face cache."""

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

    def remove(self, name: str) -> None:
        """Delete a fetched model.

        Raises:
            InvalidRequestError: it is not here.
            StoreError: its files cannot be deleted.
        """
        _refuse_paths(name)
        if name not in {s.name for s in inventory.models()}:
            raise not_found(name)
        inventory.remove(inventory.find(name))


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


def not_found(name: str) -> InvalidRequestError:
    """In the words that Ollama's clients look for."""
    return InvalidRequestError(f"model '{name[:100]}' not found", param="model", code="model_not_found", not_found=True)
