"""How a source is asked, and what it answers: the contract of the plug-ins in ``sources/``."""

from typing import NamedTuple, Protocol

from .located import Located
from .progress import Report


class Request(NamedTuple):
    """What the caller allows."""

    download: bool = True
    """False: only what is on this machine."""
    refresh: bool = False
    """Ask the source whether it has something newer, also when a complete copy is here."""
    report: Report | None = None
    depth: int = 0
    """How many models were found on the way to this one, each made of the next."""


class Source(Protocol):
    """A module in ``sources/``."""

    ORDER: int
    """Sources are asked from the lowest."""

    def claims(self, name: str) -> bool:
        """Whether this source answers for names of this form; cheap, no network. The first that claims decides."""
        ...

    def locate(self, name: str, request: Request) -> Located:
        """Find, and if allowed fetch, the files.

        Raises:
            UnknownModelError: this source looked and there is no such model.
            StoreError, DownloadError: it exists but cannot be had; one line with the remedy.
        """
        ...
