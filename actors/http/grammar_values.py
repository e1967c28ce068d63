"""What the gateway and the process that checks grammars tell each other. Plain values."""

from typing import Literal

import msgspec

WHITESPACE = r"(\r?\n)?[ \t]{0,32}"
"""Between tokens of JSON. Bounded: small models indent for ever where they may."""


class GrammarWish(msgspec.Struct, frozen=True, kw_only=True):
    """A shape of the output."""

    kind: Literal["json", "regex", "choice", "grammar"]
    text: str
    """The JSON schema, the regular expression, the choices as a JSON list, or a grammar in Lark or GBNF."""
    param: str
    """The field of the body that errors name."""
    whitespace: str | None = None
    """Of JSON, between its tokens: a regular expression; "" = none at all; None = a line end and an indent."""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """``grammar`` as llguidance takes it, or why it is none."""

    grammar: str = ""
    error: str = ""
