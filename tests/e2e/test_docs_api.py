"""Every example of docs/api.md, against a real server."""

import gc
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import PACELINE
from server import Server

from paceline.engine import config

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
MODEL = "smollm2:135m"


def blocks(language: str) -> list[tuple[str, str]]:
    """(heading, code) of the blocks in ``language`` that are to be run."""
    found = []
    for section in re.split(r"^##+ ", PAGE, flags=re.M)[1:]:
        heading = section.partition("\n")[0]
        for note, code in re.findall(rf"(<!-- not run.*?-->\n)?```{language}\n(.*?)```", section, re.S):
            if not note:
                found.append((heading, code))
    return found


SHELL, PYTHON = blocks("sh"), blocks("python")


@pytest.fixture(scope="module")
def documented(serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # pyright: ignore[reportMissingParameterType]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(tmp_path_factory.mktemp("home")))  # models are made and deleted in it
        with serve("--served-model-name", MODEL, "-s", "server.model_management=true") as running:
            yield running


def test_there_are_examples_in_both_languages_for_each_route() -> None:
    run = re.findall(r"^### (.*)$", PAGE, re.M)
    assert len(run) >= 11 and len(SHELL) >= 11 and len(PYTHON) >= 11
    for heading in run:
        section = PAGE.split(f"### {heading}\n")[1].split("\n##")[0]
        assert "```sh\n" in section and "```python\n" in section, heading
        for path in re.findall(r"(?:GET|POST|DELETE) (/[\w/]+)", heading):
            assert f"{ADDRESS}{path}" in section, path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("heading", "code"), SHELL, ids=[heading for heading, _ in SHELL])
def test_curl(heading: str, code: str, documented: Server, tmp_path: Path) -> None:
    strict = 'set -e -o pipefail\ncurl() { command curl -f --max-time 60 "$@"; }\n'
    script = strict + code.replace(ADDRESS, documented.url)
    env = os.environ | {"PATH": f"{Path(PACELINE).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout.lower().replace('"error":null', "").replace("errors", "")


@pytest.mark.parametrize(("heading", "code"), PYTHON, ids=[heading for heading, _ in PYTHON])
def test_python(heading: str, code: str, documented: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for name in re.findall(r"^from (\w+) import", code, re.M):
        if find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")
    scope: dict[str, object] = {}
    exec(compile(code.replace(ADDRESS, documented.url), f"docs/api.md, {heading}", "exec"), scope)
    close = getattr(scope.get("client"), "close", None)
    if close is not None:
        close()
    scope.clear()
    with warnings.catch_warnings():  # a client that cannot be closed leaves its sockets to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert heading.startswith("POST /v1/responses") or capsys.readouterr().out.strip()


def test_the_config_of_the_page_loads(tmp_path: Path) -> None:
    [(_, code)] = blocks("toml")
    (tmp_path / "server.toml").write_text(code)
    loaded = config.load(tmp_path / "server.toml", environ={})
    assert set(loaded.server.keys) == {"alice", "batch"} and loaded.server.keys["batch"].max_concurrent == 2
