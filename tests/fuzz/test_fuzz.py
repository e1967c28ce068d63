"""A short run of every fuzz target: the same inputs each time, and no more of them than fit into the time.

The long run is ``make fuzz``. A failure prints the command that runs its input again.
"""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzzing.run import make_input
from fuzzing.target import load, names

SUPPORT = [str(Path(__file__).resolve().parents[1] / "support")]
RUNS, SECONDS = 20_000, 1.0


@pytest.mark.parametrize("name", names())
def test_nothing_but_our_own_errors_gets_out(name: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    limits = ["--runs", str(RUNS), "--seconds", str(SECONDS), "--note", str(note)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(SUPPORT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fuzzing.run", name, *limits], capture_output=True, env=environ, timeout=120
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    last = note.read_text() if note.exists() else "none"
    assert done.returncode == 0, f"{name}: status {done.returncode} within 64 inputs from number {last}\n{said[-4000:]}"
    assert int(said.partition('"runs": ')[2].partition(",")[0]) >= 100, f"too slow to find anything: {said}"


@pytest.mark.parametrize("name", ["http_body", "gguf_header", "wire_frame"])
def test_an_input_follows_from_its_number(name: str) -> None:
    target = load(name)
    first = [make_input(name, target, 7, n) for n in range(len(target.seeds), len(target.seeds) + 40)]
    assert first == [make_input(name, target, 7, n) for n in range(len(target.seeds), len(target.seeds) + 40)]
    assert len(set(first)) > 30


def test_mutations_do_not_touch_what_they_are_made_of() -> None:
    for name in names():
        target = load(name)
        before = list(target.seeds)
        for n in range(50):
            target.mutate(before[n % len(before)], Random(n))
        assert list(target.seeds) == before, name
