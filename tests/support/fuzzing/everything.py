"""All targets, each in a process of its own, and a table of what came of it: ``make fuzz``.

Of the executions of a target half are seeded mutations, which need nothing, and half are guided by coverage, where
atheris is installed.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import time
from typing import NamedTuple

from .target import names

_MODULE = "fuzzing.run"
_GRACE_S = 60.0


class Outcome(NamedTuple):
    """Of one process."""

    runs: int
    finding: str
    """Empty = none; else all that is needed to see it again."""


def seeded(name: str, runs: int, seconds: float, seed: int) -> Outcome:
    """Mutations by number."""
    status, text = _spawn([name, "--runs", str(runs), "--seconds", str(seconds), "--seed", str(seed)], seconds)
    if status == 0:
        return Outcome(json.loads(text.rstrip().rpartition("\n")[2])["runs"], "")
    return Outcome(0, _finding(status, text, f"seed {seed}"))


def guided(name: str, runs: int, seconds: float, seed: int) -> Outcome:
    """Mutations that reach new code are kept and mutated further."""
    options = ["--guided", "--runs", str(runs), "--seconds", str(seconds), "--seed", str(seed)]
    status, text = _spawn([name, *options], seconds)
    done = re.search(r"number_of_executed_units: (\d+)", text)
    wrote = re.search(r"Test unit written to (\S+)", text)
    if status == 0 and wrote is None:
        return Outcome(int(done[1]) if done else 0, "")
    again = f"python -P -m {_MODULE} {name} --input {wrote[1]}" if wrote else f"seed {seed}"
    return Outcome(0, _finding(status, text, again))


def _spawn(arguments: list[str], seconds: float) -> tuple[int, str]:
    command = [sys.executable, "-P", "-m", _MODULE, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds + _GRACE_S)
    except subprocess.TimeoutExpired as e:
        return -1, f"it hangs\n{(e.stderr or b'').decode(errors='replace')}"
    return done.returncode, (done.stderr + done.stdout).decode(errors="replace")


def _finding(status: int, text: str, again: str) -> str:
    place = text.find("FINDING: ")
    said = text[place:] if place >= 0 else f"the process ended with status {status}: {text[-2000:]}"
    return f"{said}\n({again})"


def main() -> int:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--runs", type=int, default=80_000, help="executions of each target")
    parser.add_argument("--seconds", type=float, default=900.0, help="most for each target")
    parser.add_argument("--seed", type=int, default=0, help="0 = another one each time")
    args = parser.parse_args()
    seed = args.seed or int(time.time())
    has_atheris = importlib.util.find_spec("atheris") is not None
    print(f"seed {seed}" + ("" if has_atheris else "; atheris is not installed: nothing is guided by coverage"))
    print(f"{'target':20} {'executions':>11} {'a second':>9}  findings")
    total, findings = 0, list[str]()
    for name in args.targets or names():
        began_s = time.monotonic()
        ways = [seeded, guided] if has_atheris else [seeded]
        outcomes = [way(name, args.runs // len(ways), args.seconds / len(ways), seed) for way in ways]
        runs, found = sum(o.runs for o in outcomes), [f"{name}: {o.finding}" for o in outcomes if o.finding]
        rate = runs / (time.monotonic() - began_s)
        print(f"{name:20} {runs:11,} {rate:9,.0f}  {len(found)}", flush=True)
        total, findings = total + runs, findings + found
    print(f"{'all':20} {total:11,} {'':9}  {len(findings)}")
    for finding in findings:
        print(f"\n{finding}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
