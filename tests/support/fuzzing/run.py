"""One target in this process: ``python -P -m fuzzing.run TARGET``. Ends at the first finding, with status 1.

Without more, input n is a function of (target, seed, n) alone: a good input is picked and changed. ``--only n`` runs
it again.
With ``--guided``, atheris picks by coverage instead; its findings are files, which ``--input FILE`` runs again.
"""

import argparse
import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from .bounds import Bounded, limit_memory
from .target import Target, load


def make_input(name: str, target: Target, seed: int, number: int) -> bytes:
    """Input ``number``: the seeds as they are, then mutations."""
    if number < len(target.seeds):
        return target.seeds[number]
    rng = Random(f"{name}:{seed}:{number}")
    data = rng.choice(target.seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = target.mutate(data, rng)
    return data[: target.most_bytes]


def run_seeded(name: str, args: argparse.Namespace) -> int:
    """Inputs in turn until there are ``--runs`` of them or the time is up."""
    target = load(name)
    limit_memory()
    bounded = Bounded(target)
    end_s = time.monotonic() + args.seconds
    numbers = range(args.runs) if args.only is None else [args.only]
    note = Path(args.note) if args.note else None
    began_s, done = time.monotonic(), 0
    for number in numbers:
        data = make_input(name, target, args.seed, number)
        if note is not None and number % 64 == 0:
            note.write_text(str(number))  # if the process dies without a word, its last inputs are known
        try:
            bounded(data)
        except BaseException as e:
            again = f"python -P -m fuzzing.run {name} --seed {args.seed} --only {number}"
            return _report(e, data, again)
        done += 1
        if time.monotonic() > end_s:
            break
    elapsed_s = time.monotonic() - began_s
    print(json.dumps({"target": name, "runs": done, "refused": bounded.num_refused, "seconds": round(elapsed_s, 2)}))
    return 0


def run_guided(name: str, args: argparse.Namespace) -> int:
    """libFuzzer's loop; half of the mutations are the target's own. Never returns."""
    atheris: Any = import_module("atheris")  # where there is none, nobody asks for this
    with atheris.instrument_imports(include=["paceline"], enable_loader_override=False):
        target = load(name)
    bounded = Bounded(target)
    artifacts, corpus = Path(args.artifacts), Path(args.corpus, name)
    for folder in (artifacts, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(target.seeds):
        (corpus / f"seed-{i}").write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if not data or rng.random() < 0.5:
            return atheris.Mutate(data, most)
        return target.mutate(bytes(data), rng)[:most]

    options = {
        "runs": args.runs,
        "max_total_time": int(args.seconds),
        "seed": args.seed or 1,
        "max_len": target.most_bytes,
        "artifact_prefix": f"{artifacts}/{name}-",
        "rss_limit_mb": 2048,
        "timeout": 20,
        "print_final_stats": 1,
    }
    flags = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], bounded, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def run_file(name: str, path: str) -> int:
    """One input from a file."""
    target = load(name)
    data = Path(path).read_bytes()
    try:
        Bounded(target)(data)
    except BaseException as e:
        return _report(e, data, f"python -P -m fuzzing.run {name} --input {path}")
    print(f"{name}: nothing wrong with {path}")
    return 0


def _report(error: BaseException, data: bytes, again: str) -> int:
    traceback.print_exception(error)
    shown = data if len(data) <= 2000 else data[:2000] + b"..."
    print(f"FINDING: {type(error).__name__}: {str(error)[:300]}\ninput: {shown!r}\nagain: {again}", file=sys.stderr)
    return 1


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--note", help="a file that is told the number of the input")
    parser.add_argument("--input", help="run the input in this file")
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--artifacts", default="build/fuzz/findings")
    parser.add_argument("--corpus", default="build/fuzz/corpus")
    args = parser.parse_args()
    os.environ["RUST_BACKTRACE"] = "0"  # a panic that is refused is worth no pages of it
    if args.input:
        return run_file(args.target, args.input)
    return (run_guided if args.guided else run_seeded)(args.target, args)


if __name__ == "__main__":
    sys.exit(main())
