"""The conversation of ``paceline run`` on a terminal: lines in, answers out, commands that start with a slash."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..engine.errors import ActorError, ConfigError, PacelineError
from ..engine.store import paths
from .conversation import Conversation, is_modelfile, write_text

HELP = """\
/?                       this help
/bye                     leave (or Ctrl-D)
/clear                   forget the conversation
/set parameter NAME V    temperature, top_p, top_k, min_p, seed, max_tokens, stop, ...
/set system TEXT         system message, from the next answer on
/set verbose|quiet       print times and rates after each answer, or not
/show info|system|parameters|template|modelfile
/save FILE, /load FILE   the conversation as JSON, or as a Modelfile if FILE is named so
\"\"\"                      begins and ends a prompt of several lines
Ctrl-C                   ends the answer that is being written
"""
_HISTORY_LINES = 1000


class Repl:
    """Reads prompts until the user leaves. ``answer(prompt)`` prints one answer and may raise PacelineError."""

    def __init__(
        self,
        conversation: Conversation,
        answer: Callable[[str], None],
        info: Callable[[], str],
        *,
        template: str = "",
        modelfile: Callable[[], str] = str,
        verbose: bool = False,
        read: Callable[[str], str] = input,
        write: Callable[[str], object] = sys.stdout.write,
    ) -> None:
        self.conversation = conversation
        self.verbose = verbose
        self._answer = answer
        self._info = info
        self._template = template
        self._modelfile = modelfile
        self._read = read
        self._write = write

    def run(self) -> None:
        """Until /bye or Ctrl-D. A failed answer is one line; a lost engine ends the conversation.

        Raises:
            ActorError: the engine is gone.
        """
        while True:
            try:
                text = self._prompt()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._write("\n(Ctrl-D or /bye leaves)\n")
                continue
            if text.startswith("/"):
                if text.split()[0] in ("/bye", "/exit", "/quit"):
                    return
                self._guarded(self._command, text)
            elif text.strip():
                self._guarded(self._answer, text)

    def _guarded(self, act: Callable[[str], None], text: str) -> None:
        try:
            act(text)
        except ActorError:
            raise
        except PacelineError as e:
            self._write(f"{e}\n")

    def _prompt(self) -> str:
        line = self._read(">>> ")
        if not line.lstrip().startswith('"""'):
            return line
        text = line.lstrip()[3:]
        while not text.rstrip().endswith('"""'):
            text += "\n" + self._read("... ")
        return text.rstrip()[:-3].strip("\n")

    def _command(self, text: str) -> None:
        verb, _, rest = text.partition(" ")
        rest = rest.strip()
        match verb:
            case "/?" | "/help":
                self._write(HELP)
            case "/clear":
                self.conversation.messages.clear()
                self._write("forgotten\n")
            case "/set":
                self._set(rest)
            case "/show":
                self._show(rest)
            case "/save" | "/load" if rest:
                if verb == "/load":
                    self.conversation.load(rest)
                elif is_modelfile(rest):
                    write_text(rest, self._modelfile())
                else:
                    self.conversation.save(rest)
                self._write(f"{'saved to' if verb == '/save' else 'loaded from'} {rest}\n")
            case "/save" | "/load":
                raise ConfigError(f"{verb} needs a file, such as: {verb} talk.json")
            case _:
                raise ConfigError(f"no command {verb}; /? lists them")

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        value = value.strip()
        match what:
            case "parameter" if len(value.split(maxsplit=1)) == 2:
                name, text = value.split(maxsplit=1)
                self.conversation.set(name, text)
            case "system":
                self.conversation.system = value.strip('"') or None
            case "verbose" | "quiet":
                self.verbose = what == "verbose"
            case _:
                raise ConfigError("/set parameter NAME VALUE, /set system TEXT, /set verbose or /set quiet")

    def _show(self, what: str) -> None:
        match what:
            case "info" | "":
                self._write(self._info())
            case "system":
                self._write(f"{self.conversation.system or 'none set'}\n")
            case "parameters":
                found = self.conversation.sampling.items()
                self._write("".join(f"{k} {v}\n" for k, v in found) or "none set\n")
            case "template":
                self._write(f"{self._template or 'none'}\n")
            case "modelfile":
                self._write(self._modelfile())
            case _:
                raise ConfigError("/show info, system, parameters, template or modelfile")


@contextmanager
def line_editing() -> Iterator[None]:
    """Arrow keys and a history that lasts, where Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = paths.home() / "history"
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)
