"""Real servers for the end-to-end ring: one shared by most tests, and a factory for those that break theirs."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import tiny_models
from server import Server, free_port, paceline_command

SMALL = ["-s", "cache.num_blocks=512", "-s", "target.max_model_len=512", "-s", "target.num_threads=1"]

ServeFactory = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session", autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests' caches stay apart from the user's; the model store is the user's, to save the download."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    for name in [n for n in os.environ if n.startswith("PACELINE_") and "__" in n]:
        patch.delenv(name)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_models.make_llama(folder)
    return folder


@pytest.fixture(scope="session")
def serve(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeFactory:
    """``with serve("-s", "cache.num_blocks=40") as server``: a ready server on the tiny model."""

    @contextmanager
    def start(*extra: str, model: Path | str = tiny_folder, base: list[str] = SMALL) -> Iterator[Server]:
        port = free_port()
        log = tmp_path_factory.mktemp("log") / "server.log"
        with Server(paceline_command(str(model), port, [*base, *extra]), port, log=log) as server:
            try:
                server.wait(timeout=60)
            except RuntimeError as e:
                raise AssertionError(f"{e}\n{log.read_text()}") from e
            yield server

    return start


@pytest.fixture(scope="module")
def server(serve: ServeFactory) -> Iterator[Server]:
    """A server that several tests share; none of them may break it."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small random Llama as a GGUF file with tokenizer and chat template."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_models.make_gguf(path)
    return path
