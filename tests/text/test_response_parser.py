"""Output read as reasoning, tool calls and content: each built-in format, however it is cut, and hostile texts."""

# ruff: noqa: RUF001

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_parsing.response_parser import parse_response

from paceline.actors.messages import Part
from paceline.actors.text.response import formats, scanner
from paceline.actors.text.response.json_lexer import JsonLexer
from paceline.actors.text.response.parser import ResponseParser
from paceline.actors.text.response.template import ResponseTemplate, TemplateError, load

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"}, "deep": {"type": "object"},
                "exact": {"type": ["boolean", "null"]},
            },
        },
    },
}  # fmt: skip
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
TOOLS: list[Any] = [WEATHER, TIME]
ALL = [f.names[0] for f in formats.families() if "tool_calls" in f.template["fields"]]


def template_of(name: str) -> ResponseTemplate:
    return load(spec_of(name))


def spec_of(name: str) -> dict[str, Any]:
    return next(f.template for f in formats.families() if f.names[0] == name)


class Message:
    """Parts put together, with the rules that all streams keep."""

    def __init__(self) -> None:
        self.content = self.reasoning = ""
        self.calls: list[tuple[str, str]] = []

    def add(self, parts: list[Part]) -> None:
        for part in parts:
            assert part.text, "a part without text tells nothing"
            match part.kind:
                case "content":
                    self.content += part.text
                case "reasoning":
                    self.reasoning += part.text
                case "call":
                    assert part.index == len(self.calls)
                    self.calls.append((part.text, ""))
                case _:
                    assert part.index == len(self.calls) - 1, "arguments belong to the newest call"
                    name, arguments = self.calls[-1]
                    self.calls[-1] = (name, arguments + part.text)

    @property
    def values(self) -> tuple[str, str, list[tuple[str, Any]]]:
        return self.content, self.reasoning, [(name, json.loads(arguments)) for name, arguments in self.calls]


def read(
    template: ResponseTemplate, pieces: Any, tools: Any = TOOLS, prefix: str = "", max_calls: int = 0
) -> Message:
    message = Message()
    parser = ResponseParser(template, tools, prefix=prefix, max_calls=max_calls)
    for piece in pieces:
        message.add(parser.feed(piece))
    message.add(parser.finish())
    return message


def same_however_cut(name: str, text: str, prefix: str = "") -> Message:
    template = template_of(name)
    whole = read(template, [text], prefix=prefix)
    for pieces in (list(text), *(cuts(text, seed) for seed in range(8))):
        cut = read(template, pieces, prefix=prefix)
        assert (cut.content, cut.reasoning, cut.calls) == (whole.content, whole.reasoning, whole.calls), pieces
    return whole


def cuts(text: str, seed: int) -> list[str]:
    rng, pieces, at = random.Random(seed), [], 0
    while at < len(text):
        size = rng.randint(1, 9)
        pieces.append(text[at : at + size])
        at += size
    return pieces


def count_calls(monkeypatch: pytest.MonkeyPatch, *methods: tuple[type, str]) -> Counter[str]:
    """How often each method was called since."""
    counts: Counter[str] = Counter()

    def counted(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def call(*args: Any) -> Any:
            counts[name] += 1
            return method(*args)

        monkeypatch.setattr(owner, name, call)

    for owner, name in methods:
        counted(owner, name)
    return counts


# --- each family -----------------------------------------------------------------------------------------------------

PARIS = {"city": "Paris"}
TWO = [("get_weather", PARIS), ("get_time", {})]
SAMPLES: dict[str, str] = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n<tool_call>\n'
              '{"name": "get_time", "arguments": {}}\n</tool_call>',
    "qwen3_xml": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
                 "\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
    "llama3_json": '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "get_time", "parameters": {}}',
    "json": '{"name": "get_weather", "arguments": {"city": "Paris"}}\n{"name": "get_time", "arguments": {}}',
    "mistral": '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]get_time[ARGS]{}',
    "mistral_v3": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
                  '{"name": "get_time", "arguments": {}}]',
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
                   '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n'
                   "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v31": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}'
                    "<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|><|tool_call>call:get_time{}<tool_call|>',
    "glm45": "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"
             "\n<tool_call>get_time\n</tool_call>",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
               '{"city": "Paris"}<|tool_call_end|><|tool_call_begin|>functions.get_time:1'
               "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
}  # fmt: skip


