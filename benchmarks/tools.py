#!/usr/bin/env python3
"""Tool calls by canitoolcall's scoreboard: its recorded outputs through our parsers, its probe on a server.

    python benchmarks/tools.py                                             # the recorded outputs, without a model
    python benchmarks/tools.py --url http://127.0.0.1:8000 --model NAME    # and the probe, against a running server

canitoolcall (Apache-2.0) gets an environment of its own in the cache. Its checks judge what we read: each output whole,
and in pieces of one to eight characters, which is harder than the pieces of tokens that it judges others by. Outputs of
a family that we have no format for count as unsupported. Exit status 1 if a stream differs from the whole answer, or if
the server refuses.
"""

import argparse
import json
import random
import subprocess
import sys
import venv
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from report import save, table

from paceline.actors.messages import Reading
from paceline.actors.text.response import formats
from paceline.actors.text.response.reader import OutputReader

FOLDER = Path.home() / ".local/share/paceline/benchmarks/canitoolcall"
PACKAGE = "canitoolcall==0.1.1"
SEEDS = range(1, 6)
FORMATS = {
    "Qwen/Qwen3-0.6B": "hermes", "Qwen/Qwen3-4B-Instruct-2507": "hermes", "Qwen/Qwen3-4B-Thinking-2507": "hermes",
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": "qwen3_xml", "Qwen/Qwen3-Coder-Next": "qwen3_xml",
    "Qwen/Qwen3.5-9B": "qwen3_xml", "Qwen/Qwen3.8-27B": "qwen3_xml",
    "meta-llama/Llama-3.3-70B-Instruct": "llama3_json",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral_v3", "mistralai/Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "mistralai/Devstral-Small-2507": "mistral", "mistralai/Magistral-Small-2506": "mistral",
    "mistralai/Magistral-Small-2509": "mistral", "mistralai/Ministral-3-14B-Instruct-2512": "mistral",
    "mistralai/Ministral-3-14B-Reasoning-2512": "mistral",
    "deepseek-ai/DeepSeek-V3-0324": "deepseek_v3", "deepseek-ai/DeepSeek-V3.1": "deepseek_v31",
    "google/gemma-4-31B-it": "gemma4",
    "zai-org/GLM-4.5": "glm45", "zai-org/GLM-4.7": "glm45", "zai-org/GLM-5.3": "glm45",
    "moonshotai/Kimi-K2-Instruct-0905": "kimi_k2", "moonshotai/Kimi-K2.6": "kimi_k2",
}  # fmt: skip
"""The reference model of a recorded output -> our format."""
REASONING = {"hermes": "qwen3", "qwen3_xml": "qwen3.5", "mistral": "mistral", "deepseek_v3": "deepseek_r1",
             "deepseek_v31": "deepseek_v31", "gemma4": "gemma4", "glm45": "glm45", "kimi_k2": "kimi_k2"}  # fmt: skip


