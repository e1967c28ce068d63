"""Modelfiles and Ollama's store on the command line: made, shown, listed, deleted; what the config makes of them."""

import argparse
import json
from pathlib import Path

import pytest
import tiny_models
from command import environment, paceline, refusal
from fake_ollama import Store

from paceline.actors import cli, prepare, server_address
from paceline.actors.conversation import Conversation
from paceline.actors.server_address import Address
from paceline.engine.config import Config
from paceline.engine.errors import ConfigError, StoreError
from paceline.engine.store import modelfile


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own and no network."""
    return environment(tmp_path, HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model."""
    return tiny_models.make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def parse(verb: str, *words: str) -> argparse.Namespace:
    args = cli.parse(verb, list(words))
    assert args is not None
    return args


def test_create_show_ls_rm(tmp_path: Path, gguf: Path, env: dict[str, str]) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(f"# mine\nFROM {gguf}\nSYSTEM You are a fox.\nPARAMETER temperature 0.1\nPARAMETER num_gpu 1\n")
    done = paceline("create", "fox", "-f", str(path), env=env)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith(f"fox:latest: made of {gguf}, kept in ") and "num_gpu has no effect here" in done.stderr
    )
    shown = paceline("show", "fox", env=env).stdout
    assert "You are a fox." in shown and f"made of        {gguf}" in shown and "temperature 0.1" in shown
    text = paceline("show", "fox", "--modelfile", env=env).stdout
    again = modelfile.parse(text, "again")
    assert (
        again.base == "fox"
        and again.preset.system == "You are a fox."
        and again.preset.sampling == {"temperature": 0.1}
    )
    [row] = json.loads(paceline("ls", "--json", env=env).stdout)
    assert (row["name"], row["source"], row["size_bytes"]) == ("fox:latest", "created", gguf.stat().st_size)
    assert row["path"] == done.stdout.split("kept in ")[1].split(";")[0]
    assert "fox:latest  F32" in paceline("ls", env=env).stdout
    assert "deleted" in paceline("rm", "fox", env=env).stdout
    assert json.loads(paceline("ls", "--json", env=env).stdout) == [] and gguf.exists()


def test_create_says_what_is_wrong_and_where(tmp_path: Path, gguf: Path, env: dict[str, str]) -> None:
    path = tmp_path / "Modelfile"
    for text, says in (
        ("FORM x", f"{path}:1: unknown keyword 'FORM'; did you mean FROM?"),
        (f"FROM {gguf}\nADAPTER ./a", f"{path}:2: ADAPTER: adapters are not applied"),
        (f"FROM {gguf}\nPARAMETER num_ctx 99999", "num_ctx is 99999, but"),
        ("FROM ./none.gguf", "cannot be read"),
    ):
        path.write_text(text)
        assert says in refusal(paceline("create", "fox", "-f", str(path), env=env), 1)
    assert "none: cannot be read" in refusal(paceline("create", "fox", "-f", str(tmp_path / "none"), env=env), 1)
    assert "cannot name a model" in refusal(paceline("create", "a/b", "-f", str(path), env=env), 1)
    assert json.loads(paceline("ls", "--json", env=env).stdout) == []


def test_ollamas_models(tmp_path: Path, gguf: Path, env: dict[str, str]) -> None:
    store = Store(tmp_path / "ollama")
    store.add("vixen:1b", model=gguf.read_bytes(), system="Be brief.", adapter=b"a")
    before = store.bytes()
    [row] = json.loads(paceline("ls", "--json", env=env).stdout)
    assert (row["name"], row["source"]) == ("ollama:vixen:1b", "ollama")
    shown = paceline("show", "vixen:1b", env=env).stdout
    assert "Be brief." in shown and "adapter is not applied" in shown and "ollama, " in shown
    assert "run: ollama rm vixen:1b" in refusal(paceline("rm", "ollama:vixen:1b", env=env), 1)
    assert store.bytes() == before