def test_every_format_has_a_sample() -> None:
    assert sorted(SAMPLES) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_two_calls_of_each_family(name: str) -> None:
    assert same_however_cut(name, SAMPLES[name]).values == ("", "", TWO)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("llama3_json", "json")])
def test_text_before_calls_is_content(name: str) -> None:
    content, _, calls = same_however_cut(name, "Let me see." + SAMPLES[name]).values
    assert content == "Let me see." and calls == TWO


@pytest.mark.parametrize("name", [n for n in ALL if "reasoning_content" in spec_of(n)["fields"]])
def test_reasoning_then_calls(name: str) -> None:
    opening, closing = next(f.thought for f in formats.families() if f.names[0] == name) or ("", "")
    text = f"{opening}\nFirst, hm.\n\nThen.\n{closing}\n\n{SAMPLES[name]}"
    assert same_however_cut(name, text).values == ("", "First, hm.\n\nThen.", TWO)
    text = f"{opening}hm{closing}Answer, with a < b\n\nand more.\n"
    assert same_however_cut(name, text).values == ("Answer, with a < b\n\nand more.\n", "hm", [])


@pytest.mark.parametrize("name", ALL)
def test_the_reference_reads_the_same(name: str) -> None:
    """transformers' own parser, which tells calls when they close."""
    if name not in ("deepseek_v3", "deepseek_v31", "gemma4", "kimi_k2"):
        pytest.skip("it opens or closes where the reference does not look: at the start, or behind a whole value")
    told = parse_response(SAMPLES[name].strip(), spec_of(name), prefix="", tools=TOOLS)
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in told["tool_calls"]]
    assert calls == same_however_cut(name, SAMPLES[name].strip()).values[2]


@pytest.mark.parametrize("name", ALL)
def test_what_a_grammar_makes_a_model_write_is_read(name: str) -> None:
    family = next(f for f in formats.families() if f.names[0] == name)
    how = family.writing
    if how is None:
        pytest.skip("calls of this family cannot be enforced")
    written: list[str] = []
    for called, arguments in TWO:
        body = json.dumps(arguments)
        if how.arguments_key:
            body = f'{{"name": "{called}", "{how.arguments_key}": {body}}}'
            written.append(how.begin + body + how.end)
        else:
            written.append(how.begin + called + how.middle + body + how.end)
    assert same_however_cut(name, how.head + how.separator.join(written) + how.finish).values == ("", "", TWO)


# --- the prompt's part of the message --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "text", "content", "reasoning"),
    [
        ("<think>\n", "hm\n</think>\n\nHi", "Hi", "hm"),
        ("<think>\n\n</think>\n\n", "Hi", "Hi", ""),
        ("<think>\n\n</think>\n\n", "\n Hi", "Hi", ""),
        ("<think>hm", " so</think>Hi", "Hi", " so"),
        ("Once upon ", "a time", "a time", ""),
        ("Once\n", "<think>x", "", "x"),
        ("", "<think>", "", ""),
    ],
)
def test_what_the_prompt_has_does_not_come_out(begun: str, text: str, content: str, reasoning: str) -> None:
    assert same_however_cut("hermes", text, prefix=begun).values == (content, reasoning, [])


def test_a_call_behind_begun_whitespace() -> None:
    assert same_however_cut("hermes", SAMPLES["hermes"], prefix="Sure.\n").values == ("", "", TWO)


def test_the_message_begins_behind_the_last_anchor() -> None:
    template = template_of("hermes")
    turn = "<|im_start|>assistant\n<think>"
    prompt = f"{turn}old<|im_end|>\n<|im_start|>user\nx<|im_end|>\n{turn}"
    assert template.behind_anchor(prompt) == "<think>"
    assert template.behind_anchor("no anchor") is None


