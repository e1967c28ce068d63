"""``paceline run``: one answer from an argument or standard input, or a conversation on a terminal."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import msgspec

from ...engine.errors import PacelineError
from ...engine.store.located import Located, ModelCard
from .. import describe, prepare, terminal
from ..as_modelfile import as_modelfile
from ..conversation import Conversation, Costs, read_answer
from ..flags import UsageError
from ..repl import Repl, line_editing
from ..session import Session

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "min_tokens", "seed", "stop")


def run(args: argparse.Namespace) -> int:
    """Start the engine, answer, end it. The status is 130 when Ctrl-C cut a single answer."""
    if args.model and not args.prompt and any(c.isspace() for c in args.model) and not os.path.exists(args.model):
        args.model, args.prompt = None, [args.model]  # a sentence is no model: ask the default one
    prompt = " ".join(args.prompt) if args.prompt else _piped()
    # Actors' notices belong into a server's log, not between the lines of a conversation.
    quiet = [] if args.debug else ['server.log_level="warning"']
    loaded = prepare.load_config(args, quiet)
    located, card = prepare.load_model(args, loaded)
    loaded = prepare.with_model_settings(args, loaded, located, card, quiet)
    sampling = {name: value for name in _SAMPLING if (value := getattr(args, name)) is not None}
    if "seed" in card.defaults:
        sampling.setdefault("seed", card.defaults["seed"])
    system = card.system or None if args.system is None else args.system
    conversation = Conversation(
        chat=card.chat_template is not None, system=system, sampling=sampling, opening=card.messages
    )
    begun_s = time.monotonic()
    session = Session(loaded, located, card)
    with _started(session, f"loading {loaded.model} ..."):
        load_s = time.monotonic() - begun_s
        if prompt is not None:
            return _once(session, conversation, prompt, load_s if args.verbose else None)
        return _talk(session, conversation, args, located, card)


def _piped() -> str | None:
    """The prompt on standard input; None on a terminal, where a conversation starts."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as e:
        raise UsageError(f"run: standard input is not UTF-8 at byte {e.start}; pipe in text") from e
    if not text.strip():
        raise UsageError('run: no prompt; pass one, as in: paceline run smollm2:135m "Why is the sky blue?"')
    return text.rstrip("\n")


def _once(session: Session, conversation: Conversation, prompt: str, load_s: float | None) -> int:
    costs = Costs()
    try:
        _answer(session, conversation, prompt, costs)
    except KeyboardInterrupt:
        return 130
    finally:
        if load_s is not None:
            sys.stderr.write(f"load    {load_s:.2f} s\n{costs.lines()}")
    return 0


def _talk(
    session: Session, conversation: Conversation, args: argparse.Namespace, located: Located, card: ModelCard
) -> int:
    def answer(prompt: str) -> None:
        costs = Costs()
        with suppress(KeyboardInterrupt):  # the answer ends here, the conversation goes on
            _answer(session, conversation, prompt, costs)
        if repl.verbose:
            sys.stdout.write(costs.lines())

    def info() -> str:
        return describe.lines(describe.facts(located, card))

    def modelfile() -> str:
        messages = [*conversation.opening, *conversation.messages]
        said = {"defaults": card.defaults | conversation.sampling, "system": conversation.system or "",
                "messages": messages}  # fmt: skip
        return as_modelfile(located, msgspec.structs.replace(card, **said))

    repl = Repl(
        conversation, answer, info, template=card.chat_template or "", modelfile=modelfile, verbose=args.verbose
    )
    sys.stdout.write(f"{located.name}: type a message, /? for help\n")
    with line_editing():
        repl.run()
    return 0


def _answer(session: Session, conversation: Conversation, prompt: str, costs: Costs) -> None:
    """Print one answer as it comes. Cut short by Ctrl-C, what was written stays part of the conversation."""
    parts: list[str] = []

    def write(text: str) -> None:
        parts.append(text)
        sys.stdout.write(terminal.safe(text, sys.stdout))
        sys.stdout.flush()

    call = conversation.ask(prompt)
    try:
        with closing(session.stream(call)) as items:
            read_answer(items, write, costs)
        conversation.answered("".join(parts))
    except KeyboardInterrupt:
        conversation.answered("".join(parts))
        raise
    except PacelineError:
        conversation.dropped()
        raise
    finally:
        if parts and not parts[-1].endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()


@contextmanager
def _started(session: Session, notice: str) -> Iterator[None]:
    """Start the engine, with ``notice`` on a terminal until it is ready."""
    shown = not terminal.plain(sys.stderr)
    with ExitStack() as stack:
        if shown:
            sys.stderr.write(notice)
            sys.stderr.flush()
        try:
            stack.enter_context(session)
        finally:
            if shown:
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()
        yield
