"""What a model's output is read with, for each call: its own format, or plain JSON where a grammar had to fall back."""

from collections.abc import Iterable

from ...messages import Reading
from . import formats
from .formats import Format
from .parser import ResponseParser
from .template import CALLS, REASONING, ResponseTemplate


class OutputReader:
    """Makes the parsers of one model's calls. ``special`` are its control tokens, id and text."""

    def __init__(self, format_: Format, special: Iterable[tuple[int, str]] = ()) -> None:
        self._own = format_
        self._plain = formats.any_format(format_)
        self._templates: dict[tuple[bool, bool, bool], ResponseTemplate] = {}
        self.name = format_.name
        """Of the format of calls; for people."""
        self.kept_ids = formats.kept(format_, special)
        """Control tokens that are part of the format."""

    def parser(self, reading: Reading | None, prompt_end: str) -> ResponseParser | None:
        """A parser for one output behind a prompt; None where all of it is content."""
        if reading is None:
            return None
        reads_reasoning = reading.reads_reasoning and self._own.reads_reasoning
        if not reading.tools and not reads_reasoning:
            return None
        template = self._template(bool(reading.tools), reads_reasoning, reading.is_plain_json)
        begun = template.behind_anchor(prompt_end)
        if begun is None:
            begun = self._opened(template, prompt_end)
        return ResponseParser(template, reading.tools, prefix=begun, max_calls=reading.max_calls)

    def grammar(self, reading: Reading | None, prompt_end: str, grammar: str) -> str:
        """The grammar of an output: another where the prompt ends within reasoning."""
        if reading is None or not reading.grammar_in_thought:
            return grammar
        parser = self.parser(reading, prompt_end)
        if parser is None:
            return grammar
        parser.finish()  # whitespace behind the prompt's marker is its end, whatever the model goes on with
        return reading.grammar_in_thought if parser.is_reasoning else grammar

    def _template(self, reads_calls: bool, reads_reasoning: bool, is_plain: bool) -> ResponseTemplate:
        key = (reads_calls, reads_reasoning, is_plain)
        if key not in self._templates:
            names = {name for name, is_read in ((CALLS, reads_calls), (REASONING, reads_reasoning)) if is_read}
            whole = (self._plain if is_plain else self._own).template
            others = set(whole.fields) - {CALLS, REASONING}
            self._templates[key] = whole.only(names | others)
        return self._templates[key]

    def _opened(self, template: ResponseTemplate, prompt_end: str) -> str:
        """The reasoning that a prompt of unknown shape opens at its very end."""
        field = template.fields.get(REASONING)
        bare = prompt_end.rstrip()
        texts = field.open.literals if field is not None and field.open is not None else []
        return next((text for text in texts if bare.endswith(text)), "")
