"""The command line: argument tables and dispatch. A verb's work is ``commands/<verb>.py``, imported when called.

Exit status: 0 done, 1 a known failure (one line on stderr), 2 wrong usage, 130 Ctrl-C. Imports the standard library
only, so that help and usage errors come at once.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from .flags import BATCH_FLAGS, ENGINE_FLAGS, SERVER_FLAGS, UsageError, add_config_flags, add_foreign_flags
from .speculative_flags import add_speculative_flags

_MODEL_HELP = "library name, org/repo, folder, .gguf file, Modelfile or ollama:NAME (smollm2:135m)"


class Verb(NamedTuple):
    """A command: its line in the overview, its arguments, its examples."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser, bool], None]
    examples: str


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that every usage error looks alike."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _serve(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument("--model", dest="model_flag", metavar="MODEL", help=argparse.SUPPRESS)
    add_config_flags(parser, SERVER_FLAGS + ENGINE_FLAGS, everything=everything)
    add_speculative_flags(parser, everything=everything)
    _add_model_options(parser, everything)
    add_foreign_flags(parser)


def _run(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="without one: standard input, or a conversation")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 = always the likeliest token")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, in tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    parser.add_argument("--verbose", action="store_true", help="print times and rates after each answer")
    hidden = None if everything else argparse.SUPPRESS
    for name, kind in (("--top-p", float), ("--top-k", int), ("--min-p", float), ("--min-tokens", int)):
        parser.add_argument(name, type=kind, metavar="N", help=hidden)
    parser.add_argument("--stop", action="append", metavar="TEXT", help=hidden)
    add_config_flags(parser, ENGINE_FLAGS, everything=everything)
    add_speculative_flags(parser, everything=everything)
    _add_model_options(parser, everything)


def _add_model_options(parser: argparse.ArgumentParser, everything: bool) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument(
        "--chat-template", metavar="FILE", help="a Jinja file instead of the model's" if everything else hidden
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a hub model" if everything else hidden
    )


