#!/usr/bin/env python3
"""Structured output: is it always valid, does it cost speed, can a hostile schema hurt others?

20 schemas with 10 seeds each, without speculation and with it: valid by jsonschema, and the same text:
    python benchmarks/structured.py valid
Clients with a schema against as many without, same prompts, same number of output tokens, in turn:
    python benchmarks/structured.py speed --concurrency 32 --repeats 3
Shapes meant to do harm while others stream: time to their answer, and the longest gap of the streams meanwhile:
    python benchmarks/structured.py hostile

The status is 1 if an output is not valid, a text differs, a call fails, or --least is not reached.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from hostile import shapes
from load import Call, Reply, Target, closed_loop, read_prompts, run
from report import median_spread, save, summary, table
from server import Server, exit_on_sigterm, free_port, paceline_command

SCHEMAS = Path(__file__).resolve().parent / "data" / "schemas.json"
PLAIN = ["speculation.methods=[]", "speculation.forced_tokens=false"]
SPECULATING = ['speculation.methods=["suffix"]', 'speculation.policy="fixed"', "speculation.max_draft_tokens=6"]
"""Fixed: drafts are verified whether they pay or not."""
LONG: dict[str, Any] = {
    "type": "array",
    "minItems": 400,
    "items": {
        "type": "object",
        "properties": {
            "title": {"type": "string", "minLength": 8},
            "text": {"type": "string", "minLength": 60},
            "score": {"type": "integer", "minimum": 0, "maximum": 100},
            "tags": {"type": "array", "items": {"enum": ["new", "old", "good", "bad"]}, "maxItems": 3},
        },
        "required": ["title", "text", "score", "tags"],
        "additionalProperties": False,
    },
}
"""Keeps a model writing for as long as it may."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["valid", "speed", "hostile"])
    add = parser.add_argument
    add("--model", default="smollm2:135m")
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="for all servers")
    add("--schemas", type=Path, default=SCHEMAS, help="valid: a JSON list of {name, prompt, schema}")
    add("--seeds", type=int, default=10, help="valid: runs of each schema; the first is greedy")
    add("--temperature", type=float, default=0.8)
    add("--concurrency", type=int, default=0, help="clients (default: 8, speed 32, hostile 8)")
    add("--repeats", type=int, default=3, help="speed: rounds")
    add("--calls", type=int, default=1, help="speed: calls of each client in a round")
    add("--max-tokens", type=int, default=0, help="bound on an answer (default: 512; speed 128; hostile 200)")
    add("--least", type=float, default=0.0, help="speed: the ratio that must be reached")
    add("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args()


@contextlib.contextmanager
def serving(args: argparse.Namespace, *options: str) -> Iterator[Target]:
    """A ready server; its log is shown if it does not come."""
    port = free_port()
    told = [word for option in (*options, *args.overrides) for word in ("-s", option)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with Server(paceline_command(args.model, port, told), port, log=log) as server:
            try:
                server.wait()
            except RuntimeError as e:
                raise SystemExit(f"{e}\n{log.read_text()[-2000:]}") from e
            yield Target(server.url)


def shaped(schema: Any) -> dict[str, Any]:
    """The fields that ask for it."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


# --- valid ------------------------------------------------------------------------------------------------------------


def valid(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Every schema with every seed, from a server that guesses nothing and from one that speculates, twice."""
    asked = json.loads(args.schemas.read_text())
    calls = [
        Call(entry["prompt"], shaped(entry["schema"]) | {
            "max_tokens": args.max_tokens or 512, "temperature": args.temperature if seed else 0.0, "seed": seed,
        }, name=f"{i}/{seed}")
        for i, entry in enumerate(asked) for seed in range(args.seeds)
    ]  # fmt: skip
    replies: dict[str, dict[str, Reply]] = {}
    seconds: dict[str, float] = {}
    for name, options in (("off", PLAIN), ("on", SPECULATING)):
        with serving(args, *options) as target:
            for again in (name,) if name == "off" else (name, f"{name}, again"):  # then the drafter knows the texts
                began_s = time.monotonic()
                answers = run(lambda t=target: closed_loop(t, calls, args.concurrency or 8))
                seconds[again] = time.monotonic() - began_s
                replies[again] = {reply.name: reply for reply in answers}
    rows, is_good = [], True
    for i, entry in enumerate(asked):
        row: list[Any] = [entry["name"]]
        for answers in replies.values():
            mine = [answers[f"{i}/{seed}"] for seed in range(args.seeds)]
            wrong = [fault for reply in mine if (fault := fault_of(reply, entry["schema"]))]
            same = sum(reply.text == replies["off"][reply.name].text for reply in mine)
            row += [f"{len(mine) - len(wrong)}/{len(mine)}", f"{same}/{len(mine)}"]
            is_good &= not wrong and same == len(mine)
            for fault in wrong[:1]:
                print(f"{entry['name']}: {fault}", file=sys.stderr)
        row += [sum(answers.output_tokens for answers in (replies["off"][f"{i}/{s}"] for s in range(args.seeds)))]
        rows.append(row)
    head = ["schema", *(f"{what}, {name}" for name in replies for what in ("valid", "same")), "tokens"]
    print(table(rows, head))
    print(", ".join(f"{name}: {took_s:.1f} s" for name, took_s in seconds.items()))
    return {"rows": [dict(zip(head, row, strict=True)) for row in rows], "seconds": seconds}, is_good


def fault_of(reply: Reply, schema: Any) -> str:
    """What is wrong with an answer; empty = nothing."""
    import jsonschema

    if reply.error:
        return reply.error
    try:
        jsonschema.validate(json.loads(reply.text), schema, jsonschema.Draft202012Validator)
    except (ValueError, jsonschema.ValidationError) as e:
        return f"{str(e).splitlines()[0]}: {reply.text[:300]!r}"
    return ""


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Rounds with a schema and without, in turn, on one server."""
    clients, most = args.concurrency or 32, args.max_tokens or 128
    prompts = read_prompts(None)
    fields = {"max_tokens": most, "temperature": args.temperature, "ignore_eos": True}
    kinds: dict[str, dict[str, Any]] = {"free": fields, "schema": fields | shaped(LONG)}
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    fault = ""
    with serving(args) as target:
        for number in range(args.repeats + 1):  # the first is to warm up
            for kind, asked in kinds.items():
                calls = [
                    Call(prompts[i % len(prompts)], asked | {"seed": 1000 * number + i})
                    for i in range(clients * args.calls)
                ]
                replies: list[Reply] = run(lambda c=calls: closed_loop(target, c, clients))
                fault = fault or next((r.error for r in replies if r.error), "")
                short = sum(reply.output_tokens != most for reply in replies)
                fault = fault or (f"{short} answers of {kind} are not {most} tokens long" if short else "")
                figures = summary(replies)
                print(f"round {number}, {kind}: {figures['output_tok_s']:.1f} tok/s", file=sys.stderr)
                if number:
                    rounds[kind].append(figures)
    ratios = [
        mine["output_tok_s"] / free["output_tok_s"] for mine, free in zip(rounds["schema"], rounds["free"], strict=True)
    ]
    rows = []
    for kind, of in rounds.items():
        mid, spread = median_spread([each["output_tok_s"] for each in of])
        rows.append([kind, mid, f"{100 * spread:.0f}", *(
            statistics.median(each[column] for each in of) for column in ("ttft_p50_ms", "itl_p50_ms", "itl_p99_ms")
        )])  # fmt: skip
    print(table(rows, [f"{clients} clients", "tok/s", "±%", "TTFT p50 ms", "ITL p50 ms", "p99"]))
    ratio = rows[1][1] / rows[0][1]
    print(f"with a schema / without: {ratio:.3f}; by round {', '.join(f'{r:.3f}' for r in ratios)}")
    if fault:
        print(fault, file=sys.stderr)
    return {"ratio": ratio, "ratios": ratios, "rounds": rounds}, not fault and ratio >= args.least


# --- hostile ----------------------------------------------------------------------------------------------------------


def hostile(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Each shape twice in a row, while others stream."""
    with serving(args) as target:
        rows, fault = run(lambda: _disturbed(target, args))
    print(table(rows, ["shape", "answer", "after s", "longest gap ms", "tok/s"]))
    if fault:
        print(fault, file=sys.stderr)
    return {"rows": rows}, not fault


async def _disturbed(target: Target, args: argparse.Namespace) -> tuple[list[list[Any]], str]:
    prompts = read_prompts(None)
    await closed_loop(target, [Call(p, {"max_tokens": 16}) for p in prompts[:4]], 4)
    rows: list[list[Any]] = []
    faults: list[str] = []
    attacks = {"(nobody)": None} | shapes()
    for name, make in attacks.items():
        fields = {"max_tokens": args.max_tokens or 200, "ignore_eos": True}
        calls = [Call(prompts[i % len(prompts)], fields) for i in range(args.concurrency or 8)]
        streams = [asyncio.create_task(target.stream(call)) for call in calls]
        await asyncio.sleep(1.0)
        answers: list[Reply] = []
        for number in range(2 if make else 0):
            call = Call("Answer.", {"max_tokens": 8} | (make(number) if make else {}))
            answers.append(await target.stream(call))
        others = list(await asyncio.gather(*streams))
        faults += [reply.error for reply in others if reply.error]
        told = {(answer.error or f"{answer.output_tokens} tokens")[:60] for answer in answers}
        if any(word in (answer.error or "") for answer in answers for word in ("HTTP 5", "EOF", "Connection")):
            faults.append(f"{name}: {told}")
        took_s = max((answer.ended - answer.started for answer in answers), default=0.0)
        gap_ms = 1e3 * max(gap for reply in others for gap in reply.gaps)
        rows.append([name, min(told, default=""), f"{took_s:.2f}", f"{gap_ms:.0f}", summary(others)["output_tok_s"]])
        print(*rows[-1], sep=", ", file=sys.stderr)
    return rows, faults[0] if faults else ""


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    figures, is_good = {"valid": valid, "speed": speed, "hostile": hostile}[args.part](args)
    if args.out:
        save(args.out, figures)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
