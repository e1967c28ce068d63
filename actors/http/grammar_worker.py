"""A process that compiles what clients send as grammars, because a hostile one must be stopped from outside.

Reads one ``GrammarWish`` a line as JSON, answers with one ``Verdict`` a line, ends with its standard input. It holds no
state, no keys and no model; ``grammar_check.py`` starts it, times it and kills it.
"""

import os
import sys
import time
from typing import Any

import msgspec

from .grammar_values import WHITESPACE, GrammarWish, Verdict

MAX_MEMORY = 2 << 30
"""Bytes of address space."""
MAX_CPU_S = 1.0
"""Of one compilation: the target's is as long, and the steps it runs beside it wait for it once."""


def judge(wish: GrammarWish) -> Verdict:
    """Turn a wish into a grammar and compile it once, for no vocabulary in particular."""
    from llguidance import LLMatcher

    grammar = ""
    began_s = time.process_time()
    try:
        grammar = _grammar(wish)
        if wish.kind == "json" and wish.text in ("true", "{}"):  # anything at all: validation wants an object there
            return Verdict(grammar)
        complaint = LLMatcher.validate_grammar(grammar)
    except Exception as e:  # the parser of GBNF raises its own kinds, and RecursionError
        complaint = str(e) or type(e).__name__
    if complaint:
        return Verdict(error=_line(complaint))
    spent_s = time.process_time() - began_s
    if spent_s > MAX_CPU_S:
        return Verdict(error=f"it takes {spent_s:.1f} s to compile, which may be {MAX_CPU_S:g} s at most")
    return Verdict(grammar)


def _grammar(wish: GrammarWish) -> str:
    from llguidance import LLMatcher

    match wish.kind:
        case "json":
            return LLMatcher.grammar_from_json_schema(wish.text, overrides=_json_options(wish.whitespace))
        case "regex":
            return LLMatcher.grammar_from_regex(wish.text)
        case "choice":
            choices = msgspec.json.decode(wish.text, type=list[str])
            quoted = (msgspec.json.encode(choice).decode() for choice in choices)
            return LLMatcher.grammar_from_lark("start: " + " | ".join(quoted))
        case "grammar":
            from llguidance.gbnf_to_lark import any_to_lark

            return LLMatcher.grammar_from_lark(any_to_lark(wish.text))


def _json_options(whitespace: str | None) -> Any:
    if whitespace == "":
        return {"whitespace_flexible": False}
    return {"whitespace_pattern": WHITESPACE if whitespace is None else whitespace}


def _line(complaint: str) -> str:
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    told = lines[:1] + [line for line in lines[1:] if line.startswith("error:")]  # between them is a drawing
    return (" ".join(told) or "no reason given")[:300].rstrip(" .;:")


def main() -> None:
    """Answer line by line."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    except (ImportError, ValueError):
        pass  # not every system has it; the time is bounded everywhere
    os.nice(10)  # the engine's work is not to wait for a schema
    decoder = msgspec.json.Decoder(GrammarWish)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(judge(decoder.decode(line))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
