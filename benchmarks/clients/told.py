"""What a client's program says: one line of JSON for each check, for ``benchmarks/clients.py`` to read.

Runs in the client's own environment, so it needs nothing but the standard library.
"""

import asyncio
import inspect
import json
import os
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Any

URL, KEY, MODEL = (os.environ.get(name, "") for name in ("JUDGED_URL", "JUDGED_KEY", "JUDGED_MODEL"))
FEATURES = frozenset(os.environ.get("JUDGED_FEATURES", "").split(","))
_checks: list[tuple[str, Callable[[], Any]]] = []


def check(name: str, *, needs: str = "") -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Mark a function, plain or async, as a check; it fails by raising. ``needs`` is a feature the server may lack."""

    def keep(function: Callable[[], Any]) -> Callable[[], Any]:
        if not needs or needs in FEATURES:
            _checks.append((name, function))
        return function

    return keep


def same(got: Any, wanted: Any) -> None:
    """Fail unless both are equal, and show both."""
    assert got == wanted, f"got {got!r}, wanted {wanted!r}"


def raises(kind: type[BaseException], function: Callable[[], Any]) -> Any:
    """The error that ``function`` must end with."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def tell(package: str) -> None:
    """Run all checks and print what came of them."""
    version = metadata.version(package)
    for name, function in _checks:
        begun, fault = time.monotonic(), ""
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception:
            fault = traceback.format_exc(limit=-3)
        row = {"version": version, "check": name, "fault": fault, "seconds": time.monotonic() - begun}
        print(json.dumps(row), flush=True)
