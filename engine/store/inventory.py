"""Which models are on this machine, and deleting them from our store and the Hugging Face cache.

Ollama's store is listed and never written.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from ..errors import PacelineError, StoreError
from . import catalog, created, hub_cache, ollama_store, paths, resolve, snapshot
from .located import Located
from .request import Request
from .sources import ollama


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One model on this machine."""

    name: str
    """What ``run`` and ``rm`` take."""
    source: str
    """``store`` (ours), ``created`` (a Modelfile there), ``hub`` (the Hugging Face cache) or ``ollama`` (its store)."""
    path: str
    size_bytes: int
    modified_s: float
    """Unix time of the newest weight file."""
    located: Located


def models() -> list[Stored]:
    """Every model that ``run`` would take without a fetch, by name."""
    found = [_stored(located, "store") for located in _own()]
    found += [_created(name) for name in created.names()]
    found += [_stored(located, "ollama") for located in _ollamas()]
    names = {e.origins[0].hub: e.name for e in catalog.entries() if not e.file}
    for located in hub_cache.all_models():
        named = msgspec.structs.replace(located, name=names.get(located.name, located.name))
        found.append(_stored(named, "hub"))
    return sorted(found, key=lambda s: s.name)


def find(name: str) -> Stored:
    """The stored model called ``name``, alias included.

    Raises:
        StoreError: not here, or the user's own file, which is not ours to delete; with the nearest names.
    """
    entry = catalog.find(name)
    repo = hub_cache.parse(name)
    wanted = {name, entry.name if entry else name, repo.id if repo else name, created.full_name(name) or name}
    here = models()
    for stored in here:
        if stored.name in wanted or (entry and entry.origins[0].hub and stored.located.name == entry.origins[0].hub):
            return stored
    if ollama_store.find(name.removeprefix(ollama_store.PREFIX)):
        raise StoreError(_read_only(name))
    if os.path.exists(name):
        raise StoreError(f"{name}: is your own file, not fetched by paceline; delete it yourself")
    near = catalog.nearest(name, [s.name for s in here])
    close = [n for n in near if n in {s.name for s in here}]
    hint = f"did you mean {close[0]}?" if close else "run: paceline ls"
    raise StoreError(f"{name}: not on this machine; {hint}")


def remove(stored: Stored) -> int:
    """Delete a model's files; bytes freed. Hub models go through the hub's client, whole repo with all revisions.

    Raises:
        StoreError: the files cannot be deleted, are Ollama's, or another model is made of this one.
    """
    if stored.source == "ollama":
        raise StoreError(_read_only(stored.name))
    if users := _made_of(stored):
        raise StoreError(f"{stored.name}: {', '.join(users)} is made of it; delete that first: paceline rm {users[0]}")
    try:
        if stored.source == "created":
            return created.remove(Path(stored.path))
        if stored.source == "hub":
            return _remove_repo(Path(stored.path))
        shutil.rmtree(stored.located.folder)
        return stored.size_bytes
    except OSError as e:
        place, cause = e.filename or stored.path, e.strerror or e
        raise StoreError(f"{place}: cannot be deleted ({cause}); check its permissions") from e


def _own() -> list[Located]:
    """Files under ``paths.models()``, named by their two folders; an entry that left the library is still listed."""
    found: list[Located] = []
    for path in sorted(paths.models().glob("*/*/*.gguf")):
        if path.name.startswith("."):
            continue
        try:
            found.append(snapshot.from_gguf(path, f"{path.parent.parent.name}:{path.parent.name}", "library"))
        except PacelineError:
            continue
    return found


def _ollamas() -> Iterator[Located]:
    """The models of Ollama's store that have all their files; its lesser faults are told when one is used."""
    for name in ollama_store.names():
        with suppress(PacelineError):
            yield ollama.describe(name, f"{ollama_store.PREFIX}{name}")


def _created(name: str) -> Stored:
    """A model made by ``create``. One whose base is gone is listed too, or it could not be deleted."""
    path = created.find(name)
    assert path is not None
    try:
        located = resolve.find(name, Request(download=False))
    except PacelineError:
        located = snapshot.from_gguf(path, name, "created")
    changed_s, size = path.stat().st_mtime, sum(located.sizes)
    return Stored(name=name, source="created", path=str(path), size_bytes=size, modified_s=changed_s, located=located)


def _made_of(stored: Stored) -> list[str]:
    """The created models that name this one behind FROM."""
    names = {stored.name, stored.located.name}
    found: list[str] = []
    for name in created.names():
        with suppress(PacelineError):
            path = created.find(name)
            base = created.read(path, name)[0].base if path else ""
            entry = catalog.find(base)
            if name != stored.name and {base, created.full_name(base), entry.name if entry else base} & names:
                found.append(name)
    return found


def _read_only(name: str) -> str:
    plain = name.removeprefix(ollama_store.PREFIX)
    return f"{name}: is in Ollama's store, which paceline only reads; run: ollama rm {plain}"


def _stored(located: Located, source: str) -> Stored:
    newest = max((Path(f).stat().st_mtime for f in located.files), default=0.0)
    path = located.files[0] if source != "hub" else str(_repo_folder(Path(located.folder)))
    return Stored(
        name=located.name, source=source, path=path, size_bytes=sum(located.sizes), modified_s=newest, located=located
    )


def _repo_folder(snapshot_folder: Path) -> Path:
    """``models--org--name`` above ``snapshots/<commit>``."""
    return snapshot_folder.parent.parent


def _remove_repo(folder: Path) -> int:
    from huggingface_hub import scan_cache_dir

    info = scan_cache_dir(folder.parent)
    commits = [r.commit_hash for repo in info.repos if Path(repo.repo_path) == folder for r in repo.revisions]
    strategy = info.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size
