"""lm-eval against a server, on two small tasks of ours, its loglikelihoods held against the model's own logits."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from direct_logits import Scorer

TASKS = Path(__file__).resolve().parent.parent / "clients" / "tasks"
TOLERANCE = 1e-3
"""Of a sum of log-probabilities. The sums differ by how floats are rounded on the way through JSON only."""


def rows(python: Path, url: str, key: str, model: str, score: Scorer, timeout_s: float = 600) -> list[dict[str, Any]]:
    """A row for each check, as a client's program tells it."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for file in TASKS.iterdir():
            (out / file.name).write_text(file.read_text().replace("FOLDER", folder))
        fault = _run(python, out, url, key, model, timeout_s)
        version = subprocess.run(
            [str(python), "-c", "from importlib import metadata; print(metadata.version('lm_eval'))"],
            capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        common = {"version": version, "seconds": time.monotonic() - begun}
        checks: list[tuple[str, Callable[[], str]]] = [
            ("loglikelihood of 48 continuations = direct logits", lambda: _loglikelihoods(out, url, key, score)),
            ("generate_until of 12 prompts stops", lambda: _generations(out)),
        ]
        return [common | _told(name, check, fault) for name, check in checks]


def _run(python: Path, out: Path, url: str, key: str, model: str, timeout_s: float) -> str:
    """Run both tasks, batched and several at once; what went wrong."""
    told = f"model={model},base_url={url}/v1/completions,auth_token={key},num_concurrent=3,max_length=1024"
    command = [str(python), "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", told]
    command += ["--include_path", str(out), "--tasks", "paceline_facts,paceline_finish", "--batch_size", "4"]
    command += ["--log_samples", "--output_path", str(out / "results"), "--seed", "1234"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hf"), "OPENAI_API_KEY": key}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=os.environ | offline)
    return "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:]) if done.returncode else ""


def _samples(out: Path, task: str) -> list[dict[str, Any]]:
    [file] = (out / "results").rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def _loglikelihoods(out: Path, url: str, key: str, score: Scorer) -> str:
    num_right, num_scored, largest = 0, 0, 0.0
    for sample in _samples(out, "paceline_facts"):
        likelihoods = []
        for choice, (answer,) in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            told, is_greedy = float(answer[0]), answer[1] in (True, "True")
            context = sample["doc"]["question"]
            # As lm-eval splits them: blanks at the context's end belong to the continuation.
            ids, num_context = _tokens(url, key, context + choice), len(_tokens(url, key, context))
            direct, is_direct_greedy = score(ids, num_context)
            largest = max(largest, abs(told - direct))
            assert abs(told - direct) < TOLERANCE, f"{choice!r} after {context!r}: lm-eval {told}, direct {direct}"
            assert is_greedy == is_direct_greedy, f"{choice!r} after {context!r}: greedy {is_greedy}"
            likelihoods.append(told)
            num_scored += 1
        num_right += likelihoods.index(max(likelihoods)) == sample["doc"]["answer"]
    assert num_scored == 48, f"{num_scored} continuations were scored"
    assert num_right >= 8, f"the model found {num_right} of 12 facts: fewer than any sound one"
    return f"largest difference {largest:.0e}, {num_right} of 12 right"


def _generations(out: Path) -> str:
    answers = [sample["resps"][0][0] for sample in _samples(out, "paceline_finish")]
    assert len(answers) == 12 and sum(bool(a.strip()) for a in answers) >= 10, answers
    assert not any("\n" in a or "." in a for a in answers), answers
    return f"{sum(map(len, answers))} characters"


def _tokens(url: str, key: str, text: str) -> list[int]:
    head = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    body = json.dumps({"prompt": text, "add_special_tokens": False}).encode()
    with urlopen(Request(f"{url}/tokenize", body, head), timeout=30) as answer:
        return json.load(answer)["tokens"]


def _told(name: str, check: Callable[[], str], fault: str) -> dict[str, str]:
    note = ""
    try:
        note = "" if fault else check()
    except (AssertionError, ValueError, KeyError) as e:
        fault = f"{type(e).__name__}: {e}"
    return {"check": f"{name} ({note})" if note else name, "fault": fault}
