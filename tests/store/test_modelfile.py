"""A Modelfile's text to values and back; what is wrong is named with its line."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.engine.errors import ConfigError
from paceline.engine.store import modelfile, parameters
from paceline.engine.store.modelfile import Line, instructions, parse, write
from paceline.engine.store.preset import Preset, of_parameters

GO = "{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"


def test_all_that_a_modelfile_can_say() -> None:
    text = f'''# a comment
from smollm2:135m

PARAMETER temperature 0.3
parameter STOP "User: "
Parameter stop ###
PARAMETER num_ctx 4096
PARAMETER num_predict 100
PARAMETER repeat_penalty 1.1
PARAMETER top_k -1
PARAMETER seed 42
PARAMETER draft_num_predict 6
SYSTEM """You are a fox.
# Not a comment.

Answer "briefly"."""
MESSAGE user Hello
MESSAGE assistant """Hi
there"""
TEMPLATE """{GO}"""
DRAFT ./small.gguf
LICENSE MIT
LICENSE "Do as
you like"
REQUIRES 0.14.0
'''
    found = parse(text, "Modelfile")
    assert (found.base, found.draft) == ("smollm2:135m", "./small.gguf")
    preset = found.preset
    assert preset.sampling == {
        "temperature": 0.3, "stop": ["User: ", "###"], "max_tokens": 100, "repetition_penalty": 1.1, "top_k": 0,
        "seed": 42,
    }  # fmt: skip
    assert (preset.max_model_len, preset.max_draft_tokens) == (4096, 6)
    assert preset.system == 'You are a fox.\n# Not a comment.\n\nAnswer "briefly".'
    assert preset.messages == [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi\nthere"}]
    assert preset.go_template == GO and preset.chat_template is None
    assert preset.license == "MIT\nDo as\nyou like" and preset.notes == []


def test_templates() -> None:
    jinja = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert parse(f"FROM x\nTEMPLATE {jinja}", "f").preset.chat_template == jinja
    plain = parse("FROM x\nTEMPLATE {{ .Prompt }}", "f").preset
    assert plain.chat_template is None and plain.go_template == ""


def test_what_has_no_effect_is_noted_with_its_line() -> None:
    found = parse("FROM x\nPARAMETER num_gpu 1\nRENDERER qwen3\nPARSER qwen3\nPARAMETER mirostat 2", "M").preset
    assert sorted(note.split(":")[1] for note in found.notes) == ["2", "3", "4", "5"]
    assert all("has no effect here: " in note for note in found.notes) and found.sampling == {}


def test_endless_and_random_take_back_what_the_base_says() -> None:
    base = Preset(sampling={"max_tokens": 5, "seed": 1, "temperature": 0.5}, system="S", messages=[{"role": "user"}])
    over = parse('FROM x\nPARAMETER num_predict -1\nPARAMETER seed -1\nSYSTEM """"""', "f").preset.over(base)
    assert over.sampling == {"max_tokens": None, "seed": None, "temperature": 0.5}
    assert over.system == "" and over.messages == base.messages
    assert over.parameter_lines() == [("num_predict", -1), ("seed", -1), ("temperature", 0.5)]  # and is written again


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "M: has no FROM line"),
        ("# FROM x", "M: has no FROM line"),
        ("FROM", "M:1: FROM: needs a value"),
        ('FROM ""', "M:1: FROM: needs one name"),
        ("FROM a\nFROM b", "M:2: FROM: is given in line 1 already"),
        ("FROM a\nSYSTEM x\n\nSYSTEM y", "M:4: SYSTEM: is given in line 2 already"),
        ("FROM a\nSYSTM x", "M:2: unknown keyword 'SYSTM'; did you mean SYSTEM?"),
        ("hello", "M:1: unknown keyword 'hello'; keywords are FROM"),
        ("FROM a\nPARAMETER temperature", "M:2: PARAMETER: needs a name and a value"),
        ("FROM a\nPARAMETER temprature 1", "M:2: PARAMETER: unknown parameter 'temprature'; did you mean temperature?"),
        ("FROM a\nPARAMETER temperature hot", "M:2: PARAMETER: temperature is hot: must be a number"),
        ("FROM a\nPARAMETER temperature 3", "M:2: PARAMETER: temperature is 3: must be 0 or more, and at most 2"),
        ("FROM a\nPARAMETER top_p 0", "M:2: PARAMETER: top_p is 0: must be above 0"),
        ("FROM a\nPARAMETER top_k 1.5", "M:2: PARAMETER: top_k is 1.5: must be an integer"),
        ("FROM a\nPARAMETER num_ctx 0", "M:2: PARAMETER: num_ctx is 0"),
        ("FROM a\nPARAMETER seed nan", "M:2: PARAMETER: seed is nan: must be an integer"),
        ("FROM a\nPARAMETER temperature inf", "must be a number"),
        ('FROM a\nPARAMETER stop ""', "M:2: PARAMETER: stop must be text"),
        ("FROM a\n" + "PARAMETER stop x\n" * 65, "M:66: PARAMETER: more than 64 stop"),
        ("FROM a\nMESSAGE user", "M:2: MESSAGE: needs a role and a text"),
        ("FROM a\nMESSAGE robot hi", "M:2: MESSAGE: role 'robot' is none of system, user, assistant"),
        ('FROM a\nSYSTEM """x\ny', 'M:2: SYSTEM: the text that """ opens never ends'),
        ('FROM a\nSYSTEM "x\ny', 'M:2: SYSTEM: the text that " opens never ends'),
        ("FROM a\nADAPTER ./a.gguf", "M:2: ADAPTER: adapters are not applied in this version; merge it"),
        ("FROM a\nDRAFT ", "M:2: DRAFT: needs a value"),
        ("FROM " + "x" * (5 << 20), "at most 4194304"),
    ],
)
def test_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "M")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_line_ends_tabs_and_marks_of_other_editors() -> None:
    found = parse('\ufeffFROM\tx\r\nPARAMETER\tstop\tEND\r\nSYSTEM """a\r\nb"""\r\n', "f")
    assert (found.base, found.preset.sampling["stop"], found.preset.system) == ("x", ["END"], "a\nb")


TEXTS = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=30).filter(
    lambda t: '"""' not in t
)