# --- arguments -------------------------------------------------------------------------------------------------------


def calls_of(name: str, text: str) -> list[tuple[str, Any]]:
    return same_however_cut(name, text).values[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "</tool_call> <tool_call>{\\"name\\": 1} <think>"}',
         {"city": '</tool_call> <tool_call>{"name": 1} <think>'}),
        ('{"days": "3", "city": "3"}', {"days": 3, "city": "3"}),
        ('{"days": "many"}', {"days": "many"}),
        ('{"deep": "{\\"a\\": [1]}", "exact": "None"}', {"deep": {"a": [1]}, "exact": None}),
        ('{"deep": {"days": "3"}, "unknown": "3"}', {"deep": {"days": "3"}, "unknown": "3"}),
        ('"{\\"city\\": \\"Paris\\"}"', PARIS),
        ("null", {}),
        ('{"city": "two\nlines\ttab \\d \\\' é \\u00e9 😀"}', {"city": "two\nlines\ttab \\d ' é é 😀"}),
        ('{"exact": True, "days": -1.5e3}', {"exact": True, "days": -1500.0}),
        ("{}", {}),
    ],
)  # fmt: skip
def test_arguments_of_json_calls(arguments: str, expected: dict[str, Any]) -> None:
    for first in (True, False):
        name = '"name": "get_weather"'
        body = f'{name}, "arguments": {arguments}' if first else f'"parameters": {arguments}, {name}'
        assert calls_of("hermes", f"<tool_call>{{{body}}}</tool_call>") == [("get_weather", expected)]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert calls_of("hermes", '<tool_call>{"name": "get_time"}</tool_call>') == [("get_time", {})]


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ("3", "days", 3), ("3", "city", "3"), ("", "city", ""), ("true", "exact", True), ("null", "exact", None),
        ("maybe", "exact", "maybe"), ('{"a": 1}', "deep", {"a": 1}), ("</function>\n</tool_call> \"q\" \\ é", "city",
         "</function>\n</tool_call> \"q\" \\ é"), ("  two\n\nlines\n", "city", "  two\n\nlines\n"),
    ],
)  # fmt: skip
def test_arguments_of_tags_by_the_schema(value: str, key: str, expected: Any) -> None:
    text = f"<tool_call>\n<function=get_weather>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"
    assert calls_of("qwen3_xml", text) == [("get_weather", {key: expected})]


def test_long_texts_stream_while_they_come() -> None:
    parser = ResponseParser(template_of("qwen3_xml"), TOOLS)
    told = parser.feed("<tool_call>\n<function=get_weather>\n<parameter=city>\nSo long")
    assert told == [Part("call", "get_weather"), Part("arguments", '{"city": "So long')]
    assert parser.feed(" a text") == [Part("arguments", " a text")]
    parser = ResponseParser(template_of("hermes"), TOOLS)
    assert parser.feed('<tool_call>{"name": "get_weather"') == []
    assert parser.feed(', "arguments": {"ci')[0] == Part("call", "get_weather")
    assert parser.feed('ty": "Pa') == [Part("arguments", '"city": "Pa')]


def test_at_most_so_many_calls() -> None:
    for name in ALL:
        for pieces in ([SAMPLES[name]], list(SAMPLES[name])):
            assert len(read(template_of(name), pieces, max_calls=1).calls) == 1


