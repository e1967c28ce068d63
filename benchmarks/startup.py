#!/usr/bin/env python3
"""How long `paceline serve` takes until its port answers, until /ready and until a first token; and its memory.

    python benchmarks/startup.py --model smollm2:135m --repeats 5

"Cold" is the first start with an empty cache of prepared weights (in a temporary folder); the rest are warm.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from load import Call, Target, run
from report import save, table
from server import Server, exit_on_sigterm, free_port, paceline_command


def one_start(model: str, extra: list[str]) -> dict[str, float]:
    port = free_port()
    with Server(paceline_command(model, port, extra), port) as server:
        port_s = server.wait("/live")
        ready_s = server.wait("/ready")
        call = Call("Say hello.", {"max_tokens": 4, "temperature": 0})
        reply = run(lambda: Target(server.url).stream(call))
        if reply.error:
            raise SystemExit(f"the first call failed: {reply.error}")
        memory = sum(server.memory().values())
        return {
            "port_s": port_s,
            "ready_s": ready_s,
            "first_token_s": reply.first - server.started,
            "memory_mib": memory / 2**20,
            "stop_s": server.stop(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--repeats", type=int, default=5, help="warm starts")
    parser.add_argument(
        "-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config override"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    exit_on_sigterm()
    extra = [x for o in args.overrides for x in ("-s", o)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.environ.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
        runs = [one_start(args.model, extra) for _ in range(args.repeats + 1)]
    names = list(runs[0])
    median = [statistics.median(r[n] for r in runs[1:]) for n in names]
    worst = [max(r[n] for r in runs[1:]) for n in names]

    def cells(values: list[float]) -> list[str]:
        return [f"{v:.2f}" for v in values]

    rows = [["cold", *cells(list(runs[0].values()))], ["warm median", *cells(median)], ["warm worst", *cells(worst)]]
    print(table(rows, ["start", *names]))
    if args.out:
        save(args.out, runs)


if __name__ == "__main__":
    main()
