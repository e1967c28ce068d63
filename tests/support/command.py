"""Runs the installed command as a user would, in a home of its own."""

import os
import subprocess
import sys
from pathlib import Path

PACELINE = str(Path(sys.executable).parent / "paceline")


def environment(home: Path, **more: str) -> dict[str, str]:
    """Our environment, with the stores of paceline, pip and the hub below ``home``, and no network by default."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PACELINE_", "HF_", "PIP_", "HUGGING", "OLLAMA_"))}
    own = {
        "PACELINE_HOME": str(home / "paceline"),
        "HF_HOME": str(home / "hf"),
        "OLLAMA_MODELS": str(home / "ollama"),
        "HF_HUB_DISABLE_XET": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_CACHE_DIR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error",
    }
    return kept | own | more


def paceline(
    *words: str, env: dict[str, str], stdin: str | None = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """One finished command."""
    return subprocess.run([PACELINE, *words], env=env, input=stdin, capture_output=True, text=True, timeout=timeout)


def refusal(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The last stderr line of a command that failed as it should: one line of ours, no traceback."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("paceline: "), done.stderr
    return lines[-1].removeprefix("paceline: ")
