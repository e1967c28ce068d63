"""The fields ``speculation`` and ``prediction`` of a body, and what an answer tells of them. Pure functions."""

from collections.abc import Sequence
from typing import Any

from ...engine.errors import InvalidRequestError
from ...engine.types import SpeculationControl, SpeculationStats
from .errors import describe

_KEYS = ("methods", "max_draft_tokens", "detail")


def control(value: bool | dict[str, Any] | None, methods: Sequence[str], most: int) -> SpeculationControl | None:
    """What the request allows; None leaves it to the server. ``methods`` are the server's, ``most`` its drafts a step.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    if value is None or value is True:
        return None
    if value is False:
        return SpeculationControl(enabled=False)
    if not methods:
        what = "speculation names methods, but no speculator is loaded"
        raise InvalidRequestError(
            f"{what}; send true, false or null", param="speculation", code="unsupported_parameter"
        )
    unknown = next((key for key in value if key not in _KEYS), None)
    if unknown is not None:
        raise InvalidRequestError(
            f"speculation has no key {describe(unknown)}; known: {', '.join(_KEYS)}", param="speculation"
        )
    return SpeculationControl(
        methods=_methods(value.get("methods"), methods),
        max_draft_tokens=_most(value.get("max_draft_tokens"), most),
        detail=_detail(value.get("detail")),
    )


def _methods(named: Any, methods: Sequence[str]) -> list[str] | None:
    if named is None:
        return None
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise InvalidRequestError("speculation.methods must be a list of names", param="speculation.methods")
    for name in named:
        if name not in methods or named.count(name) > 1:
            raise InvalidRequestError(
                f"speculation.methods has {describe(name)}: name each of {', '.join(methods)} once at most",
                param="speculation.methods",
            )
    return named


def _most(value: Any, most: int) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most):
        raise InvalidRequestError(
            f"speculation.max_draft_tokens is {describe(value)}: must be 0 to {most}",
            param="speculation.max_draft_tokens",
        )
    return value


def _detail(value: Any) -> bool:
    if value not in (None, True, False):
        raise InvalidRequestError(
            f"speculation.detail is {describe(value)}: must be true or false", param="speculation.detail"
        )
    return bool(value)


def prediction(value: dict[str, Any] | None) -> str:
    """OpenAI's object with the text that the client expects: content as a string or as text parts.

    Raises:
        InvalidRequestError: it has another shape.
    """
    if value is None:
        return ""
    content = value.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if value.get("type") != "content" or not isinstance(parts, list) or not all(map(_is_text, parts)):
        raise InvalidRequestError(
            'prediction must be {"type": "content", "content": a text or text parts}', param="prediction"
        )
    return "".join(part["text"] for part in parts)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def metrics(stats: SpeculationStats) -> dict[str, Any]:
    """vLLM's object with our own beside it."""
    num_steps, num_accepted, num_drafted = stats.num_steps, stats.num_accepted, stats.num_draft_tokens
    told: dict[str, Any] = {
        "mean_acceptance_length": 1 + num_accepted / num_steps,
        "draft_acceptance_rate": num_accepted / num_drafted,
        "acceptance_histogram": stats.acceptance_histogram,
        "num_spec_steps": num_steps,
        "num_accepted_draft_tokens": num_accepted,
        "num_draft_tokens": num_drafted,
        "num_spec_tokens": stats.num_spec_tokens,
    }
    if stats.per_step_accepted is not None:
        told["per_step_accepted"] = stats.per_step_accepted
        told["per_step_drafted"] = stats.per_step_drafted
    by_method = {
        name: {"drafted": drafted, "accepted": stats.accepted.get(name, 0)} for name, drafted in stats.drafted.items()
    }
    ours = {
        "by_method": by_method,
        "stale_drafts": stats.stale_drafts,
        "ahead_hits": stats.ahead_hits,
        "ahead_misses": stats.ahead_misses,
        "off_reason": stats.off_reason,
    }
    return {"speculative_decoding": told, "speculation": ours}
