"""``paceline run`` above the engine: conversation, commands, output. The engine is a list of deltas."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.actors import terminal
from paceline.actors.conversation import Conversation, Costs, read_answer
from paceline.actors.messages import Admitted, PromptInfo, TextDelta
from paceline.actors.repl import HELP, Repl
from paceline.engine.errors import ActorError, ConfigError, InvalidRequestError
from paceline.engine.store.progress import Progress


def delta(text: str, num_tokens: int, **more: Any) -> TextDelta:
    return TextDelta(call_id="c", index=0, offset=0, text=text, num_tokens=num_tokens, **more)


def test_a_conversation_grows_by_question_and_answer() -> None:
    talk = Conversation(chat=True, system="Be brief.", sampling={"temperature": 0.5})
    call = talk.ask("Hi")
    assert call.chat is not None and call.prompts is None
    assert call.chat.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert call.sampling.temperature == 0.5
    talk.answered("Hello")
    second = talk.ask("And?")
    assert second.chat is not None
    assert [m["role"] for m in second.chat.messages] == ["system", "user", "assistant", "user"]
    assert second.call_id != call.call_id and second.sampling.seed != call.sampling.seed
    talk.dropped()
    assert [m["role"] for m in talk.messages] == ["user", "assistant"]


def test_without_a_template_prompts_go_as_they_are() -> None:
    talk = Conversation(chat=False)
    assert talk.ask("Once upon").prompts == ["Once upon"]
    talk.answered("a time")
    assert talk.ask("More").prompts == ["More"] and talk.messages == []


def test_parameters_from_text() -> None:
    talk = Conversation(chat=True)
    for name, text in (("temperature", "0"), ("num_predict", "7"), ("repeat_penalty", "1.1"), ("seed", "3")):
        talk.set(name, text)
    talk.set("stop", "###")
    talk.set("stop", "END")
    sampling = talk.ask("x").sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.repetition_penalty) == (0.0, 7, 1.1)
    assert sampling.seed == 3 and sampling.stop == ["###", "END"]
    for name, text in (("tempo", "1"), ("top_k", "many"), ("seed", "")):
        with pytest.raises(ConfigError, match=name):
            talk.set(name, text)


def test_save_and_load(tmp_path: Path) -> None:
    talk = Conversation(chat=True, system="S")
    talk.ask("Hi")
    talk.answered("Hello")
    talk.save(str(tmp_path / "t.json"))
    other = Conversation(chat=True)
    other.load(str(tmp_path / "t.json"))
    assert (other.messages, other.system) == (talk.messages, "S")
    (tmp_path / "bad.json").write_text("[]")
    for name in ("bad.json", "none.json"):
        with pytest.raises(ConfigError, match=name):
            other.load(str(tmp_path / name))
    with pytest.raises(ConfigError, match="cannot be written"):
        talk.save(str(tmp_path / "no" / "t.json"))


def test_text_passes_at_once_and_costs_are_counted() -> None:
    written: list[str] = []

    def items() -> Iterator[Admitted | TextDelta]:
        yield Admitted(call_id="c", prompts=[PromptInfo(num_tokens=5)])
        yield delta("a", 1)
        assert written == ["a"], "held back"
        yield delta("", 2)
        yield delta("b", 3, finish_reason="stop")

    costs = Costs()
    read_answer(items(), written.append, costs)
    assert written == ["a", "b"] and (costs.prompt_tokens, costs.output_tokens) == (5, 3)
    lines = costs.lines()
    assert "5 tokens" in lines and "3 tokens" in lines and lines.count("tok/s") == 2
    assert "0 tokens" in Costs().lines()


class Terminal:
    """Lines for a Repl to read, and what it wrote. An exception among the lines is raised."""

    def __init__(self, *lines: str | BaseException, answer: Callable[[str], None] | None = None) -> None:
        self.out = io.StringIO()
        self.asked: list[str] = []
        self._lines = iter(lines)
        self.conversation = Conversation(chat=True)
        self.repl = Repl(
            self.conversation,
            answer or self.asked.append,
            lambda: "the facts\n",
            template="TEMPLATE",
            modelfile=lambda: "FROM tiny\n",
            read=self._read,
            write=self.out.write,
        )

    def _read(self, prompt: str) -> str:
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        if isinstance(line, BaseException):
            raise line
        return line

    def run(self) -> str:
        self.repl.run()
        return self.out.getvalue()


def test_prompts_blocks_and_leaving() -> None:
    screen = Terminal("one", "", "  ", '"""first', "second", 'third"""', '"""short"""', "/bye", "never")
    screen.run()
    assert screen.asked == ["one", "first\nsecond\nthird", "short"]


def test_ctrl_c_at_the_prompt_goes_on_and_ctrl_d_leaves() -> None:
    screen = Terminal(KeyboardInterrupt(), "still here", EOFError())
    assert "/bye leaves" in screen.run()
    assert screen.asked == ["still here"]


def test_commands() -> None:
    screen = Terminal(
        "/?", "/set parameter top_k 5", "/set system You are a fox.", "/set verbose", "/show info", "/show system",
        "/show parameters", "/show template", "/show modelfile", "/clear", "/set quiet",
    )  # fmt: skip
    screen.conversation.messages.append({"role": "user", "content": "x"})
    out = screen.run()
    assert "TEMPLATE" in out and "FROM tiny" in out
    assert HELP in out and "the facts" in out and "You are a fox." in out and "top_k 5" in out
    assert screen.conversation.messages == [] and not screen.repl.verbose and screen.asked == []


def test_saved_under_a_modelfiles_name_it_is_one(tmp_path: Path) -> None:
    Terminal(f"/save {tmp_path}/fox.modelfile").run()
    assert (tmp_path / "fox.modelfile").read_text() == "FROM tiny\n"


@pytest.mark.parametrize("line", ["/bogus", "/set", "/set parameter top_k", "/set parameter x y", "/save", "/show x"])
def test_a_wrong_command_is_one_line(line: str) -> None:
    out = Terminal(line).run().rstrip("\n")
    assert out and "\n" not in out


def test_a_failed_answer_goes_on_but_a_lost_engine_ends_it() -> None:
    def refused(_: str) -> None:
        raise InvalidRequestError("prompt has 9000 tokens")

    def lost(_: str) -> None:
        raise ActorError("the target is gone")

    assert "9000 tokens" in Terminal("a", answer=refused).run()
    with pytest.raises(ActorError):
        Terminal("a", "b", answer=lost).run()


class Tty(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_model_text_cannot_drive_the_terminal() -> None:
    text = "a\x1b[2Jb\x07\x9bc\nd\te"
    assert terminal.safe(text, Tty()) == "a[2Jbc\nd\te"
    assert terminal.safe(text, io.StringIO()) == text


def test_progress_too_fast_to_read_is_its_two_ends() -> None:
    out = io.StringIO()
    with terminal.progress(out) as report:
        for done in range(11):
            report(Progress("unpack", "x", done, 10, 5e5, 2.0))
    assert [line.split(":")[1].split(" of")[0] for line in out.getvalue().splitlines()] == [" 0 %", " 100 %"]


def test_progress_off_a_terminal_is_a_line_each_ten_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LINE_EVERY_S", 0.0)
    out = io.StringIO()
    with terminal.progress(out) as report:
        report(Progress("wait", "x"))
        for done in range(1001):
            report(Progress("fetch", "x", done * 1000, 10**6, 5e5, 2.0))
    lines = out.getvalue().splitlines()
    assert lines[0] == "waiting for x: another paceline process is fetching it"
    assert len(lines) == 12 and lines[-1] == "fetching x: 100 % of 1.0 MB, 500.0 kB/s"
    assert lines[4] == "fetching x: 30 % of 1.0 MB, 500.0 kB/s, 2 s left"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Tty()
    with terminal.progress(out) as report:
        report(Progress("fetch", "x[1]", 250_000, 10**6, 5e5, 90.0))
        report(Progress("fetch", "x[1]", 10**6, 10**6, 5e5, 0.0))
    assert "fetching x[1]" in out.getvalue() and "1.0 MB of 1.0 MB" in out.getvalue()
    silent = Tty()
    with terminal.progress(silent):
        pass
    assert silent.getvalue() == ""


def test_tables_and_ages() -> None:
    assert terminal.table(["A", "BB"], [["long", "x"], ["s", ""]]) == "A     BB\nlong  x\ns\n"
    assert [terminal.age_text(s) for s in (3, 60, 7300, 200000)] == [
        "just now", "1 minute ago", "2 hours ago", "2 days ago",
    ]  # fmt: skip