def environment(folder: Path) -> Path:
    """The scoreboard's own interpreter, made on the first call."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "canitoolcall").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PACKAGE], check=True)
    return python


class Recorded:
    """The recorded outputs, read by us and judged by canitoolcall."""

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(next((folder / "lib").glob("python3*/site-packages"))))
        from canitoolcall import checks, fixtures, results  # pyright: ignore[reportMissingImports]

        self._checks, self._results = checks, results
        self._fixtures = fixtures.load_fixtures()
        self._families = fixtures.load_families()
        self._readers: dict[str, OutputReader] = {}

    def run(self) -> tuple[dict[str, Counter[str]], list[str]]:
        """Statuses by family, and the outputs that a stream reads otherwise than the whole."""
        found: dict[str, Counter[str]] = {}
        unequal: list[str] = []
        for fixture in self._fixtures:
            counts = found.setdefault(fixture.family, Counter())
            name = FORMATS.get(fixture.models[0])
            if name is None:
                counts["unsupported"] += 1
                continue
            whole = self._read(fixture, name, [fixture.raw_output])
            streams = {f"rand:{s}:8": self._read(fixture, name, pieces(fixture.raw_output, s)) for s in SEEDS}
            if any(stream != whole for stream in streams.values()):
                unequal.append(fixture.id)
            seen = self._results.Observation(whole, streams)
            rows = self._checks.run_checks(fixture, self._families[fixture.family], seen)
            status = self._checks.case_status(rows).value
            is_cut = status == "fail" and "truncated" in fixture.tags
            counts["cut" if is_cut else status] += 1
        return found, unequal

    def _read(self, fixture: Any, name: str, texts: list[str]) -> Any:
        prompt = fixture.generation_prompt
        if prompt is None:
            models = self._families[fixture.family].reference_models
            prompt = next(m.default_generation_prompt for m in models if m.repo == fixture.models[0])
        if name not in self._readers:
            thinks = REASONING.get(name, formats.NONE)
            self._readers[name] = OutputReader(formats.resolve("tools", None, name, thinks))
        parser = self._readers[name].parser(Reading(tools=[dict(t) for t in fixture.tools]), prompt)
        parts = [] if parser is None else [p for text in texts for p in parser.feed(text)] + parser.finish()
        texts_of: dict[str, str] = {"content": "" if parser else "".join(texts), "reasoning": ""}
        calls: list[list[str]] = []
        for part in parts:
            if part.kind == "call":
                calls.append([part.text, ""])
            elif part.kind == "arguments":
                calls[part.index][1] += part.text
            else:
                texts_of[part.kind] += part.text
        return self._results.ParseResult(
            content=texts_of["content"] or None,
            reasoning_content=texts_of["reasoning"] or None,
            tool_calls=tuple(self._results.ParsedToolCall(called, arguments) for called, arguments in calls),
        )


def pieces(text: str, seed: int) -> list[str]:
    """``text`` in pieces of one to eight characters."""
    rng, found, at = random.Random(seed), list[str](), 0
    while at < len(text):
        size = rng.randint(1, 8)
        found.append(text[at : at + size])
        at += size
    return found


def probe(folder: Path, url: str, model: str, timeout_s: float) -> dict[str, Any]:
    """The probe's own report; its table is printed as it is."""
    command = [folder / "bin" / "canitoolcall", "probe", "--base-url", f"{url.rstrip('/')}/v1", "--model", model,
               "--timeout", str(timeout_s), "--json", "-"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr, end="")
    return json.loads(done.stdout) if done.stdout else {}


def _is_unequal(outcome: dict[str, Any]) -> bool:
    return outcome["check"] == "stream_equals_nonstream" and outcome["status"] == "fail"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running server; without one only the recorded outputs are read")
    parser.add_argument("--model", help="the name it serves")
    parser.add_argument("--timeout", type=float, default=200.0, help="seconds for one request of the probe")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where canitoolcall is, or is put")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    environment(args.folder)
    found, unequal = Recorded(args.folder).run()
    head = ("family", "pass", "soft_pass", "cut", "fail", "unsupported")
    total = sum(found.values(), Counter())
    rows = [[name, *(counts[k] for k in head[1:])] for name, counts in found.items()]
    print(table([*rows, ["all", *(total[k] for k in head[1:])]], head))
    print("cut: the output ends within a call, of which a stream has told what there was; finish_reason is length")
    print(f"read otherwise in a stream: {', '.join(unequal) or 'none'}")
    told: dict[str, Any] = {}
    if args.url:
        told = probe(args.folder, args.url, args.model or "", args.timeout)
    if args.json:
        save(args.json, {"recorded": {k: dict(v) for k, v in found.items()}, "unequal": unequal, "probe": told})
    bad = [o for o in told.get("outcomes", []) if o["status"] == "error" or _is_unequal(o)]
    return 1 if unequal or bad or (args.url and not told) else 0


if __name__ == "__main__":
    sys.exit(main())
