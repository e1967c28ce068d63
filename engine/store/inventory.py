"""Which models are on this machine, and deleting them: our store and the Hugging Face cache, nothing else."""

import os
import shutil
from pathlib import Path

import msgspec

from ..errors import PacelineError, StoreError
from . import catalog, hub_cache, paths, snapshot
from .located import Located


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One model on this machine."""

    name: str
    """What ``run`` and ``rm`` take."""
    source: str
    """``store`` (ours) or ``hub`` (the Hugging Face cache)."""
    path: str
    size_bytes: int
    modified_s: float
    """Unix time of the newest weight file."""
    located: Located


def models() -> list[Stored]:
    """Every complete model of our store and of the Hugging Face cache, by name."""
    found = [_stored(located, "store") for located in _own()]
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
    wanted = {name, entry.name if entry else name, repo.id if repo else name}
    here = models()
    for stored in here:
        if stored.name in wanted or (entry and entry.origins[0].hub and stored.located.name == entry.origins[0].hub):
            return stored
    if os.path.exists(name):
        raise StoreError(f"{name}: is your own file, not fetched by paceline; delete it yourself")
    near = catalog.nearest(name, [s.name for s in here])
    close = [n for n in near if n in {s.name for s in here}]
    hint = f"did you mean {close[0]}?" if close else "run: paceline ls"
    raise StoreError(f"{name}: not on this machine; {hint}")


def remove(stored: Stored) -> int:
    """Delete a model's files; bytes freed. Hub models go through the hub's client, whole repo with all revisions.

    Raises:
        StoreError: the files cannot be deleted.
    """
    try:
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


def _stored(located: Located, source: str) -> Stored:
    newest = max((Path(f).stat().st_mtime for f in located.files), default=0.0)
    path = located.files[0] if source == "store" else str(_repo_folder(Path(located.folder)))
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
