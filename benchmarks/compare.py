#!/usr/bin/env python3
"""Ours beside peers: the same prompts, fixed output lengths, engines in turn, ratios with their spread.

    python benchmarks/compare.py --llama-server PATH --vllm PATH --openvino PYTHON --out benchmarks/results/compare.json
    python benchmarks/compare.py --model qwen2.5:1.5b --llama-server PATH --concurrency 1,16 --prefill ''
    python benchmarks/compare.py --peer "other=/usr/bin/other-server --port {port} -m {gguf}"

Peers are installed by you, each where you like: --llama-server takes llama.cpp's program (it also runs with one slot,
as Ollama starts it), --vllm the command of vLLM's CPU build, --openvino the Python of an environment with
openvino-genai, --peer any other server with OpenAI's /v1/completions; {gguf} is the model's file, {folder} the same as
a Hugging Face folder. All are alive for the whole run and take turns, so that a slow minute of the machine hits each;
what an idle one burns is told. Every prompt is a new one: nobody's prefix cache helps. Speculation is off.
"""

import argparse
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent / "support"))

import hugging_face
from load import read_prompts
from peers import Contestant, Done, OpenAIServer, OpenVINO, Work, llama_server, vllm_server
from report import machine, median_spread, plot_lines, save, table
from server import exit_on_sigterm, paceline_command

from paceline.engine.store import resolve

OURS = "paceline"
WORDS_PER_TOKEN = 0.75
"""Of English, about; how many tokens a prompt has is counted by each engine."""


class Case(NamedTuple):
    """What is measured: output tokens a second for ``level`` clients, or prompt tokens a second of ``level`` tokens."""

    kind: str
    level: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.level} clients" if self.kind == "generate" else f"prompt of {self.level}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2:135m", help="a model of a GGUF file, by any name (default %(default)s)")
    add("--llama-server", metavar="PATH", help="llama.cpp's server")
    add("--vllm", metavar="PATH", help="vLLM's command")
    add("--openvino", metavar="PYTHON", help="interpreter of an environment with openvino-genai")
    add("--peer", action="append", default=[], metavar="NAME=COMMAND", help="any other server")
    add("--concurrency", default="1,8,32,64", help="clients, comma separated (default %(default)s)")
    add("--prefill", default="512,2048", help="tokens of a prompt whose answer is one token (default %(default)s)")
    add("--repeats", type=int, default=3, help="rounds (default %(default)s)")
    add("--requests", type=int, default=0, help="a round (default: one a client, at least 4)")
    add("--max-tokens", type=int, default=96)
    add("--data", type=Path, help="texts for the prompts: a .jsonl file or a folder of them (default: our own few)")
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config override for ours")
    add("--out", type=Path, help="write the figures as JSON")
    add("--plot", type=Path, help="write a PNG of tok/s by clients")
    return parser.parse_args()


def contestants(args: argparse.Namespace, work: Path) -> list[Contestant]:
    """Ours first."""
    located = resolve.locate(args.model)
    if located.kind != "gguf":
        raise SystemExit(f"{args.model}: is no GGUF file, which llama.cpp and OpenVINO need; name one")
    gguf = located.files[0]
    most = max([int(level) for level in args.concurrency.split(",") if level] or [1])
    settings = [f"scheduler.max_num_seqs={most}", *args.overrides]
    extra = [part for setting in settings for part in ("-s", setting)]
    found: list[Contestant] = [OpenAIServer(OURS, paceline_command(args.model, "{port}", extra), ready="/ready")]
    if args.llama_server:
        found += [llama_server(args.llama_server, gguf, most), llama_server(args.llama_server, gguf, 1)]
    needs_folder = bool(args.vllm) or any("{folder}" in peer for peer in args.peer)
    folder = str(hugging_face.export(located, work / "hugging-face")) if needs_folder else ""
    if args.vllm:
        found.append(vllm_server(args.vllm, folder, most))
    if args.openvino:
        found.append(OpenVINO("OpenVINO", args.openvino, gguf))
    for peer in args.peer:
        name, _, command = peer.partition("=")
        parts = [part.replace("{gguf}", gguf).replace("{folder}", folder) for part in shlex.split(command)]
        if not any("{port}" in part for part in parts):
            raise SystemExit(f"--peer {name}: its command needs {{port}} where the port goes")
        found.append(OpenAIServer(name, parts, ready="/v1/models"))
    return found


