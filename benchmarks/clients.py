#!/usr/bin/env python3
"""Do the official clients work against a running server? Each runs a program of its own in an environment of its own.

    python benchmarks/clients.py                               # starts a server of smollm2:135m
    python benchmarks/clients.py --url http://127.0.0.1:8000 --key KEY --only openai-node,ollama

Clients: openai (Python and Node), anthropic, ollama, langchain-openai, and lm-eval, whose loglikelihoods are compared
with the model's own logits, computed in this process. Environments are made on first use, in a cache folder, from PyPI
and npm. The status is 1 if one check fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.append(str(Path(__file__).resolve().parent / "support"))

import direct_logits
import environments
import lm_eval_run
from report import save, table
from server import Server, exit_on_sigterm, free_port, paceline_command

PROGRAMS = Path(__file__).resolve().parent / "clients"
PYTHON = {
    "openai": ("openai_python.py", ["openai==3.57.0"]),
    "anthropic": ("anthropic_python.py", ["anthropic==2.14.0"]),
    "ollama": ("ollama_python.py", ["ollama==0.6.3"]),
    "langchain-openai": ("langchain_openai_python.py", ["langchain-openai==1.7.4"]),
}
"""Client -> its program and what is installed for it."""
NODE = {"openai-node": ("openai_node.mjs", ["openai@7.57.0"])}
LM_EVAL = "lm-eval"
LM_EVAL_PACKAGES = ["lm-eval[api]==0.4.13"]
CLIENTS = [*PYTHON, *NODE, LM_EVAL]
KEY = "a-key-for-the-judges"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2:135m", help="what is served; direct logits come from it (default %(default)s)")
    add("--url", help="a server that runs already, its key given by --key")
    add("--key", default=KEY, help="API key of the server")
    add("--only", default=",".join(CLIENTS), help="clients, comma separated (default: all)")
    add("--with", dest="features", default="", help="what else to check, comma separated: embeddings")
    add("--cache", type=Path, default=environments.cache_folder(), help="environments (default %(default)s)")
    add("--timeout", type=float, default=600, help="seconds for one client")
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config override of the server")
    add("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    args.only = [name for name in args.only.split(",") if name]
    if unknown := [name for name in args.only if name not in CLIENTS]:
        parser.error(f"--only {unknown[0]}: the clients are {', '.join(CLIENTS)}")
    return args


def served_model(url: str, key: str) -> str:
    """The name clients have to send."""
    with urlopen(Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}), timeout=30) as answer:
        return json.load(answer)["data"][0]["id"]


def rows_of(client: str, args: argparse.Namespace, url: str, model: str) -> list[dict[str, Any]]:
    """What came of each check of one client."""
    if client == LM_EVAL:
        python = environments.python(args.cache, LM_EVAL, LM_EVAL_PACKAGES)
        return lm_eval_run.rows(python, url, args.key, model, direct_logits.scorer(args.model), args.timeout)
    told = {"JUDGED_URL": url, "JUDGED_KEY": args.key, "JUDGED_MODEL": model, "JUDGED_FEATURES": args.features}
    with ExitStack() as stack:
        if client in PYTHON:
            program, packages = PYTHON[client]
            command = [str(environments.python(args.cache, client, packages)), str(PROGRAMS / program)]
        else:
            program, packages = NODE[client]
            folder = environments.node(args.cache, client, packages)
            # Node looks for packages beside the program, wherever it is called from.
            beside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder))) / program
            beside.write_bytes((PROGRAMS / program).read_bytes())
            command = ["node", str(beside)]
        begun = time.monotonic()
        done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=args.timeout)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        end = "\n".join(done.stderr.strip().splitlines()[-5:])
        rows.append({"version": "", "check": "the program", "fault": end, "seconds": time.monotonic() - begun})
    return rows


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    with ExitStack() as stack:
        url = args.url.rstrip("/").removesuffix("/v1") if args.url else ""
        if not url:
            port = free_port()
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            extra = ["--api-key", args.key, *(part for o in args.overrides for part in ("-s", o))]
            server = stack.enter_context(Server(paceline_command(args.model, port, extra), port, log=log))
            server.wait()
            url = server.url
        model = served_model(url, args.key)
        found = {client: rows_of(client, args, url, model) for client in args.only}
    flat = [{"client": client, **row} for client, rows in found.items() for row in rows]
    cells = [
        [r["client"], r["version"], r["check"], "FAIL" if r["fault"] else "pass", f"{r['seconds']:.1f}"] for r in flat
    ]
    for row in flat:
        if row["fault"]:
            print(f"--- {row['client']}, {row['check']}\n{row['fault']}\n")
    print(table(cells, ["client", "version", "checked", "result", "s"]))
    num_failed = sum(bool(r["fault"]) for r in flat)
    print(f"{len(flat) - num_failed} of {len(flat)} checks passed")
    if args.out:
        save(args.out, flat)
    return 1 if num_failed or not flat else 0


if __name__ == "__main__":
    sys.exit(main())
