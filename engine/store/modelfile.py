"""Ollama's Modelfile: text to values and back. Pure: reads no file and looks nothing up.

A line is a keyword in any case and its value; ``#`` begins a comment line; a value that opens with a quotation mark, or
with three, ends with as many, maybe lines later. Format: https://docs.ollama.com/modelfile.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..errors import ConfigError
from .parameters import NO_EFFECT, parameter
from .preset import Preset, is_plain, of_parameters

KEYWORDS = (
    "FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "DRAFT", "RENDERER", "PARSER", "LICENSE", "MESSAGE",
    "REQUIRES",
)  # fmt: skip
_ONCE = ("FROM", "TEMPLATE", "SYSTEM", "DRAFT", "RENDERER", "PARSER", "REQUIRES")
ROLES = ("system", "user", "assistant")
_WORDS = {
    "PARAMETER": "a name and a value, such as: PARAMETER temperature 0.7",
    "MESSAGE": "a role and a text, such as: MESSAGE user Hello",
}
"""Keywords with a word in front of the value."""
MAX_CHARS = 4 << 20
_QUOTES = '"""'


class Line(NamedTuple):
    """One instruction."""

    keyword: str
    """Upper case."""
    value: str
    number: int
    """Line on which it begins, from 1."""
    word: str = ""
    """The parameter's name or the message's role, in lower case."""


class Modelfile(msgspec.Struct, frozen=True):
    """A Modelfile as written, and what it asks for."""

    base: str
    """The value of FROM."""
    preset: Preset
    draft: str = ""
    """The value of DRAFT."""


def parse(text: str, name: str) -> Modelfile:
    """The values of a Modelfile; ``name`` is its file, for messages.

    Raises:
        ConfigError: ``file:line: KEYWORD: what is wrong; remedy``.
    """
    found: dict[str, Line] = {}
    pairs: list[tuple[str, Any]] = []
    messages: list[dict[str, str]] = []
    licenses: list[str] = []
    notes: list[str] = []
    for line in instructions(text, name):
        if line.keyword in _ONCE:
            if line.keyword in found:
                first = found[line.keyword].number
                raise _fault(name, line, f"is given in line {first} already; keep one of the two")
            found[line.keyword] = line
        match line.keyword:
            case "PARAMETER":
                if line.word in NO_EFFECT:
                    notes.append(f"{name}:{line.number}: {line.word} has no effect here: {NO_EFFECT[line.word]}")
                    continue
                try:
                    pairs.append(parameter(line.word, line.value))
                    of_parameters(pairs)
                except ValueError as e:
                    raise _fault(name, line, str(e)) from e
            case "MESSAGE":
                if line.word not in ROLES:
                    raise _fault(name, line, f"role {line.word[:40]!r} is none of {', '.join(ROLES)}")
                messages.append({"role": line.word, "content": line.value})
            case "LICENSE":
                licenses.append(line.value)
            case "ADAPTER":
                raise _fault(name, line, "adapters are not applied in this version; merge it into the model's weights")
            case "RENDERER" | "PARSER":
                used = "chat template" if line.keyword == "RENDERER" else "text"
                notes.append(
                    f"{name}:{line.number}: {line.keyword} {line.value[:40]} has no effect here: "
                    f"the model's own {used} is used"
                )
            case _:
                pass
    base = found.get("FROM")
    if base is None:
        raise ConfigError(f"{name}: has no FROM line; add one that names a model, such as: FROM smollm2:135m")
    for keyword in ("FROM", "DRAFT"):
        if keyword in found and (not found[keyword].value.strip() or "\n" in found[keyword].value):
            raise _fault(name, found[keyword], "needs one name on its line, such as smollm2:135m or ./model.gguf")
    system, template = found.get("SYSTEM"), found.get("TEMPLATE")
    preset = msgspec.structs.replace(
        of_parameters(pairs),
        system=None if system is None else system.value,
        messages=messages,
        license="\n".join(licenses),
        notes=notes,
        **({} if template is None else _template(template)),
    )
    return Modelfile(base.value.strip(), preset, found["DRAFT"].value.strip() if "DRAFT" in found else "")