@settings(deadline=None, max_examples=200)
@given(TEXTS, TEXTS.filter(str.strip), TEXTS.filter(bool))
def test_what_is_written_is_read_again(system: str, message: str, stop: str) -> None:
    preset = Preset(
        system=system, messages=[{"role": "user", "content": message}], sampling={"stop": [stop], "seed": 3}
    )
    text = write("base:1", preset, preset.parameter_lines(), head="two\nlines")
    assert parse(text, "f").preset == preset and parse(text, "f").base == "base:1"


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot express"):
        write("x", Preset(system='a """ b'), [])


def test_other_names_leave_the_rest_as_it_was() -> None:
    text = '# mine\nFrom ./a.gguf\nSYSTEM """\nFROM here on, be kind\n"""\ndraft small\n'
    again = modelfile.rebased(text, "M", "/x/a.gguf", "/x/small")
    assert again == '# mine\nFROM /x/a.gguf\nSYSTEM """\nFROM here on, be kind\n"""\nDRAFT /x/small\n'


def test_instructions_know_their_lines() -> None:
    found = list(instructions('FROM x\n\nSYSTEM """a\n\nb"""\nPARAMETER Stop y', "f"))
    assert found == [Line("FROM", "x", 1), Line("SYSTEM", "a\n\nb", 3), Line("PARAMETER", "y", 6, "stop")]


def test_every_parameter_has_a_name_of_ours_and_back() -> None:
    pairs = [parameters.parameter(name, "x" if name == "stop" else 1) for name in parameters.PARAMETERS]
    preset = of_parameters(pairs)
    assert dict(preset.parameter_lines()).keys() == parameters.PARAMETERS.keys()
    assert not parameters.PARAMETERS.keys() & parameters.NO_EFFECT.keys()


def test_the_documented_modelfile_and_keywords() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    text = re.findall(r"```\n(# fox.*?)```", page, re.S)[0]
    found = parse(text, "fox.modelfile").preset
    assert found.system and found.max_model_len == 4096 and len(found.messages) == 2 and not found.notes
    assert all(f"`{keyword}`" in page for keyword in modelfile.KEYWORDS)
    assert all(re.search(rf"[`\s]{name}[`\s]", page) for name in parameters.PARAMETERS)