# --- what is no call -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>not valid json</tool_call> and more"),
        ("hermes", '<tool_call>{"name": "rm_rf", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": [1]}</tool_call>'),
        ("hermes", "<tool_call>{}</tool_call>"),
        ("hermes", "I write <tool_cal or {name} or </tool_call>"),
        ("llama3_json", '{"capital": "Paris", "country": "France"}'),
        ("llama3_json", '{"a": 1} is a dict; {"name": "Bob", "parameters": {}}\n{}'),
        ("json", "```json\n{\"name\": \"Bob\"}\n```"),
        ("mistral", "[TOOL_CALLS]rm_rf[ARGS]{}"),
        ("mistral_v3", "[TOOL_CALLS] not json at all"),
        ("qwen3_xml", "<tool_call>\n<function=rm_rf>\n</function>\n</tool_call>"),
        ("gemma4", "<|tool_call>call:get_time no brace<tool_call|>"),
        ("hermes", "a" + " " * 2000 + "b\n\n\n"),
    ],
)  # fmt: skip
def test_text_that_only_looks_like_a_call_is_content(name: str, text: str) -> None:
    assert same_however_cut(name, text).values == (text, "", [])


def test_a_call_behind_what_is_none_is_found_however_it_is_cut() -> None:
    """Found by fuzzing: in one piece the text behind the fault was swallowed with it."""
    message = same_however_cut("llama3_json", '{"":\n{"name": "get_time", "parameters": {}}')
    assert message.values == ('{"":', "", [("get_time", {})])


def test_without_tools_calls_are_content() -> None:
    template = template_of("hermes").only({"reasoning_content"})
    text = SAMPLES["hermes"]
    assert read(template, list(f"<think>a</think>{text}"), []).values == (text, "a", [])


@pytest.mark.parametrize("name", ALL)
def test_a_cut_output_tells_what_there_is(name: str) -> None:
    """Never another name, never more calls, and of arguments a beginning."""
    text, template = SAMPLES[name], template_of(name)
    whole = read(template, [text])
    for end in range(len(text)):
        cut = read(template, [text[:end]])
        assert len(cut.calls) <= 2
        for (called, arguments), (expected, complete) in zip(cut.calls, whole.calls, strict=False):
            assert called == expected and complete.startswith(arguments)
        if name not in ("llama3_json", "json"):
            assert not any(marker in cut.content for marker in ("tool_call>", "[TOOL_CALLS]", "tool▁call▁begin｜>"))


MARKS = [
    "<tool_call>", "</tool_call>", "<think>", "</think>", '{"name": "get_weather", "arguments": ', '{"city": "', '"}',
    "}", "{", "[", "]", '"', "\\", "\n", " ", "<function=get_weather>", "<parameter=city>", "</parameter>",
    "</function>", "[TOOL_CALLS]", "[ARGS]", "get_weather", "<|tool_call>call:", '<|"|>', "<tool_call|>",
    "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<arg_key>", "</arg_key>", "<arg_value>", "1e", "\x00", "😀", "é", "a",
    ",", ":", ";", "```json",
]  # fmt: skip
FLOODS = [" ", "\n{", "<", '{"a":', "[TOOL_CALLS]", '<tool_call>{"arguments": {"a": "', "<think>"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), st.lists(st.sampled_from(MARKS), max_size=25), st.sampled_from(["", "<think>", "x\n"]))
def test_anything_at_all_is_read_without_a_fault_and_however_cut(name: str, marks: list[str], prefix: str) -> None:
    text, template = "".join(marks), template_of(name)
    whole = read(template, [text], prefix=prefix)
    for pieces in (list(text), marks):
        cut = read(template, pieces, prefix=prefix)
        assert (cut.content, cut.reasoning, cut.calls) == (whole.content, whole.reasoning, whole.calls)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("flood", FLOODS)
