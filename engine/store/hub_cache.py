"""What the Hugging Face cache holds, read in place: ``models--org--name/{refs, snapshots/<commit>, blobs}``.

Reading it directly keeps a warm start free of the hub client, which takes a quarter of a second to import. Writing and
deleting are the client's business alone.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import BadModelFileError, StoreError
from . import snapshot
from .located import Located

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<tag>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Repo(NamedTuple):
    """A model on the hub, or one file of it."""

    id: str
    """``org/name``."""
    revision: str = ""
    """Branch, tag or commit; empty = main."""
    tag: str = ""
    """Picks a GGUF file by a part of its name, such as ``Q4_K_M``."""
    file: str = ""
    """Exactly this file."""

    def __str__(self) -> str:
        tail = f":{self.tag}" if self.tag else ""
        return f"{self.id}{tail}{'@' + self.revision if self.revision else ''}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None


def parse(name: str) -> Repo | None:
    """``org/repo[:tag][@revision]``, or None for a name of another form."""
    m = _NAME.fullmatch(name)
    if m is None or ".." in name or "--" in m["repo"]:
        return None
    return Repo(m["repo"], m["revision"] or "", m["tag"] or "")


def root() -> Path:
    """The cache's folder, from HF_HUB_CACHE or HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def folder_of(repo_id: str) -> Path:
    """Where the cache keeps a repo, present or not."""
    return root() / f"models--{repo_id.replace('/', '--')}"


def find(repo: Repo) -> Located | None:
    """The cached copy of ``repo``, if all of it is there.

    Raises:
        StoreError: ``repo.tag`` is missing or ambiguous among the cached GGUF files.
    """
    folder = _snapshot(repo)
    if folder is None:
        return None
    names = sorted(p.name for p in folder.iterdir())
    if repo.file or repo.tag:
        if not repo.file and not any(repo.tag.lower() in n.lower() and n.lower().endswith(".gguf") for n in names):
            return None
        path = folder / (repo.file or snapshot.choose_gguf(names, repo.tag, str(repo)))
        return snapshot.from_gguf(path, str(repo), "hub") if path.is_file() else None
    if "config.json" in names and not {"tokenizer.json"} & set(names):
        return None
    try:
        return snapshot.from_folder(folder, str(repo), "hub")
    except (StoreError, BadModelFileError):
        return None  # a fetch that was broken off, or another tool wanted only parts of it


def all_models() -> Iterator[Located]:
    """Every complete model of the cache; each GGUF file of a repo is one."""
    for folder in sorted(root().glob("models--*--*")):
        repo = Repo(folder.name.removeprefix("models--").replace("--", "/", 1))
        snap = _snapshot(repo)
        if snap is None:
            continue
        names = sorted(p.name for p in snap.iterdir())
        if "config.json" in names and snapshot.choose_weights(names):
            if located := find(repo):
                yield located
            continue
        for name in (n for n in names if n.lower().endswith(".gguf")):
            tag = re.split(r"[-.]", name[: -len(".gguf")])[-1]
            try:
                yield snapshot.from_gguf(snap / name, f"{repo.id}:{tag}", "hub")
            except StoreError:
                continue  # a part of a split file, or a dangling link


def _snapshot(repo: Repo) -> Path | None:
    """The folder of the commit that ``repo.revision`` names, as far as this machine knows."""
    folder = folder_of(repo.id)
    commit = repo.revision
    if not repo.pinned:
        try:
            commit = (folder / "refs" / (repo.revision or "main")).read_text().strip()
        except OSError:
            return None
    if not _COMMIT.fullmatch(commit):
        return None
    found = folder / "snapshots" / commit
    return found if found.is_dir() else None
