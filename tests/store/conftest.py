"""A store of its own for every test of this ring, and small models to put into it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_hub
import pytest
import tiny_models

from paceline.engine.store import catalog
from paceline.engine.store.catalog import Entry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our data, the hub's cache, Ollama's store and pip's settings, all below ``tmp_path``."""
    from huggingface_hub import constants

    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "paceline"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small GGUF model."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_models.make_gguf(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as a Hugging Face folder; read only."""
    return tiny_models.make_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in three shards; read only."""
    return tiny_models.make_llama(tmp_path_factory.mktemp("models") / "sharded", num_shards=3)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[Entry], None]:
    """Replaces the library by one entry."""

    def replace(entry: Entry) -> None:
        monkeypatch.setattr(catalog, "entries", lambda: (entry,))

    return replace


@pytest.fixture
def hub() -> Iterator[fake_hub.Hub]:
    """A hub on a local port."""
    with fake_hub.running() as running:
        yield running