def test_what_comes_with_a_model_goes_below_all_else(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(f"FROM {gguf}\nPARAMETER num_ctx 128\nPARAMETER draft_num_predict 3\nDRAFT {gguf}\n")

    def configured(*words: str) -> Config:
        args = parse("serve", str(path), *words)
        loaded = prepare.load_config(args)
        return prepare.with_model_settings(args, loaded, *prepare.load_model(args, loaded))

    found = configured()
    assert (found.target.max_model_len, found.speculation.max_draft_tokens) == (128, 3)
    assert found.speculation.methods == ["suffix", "draft_model"]
    assert found.speculation.settings["draft_model"] == {"model": str(gguf)}
    found = configured("--max-model-len", "64", "-s", "speculation.methods=[]", "-s", "speculation.max_draft_tokens=5")
    assert (found.target.max_model_len, found.speculation.max_draft_tokens) == (64, 5)
    assert found.speculation.methods == []
    found = configured("-s", "speculation.draft_model.model=x")
    assert found.speculation.settings["draft_model"] == {"model": "x"}
    toml = tmp_path / "c.toml"
    toml.write_text("[target]\nmax_model_len = 32\n")
    monkeypatch.setenv("PACELINE_SPECULATION__MAX_DRAFT_TOKENS", "1")
    found = configured("--config", str(toml))
    assert (found.target.max_model_len, found.speculation.max_draft_tokens) == (32, 1)
    path.write_text(f"FROM {gguf}\nPARAMETER num_ctx 9999\n")
    assert configured().target.max_model_len == 0
    assert "num_ctx 9999 is more than the model's own 512" in capsys.readouterr().err


def test_a_template_that_cannot_be_run_is_refused_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_models, "CHAT_TEMPLATE", "")
    gguf = tiny_models.make_gguf(tmp_path / "bare.gguf")
    store = Store(tmp_path / "ollama")
    monkeypatch.setenv("OLLAMA_MODELS", str(store.root))
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    store.add("vixen", model=gguf.read_bytes(), template="{{ if .System }}x{{ end }}{{ .Prompt }}")
    store.add("base", model=gguf.read_bytes(), template="{{ .Prompt }}")
    args = parse("serve", "ollama:vixen")
    with pytest.raises(StoreError, match=r"Go's language, which is not run here.*--chat-template FILE"):
        prepare.load_model(args, prepare.load_config(args))
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    args = parse("serve", "ollama:vixen", "--chat-template", str(tmp_path / "t.jinja"))
    assert prepare.load_model(args, prepare.load_config(args))[1].chat_template == "{{ messages[0].content }}"
    args = parse("serve", "ollama:base")
    assert not prepare.load_model(args, prepare.load_config(args))[1].chat_template


# --- ps and stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "host", "port", "url"),
    [
        ("", None, None, "http://127.0.0.1:8000"),
        ("", None, 9, "http://127.0.0.1:9"),
        ("", "box", None, "http://box:8000"),
        ("127.0.0.1:8000", None, None, "http://127.0.0.1:8000"),
        ("box", None, None, "http://box:11434"),
        ("0.0.0.0:9", None, None, "http://127.0.0.1:9"),
        (":9", None, None, "http://127.0.0.1:9"),
        ("http://box", None, None, "http://box:80"),
        ("https://box/", None, None, "https://box:443"),
        ("[::1]:9", None, None, "http://[::1]:9"),
        ("box:1", "other", None, "http://other:8000"),
        ("box:1", None, 2, "http://127.0.0.1:2"),
    ],
)
def test_where_the_server_is(told: str, host: str | None, port: int | None, url: str) -> None:
    assert server_address.find(host, port, {"OLLAMA_HOST": told}).url == url


@pytest.mark.parametrize("told", ["box:port", "box:99999", "ftp://box"])
def test_no_address(told: str) -> None:
    with pytest.raises(ConfigError, match="OLLAMA_HOST="):
        server_address.parse(told)
    assert server_address.parse("box") == Address("box", 11434)


def test_nobody_is_there(env: dict[str, str]) -> None:
    for verb in ("ps", "stop"):
        line = refusal(paceline(verb, "--port", "1", env=env), 1)
        assert "1" in line and "--port" in line


# --- the conversation ------------------------------------------------------------------------------------------------


def test_a_conversation_takes_up_a_modelfile(tmp_path: Path) -> None:
    path = tmp_path / "fox.modelfile"
    path.write_text("FROM x\nSYSTEM You are a fox.\nPARAMETER top_k 3\nMESSAGE user first\nMESSAGE assistant yes\n")
    talk = Conversation(chat=True, opening=[{"role": "user", "content": "first"}], sampling={"seed": 1})
    talk.load(str(path))
    assert talk.system == "You are a fox." and talk.sampling == {"seed": 1, "top_k": 3}
    assert talk.messages == [{"role": "assistant", "content": "yes"}], "the opening is the engine's to add"
    path.write_text("FORM x")
    with pytest.raises(ConfigError, match="did you mean FROM"):
        talk.load(str(path))