def instructions(text: str, name: str) -> Iterator[Line]:
    """The instructions of a Modelfile, in order.

    Raises:
        ConfigError: an unknown keyword, a missing value, or a quotation that does not end.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"{name}: has {len(text)} characters: at most {MAX_CHARS}; shorten it")
    lines = enumerate(text.removeprefix("\ufeff").split("\n"), 1)
    for number, raw in lines:
        parts = raw.removesuffix("\r").split(maxsplit=1)
        if not parts or parts[0].startswith("#"):
            continue
        line = Line(parts[0].upper(), "", number)
        if line.keyword not in KEYWORDS:
            near = difflib.get_close_matches(line.keyword, KEYWORDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"keywords are {', '.join(KEYWORDS)}"
            raise ConfigError(f"{name}:{number}: unknown keyword {parts[0][:40]!r}; {hint}")
        value, word = parts[1] if len(parts) > 1 else "", ""
        if line.keyword in _WORDS:
            word, *rest = value.split(maxsplit=1) or [""]
            value = rest[0] if rest else ""
        if not value.strip():
            raise _fault(name, line, f"needs {_WORDS.get(line.keyword, 'a value; add it, or leave the line out')}")
        while (inner := _unquoted(value)) is None:
            more = next(lines, None)
            if more is None:
                mark = _QUOTES if value.startswith(_QUOTES) else '"'
                raise _fault(name, line, f"the text that {mark} opens never ends; close it with {mark}")
            value += "\n" + more[1].removesuffix("\r")
        yield line._replace(value=inner, word=word.lower())


def write(base: str, preset: Preset, parameters: Iterable[tuple[str, Any]], *, head: str = "") -> str:
    """A Modelfile that says the same; ``parameters`` are (Ollama's name, value), ``head`` becomes a comment.

    Raises:
        ConfigError: a text holds three quotation marks, which no Modelfile can express.
    """
    lines = [f"# {line}" for line in head.splitlines()]
    lines.append(f"FROM {base}")
    if preset.chat_template:
        lines.append(f"TEMPLATE {_quoted(preset.chat_template)}")
    lines += [f"PARAMETER {name} {_quoted(str(value))}" for name, value in parameters]
    if preset.system is not None:
        lines.append(f"SYSTEM {_quoted(preset.system)}")
    lines += [f"MESSAGE {m['role']} {_quoted(m['content'])}" for m in preset.messages]
    if preset.draft_model:
        lines.append(f"DRAFT {preset.draft_model}")
    if preset.license:
        lines.append(f"LICENSE {_quoted(preset.license)}")
    return "\n".join(lines) + "\n"


def rebased(text: str, name: str, base: str, draft: str) -> str:
    """The same Modelfile with other names behind FROM and DRAFT; comments and all else stay as written.

    Raises:
        ConfigError: as ``instructions``.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    for line in instructions(text, name):
        if line.keyword in ("FROM", "DRAFT"):
            lines[line.number - 1] = f"{line.keyword} {base if line.keyword == 'FROM' else draft}"
    return "\n".join(lines).rstrip("\n") + "\n"


def _unquoted(value: str) -> str | None:
    """What is between quotation marks; None = they are not closed yet."""
    for mark in (_QUOTES, '"'):
        if value.startswith(mark):
            closed = value.rstrip()
            return closed[len(mark) : -len(mark)] if len(closed) >= 2 * len(mark) and closed.endswith(mark) else None
    return value.rstrip()


def _quoted(text: str) -> str:
    if _QUOTES in text:
        raise ConfigError('a text holds """, which a Modelfile cannot express; write it with other quotation marks')
    if "\n" in text or "\r" in text or text != text.strip() or not text or text.startswith('"'):
        return f"{_QUOTES}{text}{_QUOTES}" if '"' in text or "\n" in text or not text else f'"{text}"'
    return text


def _template(line: Line) -> dict[str, Any]:
    """Jinja is used; Go is kept to be told about, unless it does nothing anyway."""
    if "{%" in line.value:
        return {"chat_template": line.value}
    return {} if is_plain(line.value) else {"go_template": line.value}


def _fault(name: str, line: Line, what: str) -> ConfigError:
    return ConfigError(f"{name}:{line.number}: {line.keyword}: {what}")
