"""``paceline run`` with the real engine on a tiny model: once, from a pipe, cut short, and as a conversation."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import tiny_models
from command import PACELINE, environment, paceline

pytestmark = pytest.mark.e2e
SMALL = ["-s", "cache.num_blocks=1024", "-s", "target.num_threads=1"]
LONG = 16000
"""Output tokens that take the small model so many seconds that Ctrl-C comes in time."""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own and no network."""
    return environment(tmp_path, HF_HUB_OFFLINE="1", XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONWARNINGS="default")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama whose context holds a ``LONG`` answer."""
    return tiny_models.make_llama(tmp_path_factory.mktemp("patient") / "tiny-llama", max_position_embeddings=16384)


def actors_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_argument_and_pipe_give_the_same_answer(tiny_folder: Path, env: dict[str, str]) -> None:
    options = ["--temperature", "0", "--max-tokens", "12", *SMALL]
    first = paceline("run", str(tiny_folder), "hello", "there", *options, "--verbose", env=env)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() and first.stdout.endswith("\n")
    assert "output  12 tokens" in first.stderr and "load " in first.stderr
    piped = paceline("run", str(tiny_folder), *options, stdin="hello there\n", env=env)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, first.stdout, "")


def test_ctrl_c_ends_the_answer_and_leaves_nothing_behind(patient: Path, env: dict[str, str]) -> None:
    length = ["--max-tokens", str(LONG), "--min-tokens", str(LONG)]
    command = [PACELINE, "run", str(patient), "hello", *length, *SMALL]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(1), process.stderr.read()
        actors = actors_of(process.pid)
        assert len(actors) == 4  # the chat template has a process of its own
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and b"Traceback" not in err, err
    assert time.monotonic() - begun < 8
    assert psutil.wait_procs(actors, timeout=5)[1] == []


class Screen:
    """A command on a pseudo-terminal."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, env | {"TERM": "xterm"})

    def until(self, text: str, timeout_s: float = 30) -> str:
        """What appeared up to ``text``."""
        seen = ""
        deadline = time.monotonic() + timeout_s
        while text not in seen:
            seen += self.read(max(0.0, deadline - time.monotonic()), f"no {text!r} in {seen!r}")
        return seen

    def read(self, timeout_s: float = 30, otherwise: str = "nothing came") -> str:
        """The next bytes, few at a time, so that what follows a prompt is not swallowed with it."""
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        assert ready, otherwise
        return os.read(self._fd, 64).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def end(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        return status


def test_a_conversation_on_a_terminal(patient: Path, env: dict[str, str]) -> None:
    screen = Screen([PACELINE, "run", str(patient), "--temperature", "0", *SMALL], env)
    assert "/? for help" in screen.until(">>> ")
    screen.type("/set parameter max_tokens 5\n")
    screen.until(">>> ")
    screen.type("/set verbose\n")
    screen.until(">>> ")
    screen.type("hello\n")
    assert "output  5 tokens" in screen.until(">>> ")
    screen.type("/set parameter max_tokens 16000\n")
    screen.until(">>> ")
    screen.type("/set parameter min_tokens 16000\n")
    screen.until(">>> ")
    screen.type("tell me more\n")
    screen.until("tell me more\r\n")
    screen.read()
    screen.type("\x03")
    cut = screen.until(">>> ")
    written = re.search(r"output  (\d+) tokens", cut)
    assert written and int(written[1]) < LONG, cut
    screen.type("/show info\n")
    assert "LlamaForCausalLM" in screen.until(">>> ")
    actors = actors_of(screen.pid)
    screen.type("/bye\n")
    assert screen.end() == 0
    assert psutil.wait_procs(actors, timeout=5)[1] == []