def test_floods_cost_each_character_a_bounded_number_of_steps(
    name: str, flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_calls(monkeypatch, (scanner._Lane, "step"), (JsonLexer, "_between"), (JsonLexer, "_string"))
    template = template_of(name)

    def steps(n: int) -> int:
        counts.clear()
        text = flood * (n // len(flood))
        read(template, [text[i : i + 500] for i in range(0, len(text), 500)])
        return counts.total()

    few, many = steps(3_000), steps(24_000)
    assert many <= 9 * few + 100 and many <= 24_000 * 8


# --- templates -------------------------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}


def test_the_example_of_the_format_and_fields_of_all_kinds() -> None:
    spec: dict[str, Any] = {
        "start_anchor": ["[ASSISTANT]", "[BOT]"],
        "fields": {
            "reasoning_content": {"open": "[PLAN]", "close": "[/PLAN]"},
            "tool_calls": {"open_pattern": r"\s*\[CALL (?P<name>\w+)\]", "close": "[/CALL]", "repeats": True,
                           "content": "kv-lines", "content_args": {"kv_sep": "="}, "transform": CALL},
            "score": {"open": "<s>", "close": "</s>", "content": "float"},
            "count": {"open": "<n>", "close": "</n>", "content": "int"},
            "good": {"open": "<g>", "close": "</g>", "content": "bool"},
            "data": {"open": "<d>", "close": "</d>", "content": "json", "content_args": {"unquoted_keys": True}},
            "note": {"open": "<i>", "close": "</i>", "repeats": True, "join": "; "},
            "content": {"close_pattern": r"\s*\[END\]"},
        },
    }  # fmt: skip
    text = (
        " [PLAN] think [/PLAN] [CALL get_weather]\ncity = Paris\ndays= 3\n[/CALL]<s>1.5</s><n> 7 </n><g>True</g>"
        '<d>{a: [1, "x"]}</d><i>one</i><i> two </i><n>none</n> Hello, you. [END]'
    )
    template = load(spec)
    for pieces in ([text], list(text)):
        message, parser = Message(), ResponseParser(template, TOOLS)
        for piece in pieces:
            message.add(parser.feed(piece))
        message.add(parser.finish())
        assert message.values == ("Hello, you.", "think", [("get_weather", {"city": "Paris", "days": 3})])
        assert parser.values == {"score": 1.5, "count": 7, "good": True, "data": {"a": [1, "x"]}, "note": "one; two"}


def test_duplicates_merge_into_a_list() -> None:
    args = {"tag_pattern": r"<(?P<key>\w+)>(?P<value>.*?)</\w+>", "merge_duplicates": True}
    spec = {"start_anchor": "x", "fields": {"tool_calls": {
        "open_pattern": r"<f (?P<name>\w+)>", "close": "</f>", "content": "xml-inline", "content_args": args,
        "transform": CALL}}}  # fmt: skip
    text = "<f get_weather><days>1</days><days>2</days><city>a</city></f>"
    assert read(load(spec), list(text)).values[2] == [("get_weather", {"days": [1, 2], "city": "a"})]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (5, "response_template"),
        ({"fields": {}}, "entries"),
        ({"fields": {"content": {}}}, "start_anchor"),
        ({"fields": {"content": {}}, "start_anchor": ""}, "empty"),
        ({"fields": {"content": {}}, "start_anchor": "x", "version": 2}, "version 1"),
        ({"fields": {"content": {}, "other": {}}, "start_anchor": "x"}, "only one"),
        ({"fields": {"content": {"opens": "x"}}, "start_anchor": "x"}, "opens"),
        ({"fields": {"content": {"open": "a", "open_pattern": "b"}}, "start_anchor": "x"}, "both set"),
        ({"fields": {"content": {"open_pattern": "("}}, "start_anchor": "x"}, "fields.content"),
        ({"fields": {"content": {"open_pattern": r"(?P<a>x)"}}, "start_anchor": "x"}, "transform"),
        ({"fields": {"content": {"content": "yaml"}}, "start_anchor": "x"}, "yaml"),
        ({"fields": {"content": {"content_args": {"x": 1}}}, "start_anchor": "x"}, "content_args"),
        ({"fields": {"content": {"content": "xml-inline"}}, "start_anchor": "x"}, "tag_pattern"),
        ({"fields": {"content": {"join": ","}}, "start_anchor": "x"}, "repeats"),
        ({"fields": {"content": {"transform": "a {content} b"}}, "start_anchor": "x"}, "stands alone"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_used_are_refused_in_one_line(spec: Any, words: str) -> None:
    with pytest.raises(TemplateError) as refused:
        load(spec)
    assert words in str(refused.value) and "\n" not in str(refused.value)
