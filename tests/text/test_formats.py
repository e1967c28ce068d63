"""Which format a model's output is read by, and what is read of it."""

import pytest

from paceline.actors.messages import Reading
from paceline.actors.text.response import formats, writing
from paceline.actors.text.response.reader import OutputReader
from paceline.engine.errors import ConfigError

HERMES = "{% for t in tools %}<tool_call>{name, arguments}</tool_call>{% endfor %}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
OWN = {
    "start_anchor": "BOT:",
    "fields": {
        "thinking": {"open": "[T]", "close": "[/T]"},
        "tool_calls": {"open_pattern": r"\[C (?P<name>\w+)\]", "close": "[/C]", "content": "json",
                       "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}},
        "content": {},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("template", "name", "reasons"),
    [
        ("{{ messages }}", "json", False), (HERMES, "hermes", False), (HERMES + "</think>", "hermes", True),
        ("tools <tool_call> <function= </think>", "qwen3_xml", True), ("tools [TOOL_CALLS]", "mistral_v3", False),
        ("tools [TOOL_CALLS] [ARGS] [THINK]", "mistral", True), ("{{ messages }}</think>", "json", True),
        ("tools <|start_header_id|> parameters", "llama3_json", False),
        ("tools <tool_call> <arg_key> arguments", "glm45", False), ("tools <|tool_call>", "gemma4", False),
        ("tools <｜tool▁calls▁begin｜> ```json </think>", "deepseek_v3", True),  # noqa: RUF001
    ],
)  # fmt: skip
def test_a_format_is_found_by_the_chat_template(template: str, name: str, reasons: bool) -> None:
    found = formats.resolve(template)
    assert (found.name, found.reads_reasoning, found.reads_calls) == (name, reasons, True)
    assert found.knows_tools == ("tools" in template)


def test_names_of_other_servers_are_known() -> None:
    for name in ("hermes", "llama3_json", "mistral", "qwen3_coder", "qwen3_xml", "deepseek_v3", "glm45"):
        assert name in formats.names()
    for name in ("deepseek_r1", "qwen3", "mistral", "granite"):
        assert name in formats.names(reasoning=True)
        assert formats.resolve("", reasoning_parser=name).reads_reasoning
    assert formats.resolve("[TOOL_CALLS]", tool_parser="mistral").name == "mistral_v3"
    with pytest.raises(ConfigError, match=r"server.tool_call_parser = 'hermse'.*hermes"):
        formats.resolve("", tool_parser="hermse")


def test_reading_can_be_turned_off() -> None:
    off = formats.resolve(HERMES + "</think>", None, "none", "none")
    assert not off.reads_calls and not off.reads_reasoning and off.knows_tools
    assert OutputReader(off).parser(Reading(tools=[]), "") is None


def test_the_models_own_template_goes_first_and_a_broken_one_is_left_out() -> None:
    own = formats.resolve(HERMES, OWN)
    assert own.name == "response_template" and own.reads_reasoning and own.writing is None
    parser = OutputReader(own).parser(Reading(tools=[TOOL]), "user: x BOT:[T]")
    assert parser is not None and parser.is_reasoning
    parts = [*parser.feed("hm[/T] ok [C f]{}[/C]"), *parser.finish()]
    assert [(p.kind, p.text) for p in parts] == [
        ("reasoning", "hm"), ("content", "ok"), ("call", "f"), ("arguments", "{}")]  # fmt: skip
    assert formats.resolve(HERMES, OWN, "hermes").name == "hermes"
    assert formats.resolve(HERMES, {"fields": {}}).name == "hermes"


def test_nothing_to_read_needs_no_parser() -> None:
    reader = OutputReader(formats.resolve(HERMES))
    assert reader.parser(None, "x") is None and reader.parser(Reading(), "x") is None
    assert reader.parser(Reading(tools=[TOOL]), "x") is not None


def test_the_grammar_within_reasoning_is_taken_where_the_prompt_ends_there() -> None:
    reader = OutputReader(formats.resolve(HERMES + "</think>"))
    reading = Reading(tools=[TOOL], grammar_in_thought="inner")
    assert reader.grammar(reading, "<|im_start|>assistant\n<think>\n", "outer") == "inner"
    assert reader.grammar(reading, "<|im_start|>assistant\n<think>\n\n</think>\n\n", "outer") == "outer"
    assert reader.grammar(reading, "of unknown shape <think>\n", "outer") == "inner"
    assert reader.grammar(reading, "<think> of the user, long ago", "outer") == "outer"


def test_control_tokens_of_the_format_are_kept() -> None:
    special = [(1, "<tool_call>"), (2, "<|im_end|>"), (3, "</tool_call>"), (4, "")]
    assert OutputReader(formats.resolve(HERMES), special).kept_ids == {1, 3}


def test_markers_that_are_tokens_are_spelled_by_id() -> None:
    assert writing.spelled('<a>\n"x', {"<a>": 7}) == '<[7]> "\\n\\"x"'
    assert writing.spelled("<a><b>", {"<b>": 8}) == '"<a>" <[8]>'
    assert writing.spelled("", {"<b>": 8}) == ""


def test_parameters_that_are_named_are_all_there_are() -> None:
    assert writing.schema_of({}) == {"type": "object", "additionalProperties": False}
    given = {"type": "object", "additionalProperties": True}
    assert writing.schema_of({"parameters": given}) == given
