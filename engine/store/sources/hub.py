"""Hugging Face repos, through the hub's own client and into its own cache.

``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` mean what they mean everywhere. Only what is used is
fetched: config, tokenizer, template and safetensors, or one GGUF file. Never pickled weights, never code.
"""

import warnings
from pathlib import Path
from typing import Any

import msgspec

from ...errors import DownloadError, PacelineError, StoreError, UnknownModelError
from .. import download, hub_cache, snapshot, verify
from ..hub_cache import Repo
from ..located import Located
from ..progress import Meter, watching
from ..request import Request

ORDER = 40


def claims(name: str) -> bool:
    """``org/repo[:tag][@revision]``."""
    return hub_cache.parse(name) is not None


def locate(name: str, request: Request) -> Located:
    """See ``request.Source``."""
    repo = hub_cache.parse(name)
    if repo is None:
        raise StoreError(f"{name}: is not of the form org/repo[:tag][@revision]")
    return msgspec.structs.replace(find_or_fetch(repo, request), name=name)


def find_or_fetch(repo: Repo, request: Request, *, connect_s: float = 10.0) -> Located:
    """The cached copy of ``repo``, fetched first where it is not complete or ``request.refresh`` wants the newest.

    Raises:
        UnknownModelError: the hub has no such repo, revision or file.
        DownloadError: offline, no network within ``connect_s``, gated, no room, or a bad checksum.
    """
    if (repo.pinned or not request.refresh) and (found := hub_cache.find(repo)):
        return found
    if not request.download:
        raise StoreError(f"{repo}: not on this machine; run: paceline pull {repo}")
    try:
        return _fetch(repo, request, connect_s)
    except PacelineError:
        raise
    except Exception as e:  # the client's errors come from three HTTP libraries, by its version
        raise _explain(repo, e) from e


def _fetch(repo: Repo, request: Request, connect_s: float) -> Located:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HF_HUB_DISABLE_PROGRESS_BARS=0 is not for us: progress is ours to report
        disable_progress_bars()
    hub_logging.set_verbosity_error()
    info = HfApi().model_info(repo.id, revision=repo.revision or None, files_metadata=True, timeout=connect_s)
    siblings = {s.rfilename: s for s in info.siblings or []}
    wanted = choose(repo, sorted(siblings))
    sizes = {name: siblings[name].size or 0 for name in wanted}
    digests = {n: s.lfs.sha256 for n in wanted if (s := siblings[n]).lfs is not None}
    folder = hub_cache.folder_of(repo.id)
    missing = sum(size for name, size in sizes.items() if not (folder / "snapshots" / str(info.sha) / name).exists())
    download.check_space(folder, missing, str(repo))
    total = sum(sizes.values())
    before = _blob_bytes(folder)
    meter = Meter(request.report, "fetch", str(repo), total)
    with watching(meter, lambda: min(total, total - missing + _blob_bytes(folder) - before)):
        for name in wanted:
            path = hf_hub_download(repo.id, name, revision=info.sha, etag_timeout=connect_s)
            _verify(Path(path), digests.get(name), f"{repo} {name}", request)
        if not repo.pinned:
            # By name, and last: this writes the ref, so a fetch that was broken off leaves none behind.
            hf_hub_download(repo.id, wanted[0], revision=repo.revision or None, etag_timeout=connect_s)
    found = hub_cache.find(Repo(repo.id, str(info.sha), repo.tag, repo.file))
    if found is None:
        raise StoreError(f"{repo}: no complete model there (config.json, tokenizer.json, weights); pick another repo")
    return found


def choose(repo: Repo, names: list[str]) -> list[str]:
    """The files of a repo to fetch, small ones first.

    Raises:
        StoreError: nothing here that can be loaded; says what the repo has instead.
    """
    if repo.file:
        if repo.file not in names:
            raise UnknownModelError(f"{repo}: the repo has no file {repo.file}; it may have been renamed")
        return [repo.file]
    weights = snapshot.choose_weights(names)
    if repo.tag or not weights:
        if not any(n.lower().endswith(".gguf") for n in names):
            raise StoreError(f"{repo}: the repo has no .safetensors and no .gguf file; pick a repo that has")
        return [snapshot.choose_gguf(names, repo.tag, f"{repo} (name one as {repo.id}:TAG)")]
    return [n for n in snapshot.SMALL_FILES if n in names] + weights


def _verify(path: Path, sha256: str | None, what: str, request: Request) -> None:
    """Compare with the hub's digest; a bad file leaves the cache, or it would be taken for good the next time."""
    if sha256 is None or verify.file_digest(path, request.report) == sha256:
        return
    found = verify.file_digest(path)
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise verify.bad_checksum(what, found, sha256)


def _blob_bytes(folder: Path) -> int:
    """Bytes of a repo in the cache, half-fetched files included."""
    total = 0
    for blob in (folder / "blobs").glob("*"):
        try:
            total += blob.stat().st_size
        except OSError:
            continue  # renamed meanwhile
    return total


def _explain(repo: Repo, error: Exception) -> PacelineError:
    """The client's error as one line of ours."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{repo}: gated; accept its licence on the hub and set HF_TOKEN to a token that may read")
    if isinstance(error, errors.RevisionNotFoundError):
        return UnknownModelError(f"{repo}: the hub has no revision {repo.revision!r} of it; check the part after @")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnknownModelError(f"{repo}: not on the hub, or private; check the name, or set HF_TOKEN")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DownloadError(f"{repo}: not in the cache and HF_HUB_OFFLINE is set; unset it, or pass a folder")
    if isinstance(error, errors.HfHubHTTPError):
        status: Any = getattr(error.response, "status_code", "an error")
        return DownloadError(f"{repo}: the hub answered {status}; try again later")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return download.cannot_write(Path(error.filename), error)
    cause = str(error).strip().splitlines()
    return DownloadError(
        f"{repo}: the hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__}: "
        f"{cause[0][:200] if cause else 'no reason given'}); check the network, or pass a folder or a .gguf file"
    )
