"""Generated calls against a server, by schemathesis: data that fits a description and data that does not.

Each operation gets its share in rounds, each with a seed of its own, so that a run is the same again and a longer run
begins like a shorter one. Failures are collected, not shrunk: the call of each is told as a curl command.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

CHECKS = ("not_a_server_error", "content_type_conformance", "response_schema_conformance", "ignored_auth")
_ROUND = 25
_ROUND_WITHOUT_BODY = 5
"""Calls of one kind to one operation in a row. What has no body has little to vary."""


@dataclass
class Verdict:
    """What came of all calls."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    """By operation."""
    failures: dict[str, str] = field(default_factory=dict)
    """Operation and what is wrong -> the first report, with the call that shows it."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Why calls that fit the description were refused, numbers and quotations left out."""
    num_failed: int = 0
    num_cut_short: int = 0
    """Rounds of wrong calls that ended early: the generator has no rule for what it was to break. Others make up."""
    slowest_s: float = 0.0
    slowest: str = ""

    @property
    def num_cases(self) -> int:
        return sum(c.total() for c in self.statuses.values())

    @property
    def num_5xx(self) -> int:
        return sum(n for c in self.statuses.values() for status, n in c.items() if status >= 500)


def judge(
    description: dict[str, Any],
    url: str,
    *,
    key: str | None,
    num_cases: int,
    seed: int,
    change: Callable[[str, Any], Any] = lambda path, body: body,
    skip: frozenset[str] = frozenset(),
) -> Verdict:
    """Send ``num_cases`` calls to ``url``, to which the description's paths are added.

    ``change`` gets path and body of each call; ``skip`` holds paths to leave out.
    """
    import schemathesis
    from schemathesis.checks import CHECKS as KNOWN
    from schemathesis.checks import load_all_checks
    from schemathesis.core import NOT_SET
    from schemathesis.core.errors import UnsupportedSchema

    load_all_checks()
    checks = [KNOWN.get_one(name) for name in CHECKS]
    # The keys of generated calls are the judge's; that others are refused is what ``ignored_auth`` looks at.
    config = schemathesis.Config()
    config.projects.default.generation.update(with_security_parameters=False)
    schema = schemathesis.openapi.from_dict(description, config=config)
    every: Any = schema.get_all_operations()
    operations = [o for o in (found.ok() for found in every) if o.path not in skip]
    verdict, headers = Verdict(), {"Authorization": f"Bearer {key}"} if key else {}

    def call(case: Any, fits: bool) -> None:
        if case.body is not NOT_SET:
            case.body = change(case.operation.path, case.body)
        response = _one(case, url, headers, checks, verdict)
        if fits and response.status_code == 400:
            verdict.refusals[reason(response.text)] += 1

    while verdict.num_cases < num_cases:
        before = verdict.num_cases
        for operation in operations:
            for fits, strategy in _strategies(operation):
                a_round = _ROUND if operation.body else _ROUND_WITHOUT_BODY
                most = min(a_round, num_cases - verdict.num_cases)
                if most > 0:
                    try:
                        _draw(strategy, most, seed, partial(call, fits=fits))
                    except UnsupportedSchema:
                        if fits:
                            raise
                        verdict.num_cut_short += 1
            seed += 1
        if verdict.num_cases == before:
            raise SystemExit("no call could be generated from the description")
    return verdict


def _strategies(operation: Any) -> list[tuple[bool, Any]]:
    """Data that fits; and data that does not, where there is any to be wrong."""
    from schemathesis.generation import GenerationMode

    takes_data = operation.body or operation.path_parameters or operation.query or operation.headers
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if takes_data else [GenerationMode.POSITIVE]
    return [(mode is GenerationMode.POSITIVE, operation.as_strategy(generation_mode=mode)) for mode in modes]


def reason(body: str) -> str:
    """Why a call was refused, in any dialect, without its values."""
    error = json.loads(body)["error"]
    message = error if isinstance(error, str) else error["message"]  # Ollama's errors are texts
    return re.sub(r'"(?:[^"\\]|\\.)*"|-?\d+(\.\d+)?(e[+-]?\d+)?', "_", message)[:100]


def _draw(strategy: Any, num_cases: int, seed_: int, call: Callable[[Any], None]) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.errors import Unsatisfiable

    @seed(seed_)
    @settings(
        max_examples=num_cases, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(case=strategy)
    def run(case: Any) -> None:
        call(case)

    with suppress(Unsatisfiable):  # nothing can be wrong with a call that takes nothing
        run()


def _one(case: Any, url: str, headers: dict[str, str], checks: list[Any], verdict: Verdict) -> Any:
    from schemathesis.core.failures import FailureGroup

    label = case.operation.label
    begun = time.monotonic()
    response = case.call(url, headers=headers)
    took_s = time.monotonic() - begun
    verdict.statuses.setdefault(label, Counter())[response.status_code] += 1
    if took_s > verdict.slowest_s:
        verdict.slowest_s, verdict.slowest = took_s, label
    try:
        case.validate_response(response, checks, headers=headers, transport_kwargs={"headers": headers})
    except FailureGroup as group:
        verdict.num_failed += 1
        titles = ", ".join(sorted({f"{e.title}" for e in group.exceptions}))
        verdict.failures.setdefault(f"{label}: {titles}", str(group))
    return response
