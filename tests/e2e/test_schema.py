"""OpenAI's own description of its API as the judge of a real server: a few seeded calls; ``benchmarks/schema.py``
sends thousands.

Skipped where the description or schemathesis is missing: both are the judges' own, and neither is part of this project.
"""

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai_schema import MAX_N, MAX_TOKENS, capped, pinned
from schema_judge import judge, reason
from wire_client import eventually, ready

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

DESCRIPTION = Path(
    os.environ.get("PACELINE_OPENAI_SCHEMA")
    or Path(__file__).resolve().parents[2].parent / "shared" / "data" / "openai_subset.json"
)
MODEL, KEY = "judged", "k"


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    if not DESCRIPTION.is_file():
        pytest.skip("no description of OpenAI's API: set PACELINE_OPENAI_SCHEMA to one as JSON")
    return json.loads(DESCRIPTION.read_text())


def test_pins_bound_what_a_call_asks_for() -> None:
    body = {"model": "gpt-5", "n": 100, "max_completion_tokens": None, "stream": True, "messages": []}
    kept = capped("/chat/completions", body, MODEL)
    assert kept == {
        "model": MODEL, "n": MAX_N, "max_completion_tokens": MAX_TOKENS, "stream": False, "messages": []
    }  # fmt: skip
    assert capped("/completions", {"model": 5}, MODEL) == {"model": 5, "max_tokens": MAX_TOKENS}
    assert capped("/completions", [1], MODEL) == [1]


def test_reasons_are_told_without_values_in_all_dialects() -> None:
    told = 'model "x" has 3 layers'
    for error in (told, {"message": told, "type": "invalid_request_error"}):
        assert reason(json.dumps({"error": error})) == "model _ has _ layers"


def test_answers_keep_to_openais_description(serve: Any, description: dict[str, Any]) -> None:
    pytest.importorskip("schemathesis", reason="pip install 'paceline[dev]'")
    with serve("--served-model-name", MODEL, "--api-key", KEY) as server:
        before = {name: actor["pid"] for name, actor in ready(server.url, KEY)["actors"].items()}
        verdict = judge(
            pinned(description, MODEL), f"{server.url}/v1", key=KEY, num_cases=48, seed=11,
            change=partial(capped, model=MODEL), skip=frozenset(["/embeddings", "/responses"]),
        )  # fmt: skip
        assert not verdict.failures, "\n".join(verdict.failures.values())
        assert verdict.num_cases == 48 and verdict.num_5xx == 0
        statuses = sum(verdict.statuses.values(), start=Counter[int]())
        assert statuses[200] >= 5 and statuses[400] >= 5, "both sides of the door are judged"
        assert {name: actor["pid"] for name, actor in ready(server.url, KEY)["actors"].items()} == before
        eventually(lambda: ready(server.url, KEY)["free_blocks"] == ready(server.url, KEY)["total_blocks"])
