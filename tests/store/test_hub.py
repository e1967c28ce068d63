"""Hub models through the real client and a hub on a local port: fetch, resume, faults, the cache, deleting."""

import time
from pathlib import Path

import fake_hub
import pytest
import tiny_models
from command import environment, paceline, refusal
from fake_hub import Hub

REPO = "some-org/tiny-llama"


@pytest.fixture
def env(home: Path, hub: Hub) -> dict[str, str]:
    """A home of its own, with ``hub`` as the hub."""
    return environment(home, HF_ENDPOINT=hub.url)


def cached(home: Path) -> set[str]:
    """Names in the cache's snapshots."""
    return {p.name for p in (home / "hf" / "hub").glob("models--*/snapshots/*/*")}


def test_fetch_use_offline_list_delete(home: Path, hub: Hub, env: dict[str, str], sharded: Path) -> None:
    hub.repos[REPO] = fake_hub.read_folder(sharded) | {
        "pytorch_model.bin": b"never",
        "consolidated.00.safetensors": b"never",
        "modeling_custom.py": b"never",
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
    }
    done = paceline("pull", REPO, env=env)
    assert done.returncode == 0, done.stderr
    assert "100 %" in done.stderr and REPO in done.stdout
    assert cached(home) == set(hub.repos[REPO]) - {
        "pytorch_model.bin", "consolidated.00.safetensors", "modeling_custom.py",
    }  # fmt: skip
    offline = env | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    shown = paceline("show", REPO, env=offline)
    assert shown.returncode == 0, shown.stderr
    assert "LlamaForCausalLM" in shown.stdout and "apache-2.0" in shown.stdout and "3 files" in shown.stdout
    assert REPO in paceline("ls", env=offline).stdout
    assert "-y" in refusal(paceline("rm", REPO, env=offline), 2)
    assert "deleted" in paceline("rm", REPO, "-y", env=offline).stdout
    assert cached(home) == set()
    assert REPO in refusal(paceline("show", REPO, env=offline), 1)


def test_wrong_bytes_leave_the_cache_and_a_good_hub_mends_it(
    home: Path, hub: Hub, env: dict[str, str], llama: Path
) -> None:
    hub.repos[REPO] = fake_hub.read_folder(llama)
    hub.corrupt.add("model.safetensors")
    assert "sha256 is" in refusal(paceline("pull", REPO, env=env), 1)
    assert "model.safetensors" not in cached(home)
    hub.corrupt.clear()
    done = paceline("pull", REPO, env=env)
    assert done.returncode == 0, done.stderr


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, env: dict[str, str], llama: Path) -> None:
    hub.repos[REPO] = fake_hub.read_folder(llama)
    hub.cut_after["model.safetensors"] = 1000
    done = paceline("pull", REPO, env=env)
    assert done.returncode == 0, done.stderr
    assert hub.get_count("model.safetensors") == 2


def test_a_fetch_that_was_broken_off_is_taken_up(home: Path, hub: Hub, env: dict[str, str], sharded: Path) -> None:
    hub.repos[REPO] = fake_hub.read_folder(sharded)
    last = sorted(n for n in hub.repos[REPO] if n.endswith(".safetensors"))[-1]
    hub.corrupt.add(last)
    refusal(paceline("pull", REPO, env=env), 1)
    assert REPO not in paceline("ls", env=env).stdout
    hub.corrupt.clear()
    before = hub.get_count("config.json")
    assert paceline("pull", REPO, env=env).returncode == 0
    assert hub.get_count("config.json") == before and hub.get_count(last) == 2


def test_one_gguf_of_several(home: Path, hub: Hub, env: dict[str, str]) -> None:
    files: dict[str, bytes] = {}
    for kind in ("Q8_0", "F32"):
        path = home / f"{kind}.gguf"
        tiny_models.make_gguf(path, ggml_type=kind)
        files[f"tiny.{kind}.gguf"] = path.read_bytes()
    hub.repos[REPO] = files | {"README.md": b"no license"}
    line = refusal(paceline("pull", REPO, env=env), 1)
    assert "tiny.Q8_0.gguf" in line and f"{REPO}:TAG" in line
    done = paceline("pull", f"{REPO}:q8_0", env=env)
    assert done.returncode == 0 and "Q8_0" in done.stdout, done.stderr
    assert cached(home) == {"tiny.Q8_0.gguf"}
    assert f"{REPO}:Q8_0" in paceline("ls", env=env).stdout


def test_what_the_hub_refuses(hub: Hub, env: dict[str, str], llama: Path) -> None:
    hub.repos["org/weights-only"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    hub.repos[REPO] = fake_hub.read_folder(llama)
    hub.gated.add("org/gated")
    for name, says in (
        ("org/none", "not on the hub, or private"),
        ("org/gated", "HF_TOKEN"),
        ("org/weights-only", "no .safetensors"),
        (f"{REPO}@v9", "no revision 'v9'"),
    ):
        assert says in refusal(paceline("pull", name, env=env), 1)
    hub.status = 500
    assert "hub answered 500" in refusal(paceline("pull", REPO, env=env), 1)


def test_no_network_and_offline_mode_are_quick_and_clear(env: dict[str, str]) -> None:
    begun = time.monotonic()
    line = refusal(paceline("pull", REPO, env=env | {"HF_ENDPOINT": "http://127.0.0.1:9"}), 1)
    assert "cannot be reached" in line and "check the network" in line
    assert "HF_HUB_OFFLINE" in refusal(paceline("pull", REPO, env=env | {"HF_HUB_OFFLINE": "1"}), 1)
    assert time.monotonic() - begun < 8
