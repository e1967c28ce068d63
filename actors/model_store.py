"""The models of this machine, for the gateway: described, fetched, deleted. A seam around ``engine.store``.

What it does blocks; call it in a worker thread.
"""

import os

import msgspec

from ..engine.errors import InvalidRequestError, PacelineError, UnknownModelError
from ..engine.store import card as cards
from ..engine.store import inventory, resolve
from ..engine.store.located import Located, ModelCard
from ..engine.store.progress import Report
from .describe import num_parameters


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
            InvalidRequestError: no source knows the name, or it is a path of this machine.
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
            raise InvalidRequestError(f"model '{name}' not found", param="model", code="model_not_found",
                                      not_found=True)  # fmt: skip
        inventory.remove(inventory.find(name))


def _card(located: Located) -> ModelCard | None:
    try:
        return cards.read(located)
    except PacelineError:
        return None  # one bad file must not hide the others


def _refuse_paths(name: str) -> None:
    """What a client names must not tell it which files this machine has."""
    if name.startswith(("/", ".", "~")) or "\\" in name or name.endswith(".gguf") or os.path.exists(name):
        raise InvalidRequestError("model must be a name, not a path; see: paceline ls", param="model")
