"""Templates in a process: what comes back, and that hostile ones end in time with an error and leave nothing."""

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from tiny_tokenizers import CHATML

from paceline.actors.text.template_process import TemplateProcess
from paceline.engine.errors import BadModelFileError, InvalidRequestError, UnavailableError

VALUES = {"messages": [{"role": "user", "content": "d\u00e9j\u00e0 \ud800 \u4f60"}], "add_generation_prompt": True}
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWING = "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a|length }}"
HOSTILE = {
    "a loop of 10^10": (ENDLESS, "takes more than 0.5 s"),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "a text that doubles": (GROWING, "takes too much memory|MemoryError|takes more than 0.5 s"),
    "a width of 10^10": ("{{ messages[0].role.ljust(10 ** 10) }}", "takes too much memory|MemoryError"),
    "a format of 10^10": ("{{ '{:>9999999999}'.format(messages[0].role) }}", "takes too much memory|MemoryError"),
    "an integer that squares itself": (
        "{% set ns = namespace(a=64) %}{% for i in range(64) %}{% set ns.a = ns.a * ns.a %}{% endfor %}{{ ns.a }}",
        "takes more than 0.5 s|takes too much memory|MemoryError",
    ),
}


@pytest.fixture
def processes() -> Iterator[list[TemplateProcess]]:
    made: list[TemplateProcess] = []
    yield made
    for process in made:
        process.close()


def start(processes: list[TemplateProcess], source: str, limit_s: float = 10.0) -> TemplateProcess:
    processes.append(TemplateProcess(source, limit_s))
    return processes[-1]


def test_text_comes_back_as_it_is(processes: list[TemplateProcess]) -> None:
    run = start(processes, CHATML)
    run.check()
    for _ in range(3):
        assert run(VALUES) == "<|im_start|>user\nd\u00e9j\u00e0 \ud800 \u4f60<|im_end|>\n<|im_start|>assistant\n"


def test_refusals_and_failures_are_the_clients(processes: list[TemplateProcess]) -> None:
    run = start(processes, "{{ raise_exception('no ' ~ messages[0].role) if messages else messages.x.y }}")
    with pytest.raises(InvalidRequestError, match=r"^no user$"):
        run(VALUES)
    with pytest.raises(InvalidRequestError, match="UndefinedError"):
        run({"messages": []})
    with pytest.raises(InvalidRequestError, match="cannot be rendered"):
        run({"messages": [10**5000]})


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_template_costs_one_call_and_one_process(processes: list[TemplateProcess], case: str) -> None:
    source, said = HOSTILE[case]
    run = start(processes, "{% if messages %}" + source + "{% else %}fine{% endif %}")
    run.check()
    run._limit_s = 0.5
    began_s = time.monotonic()
    with pytest.raises(InvalidRequestError, match=said) as caught:
        run(VALUES)
    assert time.monotonic() - began_s < 5 and "\n" not in str(caught.value) and caught.value.param == "messages"
    run._limit_s = 10.0
    assert run({"messages": []}) == "fine"


def test_a_template_that_does_not_compile_is_a_bad_file(processes: list[TemplateProcess]) -> None:
    for source, said in (("a\n{% if %}", "chat template at line 2"), ("{% break %}", "outside loop")):
        with pytest.raises(BadModelFileError, match=said):
            start(processes, source).check()


def test_a_template_that_takes_too_long_to_compile_is_a_bad_file(processes: list[TemplateProcess]) -> None:
    with pytest.raises(BadModelFileError, match=r"takes more than 0\.001 s to compile"):
        start(processes, CHATML, 0.001).check()


def test_one_slow_conversation_holds_up_no_other(processes: list[TemplateProcess]) -> None:
    run = start(processes, "{% if messages %}" + ENDLESS + "{% else %}fine{% endif %}", 2.0)
    errors: list[Exception] = []

    def slow() -> None:
        try:
            run(VALUES)
        except InvalidRequestError as e:
            errors.append(e)

    run.check()
    thread = threading.Thread(target=slow)
    thread.start()
    assert run({"messages": []}) == "fine" and not errors
    thread.join()
    assert len(errors) == 1


def test_closing_ends_the_processes_and_whoever_waits(processes: list[TemplateProcess]) -> None:
    run = start(processes, ENDLESS, 30.0)
    run.check()
    (pid,) = [worker._process.pid for worker in run._idle]
    threading.Timer(0.3, run.close).start()
    with pytest.raises(InvalidRequestError):
        run(VALUES)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_machine_without_processes_is_a_shortage(
    processes: list[TemplateProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(processes, CHATML)
    run.check()
    busy = run._taken()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(UnavailableError, match="no process can be started"):
        run(VALUES)
    run._returned(busy, True)
    assert run(VALUES)


def test_the_process_ends_with_its_input() -> None:
    run = TemplateProcess(CHATML)
    run.check()
    (worker,) = run._idle
    process: subprocess.Popen[bytes] = worker._process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
    run.close()
