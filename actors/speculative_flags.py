"""vLLM's flags of speculation, ``--speculative-config '{"method": ...}'`` and its short forms, as config overrides.

Standard library only, because the help must be there at once. What an override says is checked with the config.
"""

import argparse
import json
from typing import Any

_METHODS = {"eagle3": "eagle"}  # that go by another name here
_RULES = {"standard": "token", "block": "block"}
_NGRAM = {"prompt_lookup_min": "min_match", "prompt_lookup_max": "max_match"}
_SUFFIX = {
    "suffix_decoding_max_tree_depth": "max_depth",
    "suffix_decoding_max_cached_requests": "global_requests",
    "suffix_decoding_max_spec_factor": "max_factor",
    "suffix_decoding_min_token_prob": "min_token_prob",
}
_TABLE = "num_speculative_tokens_per_batch_size"
_KNOWN = ("method", "model", "num_speculative_tokens", "rejection_sample_method", _TABLE, *_NGRAM, *_SUFFIX)


def overrides(wish: dict[str, Any]) -> list[str]:
    """``key=value`` in TOML for what vLLM's config object asks for.

    Raises:
        ValueError: a key that has no meaning here, or a value that cannot be mapped; one line.
    """
    unknown = next((key for key in wish if key not in _KNOWN), None)
    if unknown is not None:
        raise ValueError(f"key {unknown!r} is not supported; known: {', '.join(_KNOWN)}")
    method, model = _method(wish), wish.get("model")
    found: dict[str, Any] = {"speculation.methods": [method]}
    if model is not None and method not in ("ngram", "suffix"):
        found[f"speculation.{method}.model"] = model
    if "num_speculative_tokens" in wish:
        found["speculation.max_draft_tokens"] = wish["num_speculative_tokens"]
    if "rejection_sample_method" in wish:
        name = wish["rejection_sample_method"]
        if name not in _RULES:
            raise ValueError(f"rejection_sample_method {name!r}: use {' or '.join(_RULES)}, or leave it out")
        found["speculation.rule"] = _RULES[name]
    if _TABLE in wish:
        found |= {"speculation.policy": "table", "speculation.table": wish[_TABLE]}
    for owner, names in (("ngram", _NGRAM), ("suffix", _SUFFIX)):
        for key in names.keys() & wish.keys():
            if owner != method:
                raise ValueError(f"key {key!r} belongs to method {owner}, and the method is {method}; leave it out")
            found[f"speculation.{owner}.{names[key]}"] = wish[key]
    return [f"{key}={json.dumps(value)}" for key, value in found.items()]


def _method(wish: dict[str, Any]) -> str:
    """As named; else what the other keys are about."""
    method = wish.get("method")
    if method is None:
        if "model" not in wish and not _NGRAM.keys() & wish.keys():
            raise ValueError("names no method; add one, such as suffix, ngram or draft_model")
        return "draft_model" if wish.get("model") not in (None, "ngram", "[ngram]") else "ngram"
    if not isinstance(method, str):
        raise ValueError(f"method {method!r}: must be a name, such as suffix")
    return _METHODS.get(method, method)


class Speculative(argparse.Action):
    """Collects the flags of speculation, in any order, and keeps ``overrides`` in step with them."""

    def __init__(self, option_strings: list[str], dest: str, key: str, **options: Any) -> None:
        """``key``: the one of vLLM's object that the flag sets; empty = the flag has the object itself."""
        super().__init__(option_strings, "overrides", **options)
        self.key = key

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        wish, before = getattr(namespace, "speculative", ({}, []))
        try:
            wish = wish | ({self.key: values} if self.key else _parse(values))
            found = overrides(wish) if wish.keys() - {"num_speculative_tokens"} else _depth(wish)
        except ValueError as e:
            raise argparse.ArgumentError(self, str(e)) from e
        namespace.speculative = wish, found
        namespace.overrides = [item for item in namespace.overrides or [] if item not in before] + found


class DraftModel(argparse.Action):
    """A draft model behind text that is looked up: where nothing stood before, the model drafts."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.overrides = [
            *(namespace.overrides or []),
            'speculation.methods=["suffix", "draft_model"]',
            f"speculation.draft_model.model={json.dumps(values)}",
        ]


def add_speculative_flags(parser: argparse.ArgumentParser, *, everything: bool) -> None:
    """``--draft-model``, ``--speculative-config`` and vLLM's short forms."""
    text = "small model of the same family that drafts for this one; the text stays the same"
    parser.add_argument("--draft-model", dest="overrides", action=DraftModel, metavar="NAME", help=text)
    hidden = argparse.SUPPRESS
    for name, key, kind, text in (
        ("--speculative-config", "", str, "how to speculate, as vLLM's JSON object"),
        ("--spec-method", "method", str, "suffix, ngram, draft_model, ..."),
        ("--spec-model", "model", str, "the model that the method needs"),
        ("--spec-tokens", "num_speculative_tokens", int, "most drafts of a step"),
    ):
        shown = text if everything else hidden
        meta = "JSON" if not key else key.rsplit("_", 1)[-1].upper()
        parser.add_argument(name, action=Speculative, key=key, type=kind, metavar=meta, help=shown)


def _parse(text: str) -> dict[str, Any]:
    try:
        wish = json.loads(text)
    except json.JSONDecodeError as e:
        raise ValueError(f"is no JSON: {e}; quote the object for the shell") from e
    if not isinstance(wish, dict):
        raise ValueError('must be a JSON object, such as {"method": "suffix"}')
    return wish


def _depth(wish: dict[str, Any]) -> list[str]:
    """The depth alone: the methods are those of the config file, or come with a later flag."""
    return [f"speculation.max_draft_tokens={json.dumps(num)}" for num in wish.values()]