def _batch(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("file", metavar="FILE", help='JSON lines: {"custom_id", "method": "POST", "url", "body"}')
    parser.add_argument("-o", "--output", metavar="FILE", help="for the answers; of a.jsonl it is a.out.jsonl")
    parser.add_argument("--retry-failed", action="store_true", help="do lines again whose answer is an error")
    parser.add_argument("--model", metavar="MODEL", help="for all lines, whatever their bodies name")
    parser.add_argument("--url", metavar="URL", help="ask this server instead of an engine of its own")
    parser.add_argument("--api-key", metavar="KEY", help="for --url; better in PACELINE_API_KEY")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at once (twice the seats; --url: 64)")
    add_config_flags(parser, (*BATCH_FLAGS, *ENGINE_FLAGS), everything=everything)
    add_speculative_flags(parser, everything=everything)
    _add_model_options(parser, everything)


def _pull(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="library name or org/repo")


def _ls(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _show(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument("--template", action="store_true", help="print the chat template and nothing else")
    parser.add_argument("--modelfile", action="store_true", help="print a Modelfile to start your own from")
    parser.add_argument("--json", action="store_true", help="for programs")


def _rm(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name from: paceline ls")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask before deleting from the Hugging Face cache"
    )


def _create(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("name", metavar="NAME", help="what to call it: NAME or NAME:TAG")
    parser.add_argument("-f", "--file", metavar="FILE", default="Modelfile", help="a Modelfile (./Modelfile)")


def _ps(parser: argparse.ArgumentParser, everything: bool) -> None:
    _add_server_address(parser)
    parser.add_argument("--api-key", metavar="KEY", help="the server's key, if it asks for one")
    parser.add_argument("--json", action="store_true", help="for programs")


def _stop(parser: argparse.ArgumentParser, everything: bool) -> None:
    _add_server_address(parser)


def _add_server_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="HOST", help="where the server listens (OLLAMA_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="PORT", help="its port (OLLAMA_HOST, else 8000)")


def _check(parser: argparse.ArgumentParser, everything: bool) -> None:
    parser.add_argument("file", metavar="FILE", help="a TOML config")
    parser.add_argument("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one key")


def _version(parser: argparse.ArgumentParser, everything: bool) -> None:
    pass


VERBS: dict[str, Verb] = {
    "run": Verb(
        "ask a model, once or in a conversation",
        _run,
        'paceline run smollm2:135m "Why is the sky blue?"\n'
        '  echo "Summarise: ..." | paceline run smollm2:135m\n'
        "  paceline run",
    ),
    "serve": Verb(
        "serve a model over HTTP (OpenAI's API)",
        _serve,
        "paceline serve smollm2:135m --port 8000\n"
        "  paceline serve --config configs/laptop.toml -s scheduler.max_num_seqs=32",
    ),
    "upgrade": Verb(
        "replace a server on this machine by a newer one, without a failed call",
        _serve,
        "paceline upgrade                            # the same again: a newer paceline, changed files\n"
        "  paceline upgrade smollm2:360m --port 8000   # another model, other flags\n\n"
        "The new server loads while the old one serves, takes its port and goes on in this terminal; the old one\n"
        "answers what it has and ends. What cannot start leaves the old one as it is. Back: upgrade to what was.",
    ),
    "batch": Verb(
        "answer a file of requests; started again it goes on where it was",
        _batch,
        "paceline batch requests.jsonl -o answers.jsonl --model smollm2:135m\n"
        "  paceline batch requests.jsonl --url http://127.0.0.1:8000",
    ),
    "pull": Verb("fetch a model", _pull, "paceline pull qwen2.5:0.5b\n  paceline pull Qwen/Qwen2.5-0.5B-Instruct"),
    "ls": Verb("list the models on this machine", _ls, "paceline ls\n  paceline ls --json"),
    "show": Verb("what a model is: sizes, context, template, licence", _show, "paceline show smollm2:135m"),
    "create": Verb(
        "make a model of your own from a Modelfile",
        _create,
        "paceline create fox -f Modelfile\n  paceline create fox:loud -f loud.modelfile",
    ),
    "ps": Verb("what is served on this machine", _ps, "paceline ps\n  paceline ps --port 9000"),
    "stop": Verb("end a server on this machine", _stop, "paceline stop\n  paceline stop --port 9000"),
    "rm": Verb("delete a fetched or created model", _rm, "paceline rm qwen2.5:0.5b -y"),
    "check": Verb("check a config file", _check, "paceline check configs/laptop.toml"),
    "version": Verb("print the version", _version, "paceline version"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status and never lets an exception out."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        status = _dispatch([w for w in words if w != "--debug"], debug)
        sys.stdout.flush()
        return status
    except UsageError as e:
        return _fail(str(e), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (| head). Python flushes once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as e:
        if debug:
            raise
        return _fail(_one_line(e), 1)


def _dispatch(words: list[str], debug: bool) -> int:
    if not words or words[0] in ("-h", "--help", "--help=all", "help"):
        if len(words) > 1 and words[0] == "help" and words[1] in VERBS:
            words = [words[1], "--help"]
        else:
            sys.stdout.write(_overview())
            return 0
    if words[0] in ("-V", "--version"):
        words[0] = "version"
    verb = words[0]
    if verb not in VERBS:
        raise UsageError(f"{verb!r} is no command{_nearest(verb, VERBS)}; see: paceline --help")
    args = parse(verb, words[1:])
    if args is None:
        return 0
    args.debug = debug
    args.words = words[1:]
    for note in getattr(args, "notes", []):
        sys.stderr.write(f"paceline: {note}\n")
    return import_module(f".commands.{verb}", __package__).run(args)


def parse(verb: str, words: list[str]) -> argparse.Namespace | None:
    """The verb's arguments; None when help was asked for, which is printed here."""
    own = words[: words.index("--")] if "--" in words else words
    everything = "--help=all" in own
    summary, arguments, examples = VERBS[verb]
    parser = Parser(
        prog=f"paceline {verb}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    arguments(parser, everything)
    more = "" if verb not in ("run", "serve", "upgrade", "batch") else " (--help=all: every flag)"
    parser.add_argument("-h", "--help", action="store_true", help=f"show this{more}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    if everything or "-h" in own or "--help" in own:
        sys.stdout.write(parser.format_help())
        return None
    try:
        args, unknown = parser.parse_known_intermixed_args(words)
    except UsageError as e:
        raise UsageError(f"{verb}: {e}; see: paceline {verb} --help") from e
    if unknown:
        names = [name for action in parser._actions for name in action.option_strings]
        flag = next((w for w in unknown if w.startswith("-")), unknown[0])
        kind = "flag" if flag.startswith("-") else "argument"
        raise UsageError(
            f"{verb}: unknown {kind} {flag}{_nearest(flag.partition('=')[0], names)}; see: paceline {verb} --help"
        )
    return args


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return (
        "paceline: an LLM serving engine\n\nusage: paceline COMMAND [ARGUMENTS] [--debug]\n\n"
        + "\n".join(lines)
        + '\n\nexamples:\n  paceline run smollm2:135m "Why is the sky blue?"\n  paceline serve smollm2:135m\n\n'
        + "paceline COMMAND --help tells more\n"
    )


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _one_line(error: Exception) -> str:
    from ..engine.errors import PacelineError

    text = " ".join(str(error).split())
    if isinstance(error, PacelineError):
        return text
    return f"internal error: {type(error).__name__}: {text}; run it again with --debug and report what it prints"


def _fail(line: str, status: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"paceline: {line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
