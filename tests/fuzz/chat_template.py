"""Hostile template -> text or one error of ours, and nothing of the process behind it. In service it can be killed."""

from random import Random

from fuzzing.byte_mutator import mutate_bytes
from fuzzing.target import Target

from paceline.actors.messages import Chat
from paceline.actors.text.chat_template import ChatTemplate
from paceline.actors.text.control_text import ControlText
from paceline.actors.text.template_sandbox import MAX_OUTPUT_CHARS, compile_template
from paceline.engine.errors import BadModelFileError, InvalidRequestError

_CHAT = Chat(messages=[{"role": "user", "content": "hi", "tool_calls": []}], template_kwargs={"x": [1, {"a": "b"}]})
_PIECES = r"""
{{ messages }}
{{ messages[0].content }}
{% for m in messages %}
{% endfor %}
{% if x %}
{% endif %}
{{ x.__class__ }}
{{ ''.__class__.__mro__[1].__subclasses__() }}
{{ x|attr('__class__') }}
{{ self }}
{{ self._TemplateReference__context }}
{{ cycler.__init__.__globals__ }}
{{ lipsum }}
{{ namespace }}
{{ namespace(__class__=1) }}
{% set ns = namespace(a='x') %}
{% set ns.a = ns.a ~ ns.a %}
{{ ns.a|length }}
{% set ns.__class__ = 1 %}
{{ range(99999)|list|length }}
{{ range(10**9) }}
{{ 'a' * 9999999 }}
{{ ('a' * 4000000).replace('a', 'bb') }}
{{ '%999999d' % 1 }}
{{ '{:>99999}'.format(1) }}
{{ '{0.__class__}'.format(1) }}
{{ 'x'.format_map({}) }}
{{ 'x'|center(99999) }}
{{ x|tojson(indent=9999) }}
{{ x|map('upper')|list }}
{{ x|sort|join(',') }}
{{ x|groupby('a') }}
{{ x|batch(2)|list }}
{{ x|dictsort }}
{{ 2**64 }}
{{ 9**9**9 }}
{{ raise_exception('no') }}
{{ raise_exception(x) }}
{{ strftime_now('%Y') }}
{{ strftime_now('\x00%') }}
{% macro f(a) %}{{ f(a) }}{% endmacro %}
{{ f(1) }}
{% call(a) f(1) %}{% endcall %}
{% filter upper %}a{% endfilter %}
{% include 'x' %}
{% extends 'x' %}
{% import 'x' as y %}
{% block b %}{% endblock %}
{% generation %}
{% endgeneration %}
{% break %}
{% for a in x recursive %}{{ loop(x) }}{% endfor %}
{{ loop.cycle(1) }}
{{ x.append(1) }}
{{ x.pop() }}
{{ dict(a=1) }}
{{ dict.fromkeys }}
{{ x|random }}
{{ x|pprint }}
{{ joiner() }}
{{ x[::-1] }}
{{ x[0:99999999999999999999] }}
{{ 1/0 }}
{{ undefined.a }}
{{ undefined }}
{% raw %}
{% endraw %}
{# c #}
{{ 'a'.encode() }}
{{ ''.join(x) }}
{{ x is mapping }}
{{ ('a',)*3 }}
{{ [x]*999 }}
{% set a, b = x %}
{{ a if b }}
{{ not }}
{%- x
-%}
{{ x | wordwrap(1) }}
{{ 'a'|urlize }}
{{ 'a'.zfill(99999) }}
{{ 'a'.ljust(99999) }}
{{ 'a'|indent(99999) }}
{% autoescape true %}{% endautoescape %}
{{ x|attr('pop')() }}
{{ caller() }}
{% do x.append(1) %}
{{ debug }}
{{ get_flashed_messages }}
""".splitlines()
_CONTROL = ControlText.__new__(ControlText)  # of a tokenizer without control tokens: nothing is to be guarded
_CONTROL._starts, _CONTROL._special = None, {}


def run(data: bytes) -> None:
    source = data.decode(errors="replace")
    try:
        template = ChatTemplate(source, {"bos_token": "<s>"}, _CONTROL)
        text = template.render(_CHAT).text
    except BadModelFileError as e:
        assert "\n" not in str(e), str(e)
        raise
    finally:
        compile_template.cache_clear()
    assert len(text) <= MAX_OUTPUT_CHARS
    for leaked in ("<module", "<built-in", "_Environment object", "<class 'object'>", "<frame", "/site-packages/"):
        assert leaked not in text, leaked


def _mutate(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    source = data.decode(errors="replace")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(source) + 1)
        source = source[:at] + rng.choice(_PIECES) + source[at:]
    return source.encode()


_seeds = [
    b"{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", b"", *(p.encode() for p in _PIECES),
    b"{% set ns = namespace(a='x') %}{% for i in range(30) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a|length }}",
    b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
]  # fmt: skip
TARGET = Target(
    run=run, seeds=_seeds, mutate=_mutate, expected=(InvalidRequestError, BadModelFileError), most_bytes=4096,
    is_killable=True,
)  # fmt: skip
