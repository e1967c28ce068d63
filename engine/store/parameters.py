"""Ollama's model parameters: their names, types and bounds, and what they are called here. A table and no I/O."""

import difflib
from math import isfinite
from typing import Any, NamedTuple


class _Range(NamedTuple):
    """A parameter of Ollama's with an equivalent."""

    ours: str
    kind: type[int] | type[float] | type[str]
    least: float = 0
    most: float = 0
    above: bool = False
    """``least`` itself is not allowed."""


_INT = 2**31 - 1
PARAMETERS: dict[str, _Range] = {
    "temperature": _Range("temperature", float, 0, 2),
    "top_k": _Range("top_k", int, -1, _INT),
    "top_p": _Range("top_p", float, 0, 1, above=True),
    "min_p": _Range("min_p", float, 0, 1),
    "repeat_penalty": _Range("repetition_penalty", float, 0, 3e38, above=True),
    "presence_penalty": _Range("presence_penalty", float, -2, 2),
    "frequency_penalty": _Range("frequency_penalty", float, -2, 2),
    "seed": _Range("seed", int, -(2**63), 2**63 - 1),
    "num_predict": _Range("max_tokens", int, -2, _INT),
    "stop": _Range("stop", str),
    "num_ctx": _Range("max_model_len", int, 1, _INT),
    "draft_num_predict": _Range("max_draft_tokens", int, 0, 64),
}
NO_EFFECT = {
    "repeat_last_n": "penalties count the whole output",
    "typical_p": "there is no such filter",
    "tfs_z": "there is no such filter",
    "mirostat": "there is no such sampler",
    "mirostat_eta": "there is no such sampler",
    "mirostat_tau": "there is no such sampler",
    "penalize_newline": "a newline is penalised like any other token",
    "num_keep": "a prompt is never cut",
    "num_batch": "see scheduler.max_num_batched_tokens",
    "num_thread": "see target.num_threads",
    **dict.fromkeys(("num_gpu", "main_gpu", "low_vram"), "see target.device"),
    **dict.fromkeys(("numa", "use_mmap", "use_mlock", "vocab_only", "f16_kv", "logits_all", "num_gqa",
                     "rope_frequency_base", "rope_frequency_scale", "embedding_only"), "the engine decides that"),
}  # fmt: skip
"""Ollama's other parameters, and why they change nothing here."""
MAX_STOPS = 64
_MAX_STOP_CHARS = 256
_UNBOUND = ("max_tokens", "seed")
"""Ours that None takes back, which is -1 in Ollama's words."""
_OLLAMAS_NAMES = {known.ours: name for name, known in PARAMETERS.items()}


def parameter(name: str, text: object) -> tuple[str, Any]:
    """(our name, value) of one of Ollama's ``PARAMETERS``; the value is None where it means "no bound".

    Raises:
        ValueError: no such parameter, or a value outside its range; one line without the place.
    """
    known = PARAMETERS.get(name)
    if known is None:
        near = difflib.get_close_matches(name, [*PARAMETERS, *NO_EFFECT], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PARAMETERS)}"
        raise ValueError(f"unknown parameter {name[:60]!r}; {hint}")
    if known.kind is str:
        if not isinstance(text, str) or not 1 <= len(text) <= _MAX_STOP_CHARS:
            raise ValueError(f"{name} must be text of 1 to {_MAX_STOP_CHARS} characters")
        return known.ours, text
    value = _number(name, text, known.kind)
    if not known.least <= value <= known.most or (known.above and value == known.least):
        bound = f"above {known.least:g}" if known.above else f"{known.least:g} or more"
        raise ValueError(f"{name} is {str(text)[:40]}: must be {bound}, and at most {known.most:g}")
    if known.ours in _UNBOUND and (value < 1 if known.ours == "max_tokens" else value == -1):
        return known.ours, None
    return known.ours, max(0, value) if known.ours == "top_k" else value


def _number(name: str, given: object, kind: type) -> Any:
    """``40``, ``0.7``, or the same as text."""
    try:
        value = float(given) if isinstance(given, str) else given
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError
        if kind is int:
            if value != int(value):
                raise ValueError
            return int(given) if isinstance(given, str) and given.lstrip("+-").isdigit() else int(value)
        return float(value)
    except (ValueError, OverflowError):
        wanted = "an integer" if kind is int else "a number"
        raise ValueError(f"{name} is {str(given)[:40]}: must be {wanted}") from None


def in_ollamas_words(ours: dict[str, Any]) -> list[tuple[str, Any]]:
    """(Ollama's name, value) of defaults by our names; one for each stop, none for what Ollama has no name for."""
    found: list[tuple[str, Any]] = []
    for name, value in ours.items():
        if value is None and name in _UNBOUND:
            value = -1
        if name in _OLLAMAS_NAMES and value is not None:
            found += [(_OLLAMAS_NAMES[name], v) for v in (value if isinstance(value, list) else [value])]
    return found