def peer_versions(args: argparse.Namespace) -> dict[str, str]:
    """What each peer says that it is, one line of it."""
    asks: dict[str, list[str]] = {}
    if args.llama_server:
        asks["llama.cpp"] = [args.llama_server, "--version"]
    if args.vllm:
        asks["vLLM"] = [args.vllm, "--version"]
    if args.openvino:
        package = "openvino-genai"
        asks["OpenVINO"] = [args.openvino, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
    found: dict[str, str] = {}
    for name, command in asks.items():
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (said.stdout + said.stderr).strip().splitlines()
        found[name] = next((line for line in lines if "version" in line), lines[-1] if lines else "says nothing")
    return found


def work_for(case: Case, turn: int, words: Sequence[str], args: argparse.Namespace) -> Work:
    """New prompts for each round and case."""
    rng = random.Random(f"{turn} {case.kind} {case.level}")
    if case.kind == "generate":
        count, length, max_tokens, clients = args.requests or max(4, case.level), 80, args.max_tokens, case.level
    else:
        count, length, max_tokens, clients = args.requests or 3, round(case.level * WORDS_PER_TOKEN), 1, 1
    prompts = [f"{rng.randrange(10**6)} " + " ".join(rng.choices(words, k=length)) for _ in range(count)]
    return Work(prompts, max_tokens, clients)


def speed(case: Case, done: Done) -> float:
    """Tokens a second of the kind that the case is about."""
    return (done.output_tokens if case.kind == "generate" else done.prompt_tokens) / done.seconds


def measure(
    engines: list[Contestant], cases: list[Case], args: argparse.Namespace, keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """Rows of all cases and engines; ``keep`` is given those there are after each case."""
    words = " ".join(read_prompts(args.data)).split()
    rows: list[dict[str, Any]] = []
    for case in cases:
        speeds: dict[str, list[float]] = {engine.name: [] for engine in engines}
        idle_s, busy_s = 0.0, 0.0
        for turn in range(args.repeats):
            for engine in engines:
                work = work_for(case, turn, words, args)
                if engine.most:
                    work = work._replace(prompts=work.prompts[: engine.most])
                before = sum(other.cpu_s() for other in engines if other is not engine)
                done = engine.play(work)
                idle_s += sum(other.cpu_s() for other in engines if other is not engine) - before
                busy_s += done.seconds
                speeds[engine.name].append(speed(case, done))
        rows += [row(case, name, speeds) for name in speeds]
        print_case(rows[-len(engines) :], idle_s / busy_s, first=len(rows) == len(engines))
        keep(rows)
    return rows


def row(case: Case, name: str, speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Figures of one engine; ratios are ours to it, round by round."""
    middle, spread = median_spread(speeds[name])
    ratios = [ours / its for ours, its in zip(speeds[OURS], speeds[name], strict=True)]
    return {
        "case": case.name,
        "kind": case.kind,
        "level": case.level,
        "engine": name,
        "tok_s": middle,
        "spread": spread,
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "rounds": speeds[name],
    }


def print_case(rows: list[dict[str, Any]], idle: float, *, first: bool) -> None:
    head = ["case", "engine", "tok/s", "±%", "ours is", "from", "to"]
    cells = [
        [r["case"], r["engine"], r["tok_s"], f"{100 * r['spread']:.0f}"]
        + [f"{r[key]:.2f} x" for key in ("ratio", "least_ratio", "most_ratio")]
        for r in rows
    ]
    lines = table(cells, head).split("\n")
    print("\n".join(lines if first else lines[2:]))
    print(f"  idle engines took {idle:.1%} of a core", flush=True)


def write(args: argparse.Namespace, ready: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """After every case: a run of many cases may be ended early."""
    if args.out:
        peers = peer_versions(args)
        model = args.model.rpartition("/")[2] if args.model.endswith(".gguf") else args.model  # of a path, the file
        save(args.out, {"model": model, "peers": peers, "ready_s": ready, "rows": rows}, quiet=True)


def main() -> None:
    args = arguments()
    exit_on_sigterm()
    kinds = {"generate": args.concurrency, "prefill": args.prefill}
    cases = [Case(kind, int(level)) for kind, levels in kinds.items() for level in levels.split(",") if level]
    with tempfile.TemporaryDirectory() as folder:
        engines = contestants(args, Path(folder))
        try:
            ready: dict[str, float] = {}
            for i, engine in enumerate(engines):
                ready[engine.name] = engine.start(Path(folder) / f"{i}.log")
                print(f"{engine.name}: ready after {ready[engine.name]:.1f} s", flush=True)
            rows = measure(engines, cases, args, lambda rows: write(args, ready, rows))
        except FileNotFoundError as e:
            raise SystemExit(f"{e.filename}: no such program; give the path of an installed one") from None
        except RuntimeError as e:
            raise SystemExit(str(e)) from None
        finally:
            for engine in engines:
                engine.stop()
    if args.plot:
        series: dict[str, list[tuple[float, float]]] = {}
        for found in rows:
            if found["kind"] == "generate":
                series.setdefault(found["engine"], []).append((found["level"], found["tok_s"]))
        plot_lines(args.plot, f"{args.model} on {machine()['cores']} cores", "clients", "output tok/s", series)


if __name__ == "__main__":
    main()
