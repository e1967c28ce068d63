"""``paceline batch``: the requests of a file answered into another one, by an engine of its own or a running server."""

import argparse
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import anyio

from ...engine.config import Config
from ...engine.errors import UnknownModelError
from ...engine.store.located import Located, ModelCard
from .. import prepare
from ..batch.driver import Driver, Way
from ..batch.lines import BadLine, BatchFile, Line
from ..batch.output import OutputFile, Record
from ..batch.progress import Tally, shown
from ..flags import UsageError

API_KEY = "PACELINE_API_KEY"
"""Environment variable with the key for ``--url``: a command line is for all to see."""
_AT_ONCE_OVER_HTTP = 64


def run(args: argparse.Namespace) -> int:
    """Answer what has no line in the output yet. The status is 1 when a line of it is no answer."""
    path = Path(args.file)
    output_path = Path(args.output) if args.output else path.with_name(f"{path.stem}.out.jsonl")
    _check(args, path, output_path)
    with BatchFile(path) as batch, OutputFile(output_path, drops_failed=args.retry_failed) as output:
        todo, bad, num_lines = _sift(batch, output)
        for line in bad:
            output.bad(line)
        if before := num_lines - len(todo) - len(bad):
            _say(f"{before} of {num_lines} lines are in {output_path} already")
        tally = Tally(len(todo))
        try:
            _Run(args, batch, output, tally).answer(todo)
        except BaseException:
            _say(f"stopped at {tally.text()}; the same command goes on from there")
            raise
        if todo:
            _say(f"{tally.text()}: {output_path}")
        if output.num_failed:
            _say(f"paceline: {output.num_failed} lines of {output_path} are no answers; each says why")
        return 1 if output.num_failed else 0


def _check(args: argparse.Namespace, path: Path, output_path: Path) -> None:
    """What argparse cannot know.

    Raises:
        UsageError: flags that exclude each other, or an output that would overwrite the batch.
    """
    if args.concurrency is not None and args.concurrency < 1:
        raise UsageError(f"batch: --concurrency {args.concurrency}: must be at least 1")
    if args.url and (args.overrides or args.config):
        raise UsageError("batch: --url uses a server that runs already; leave out --config and the engine's flags")
    if not args.url and args.api_key:
        raise UsageError("batch: --api-key is for a running server; pass its --url too, or leave it out")
    if path.exists() and output_path.exists() and output_path.samefile(path):
        raise UsageError(f"batch: {output_path} is the batch itself; pass another file with -o")


def _sift(batch: BatchFile, output: OutputFile) -> tuple[list[Line], list[BadLine], int]:
    """Lines to send, bad ones to tell, and how many there are in all."""
    todo, bad, num_lines = list[Line](), list[BadLine](), 0
    for line in batch.lines():
        num_lines += 1
        if isinstance(line, BadLine):
            if line.number not in output.done_numbers:
                bad.append(line)
        elif line.custom_id not in output.done_ids:
            todo.append(line)
    return todo, bad, num_lines


class _Run:
    """One start of the command, its files open."""

    def __init__(self, args: argparse.Namespace, batch: BatchFile, output: OutputFile, tally: Tally) -> None:
        self._args = args
        self._batch = batch
        self._output = output
        self._tally = tally

    def answer(self, lines: list[Line]) -> None:
        """Over HTTP, or by one engine after the other where lines name several models."""
        if self._args.url:
            anyio.run(self._over_http, lines)
            return
        # Actors' notices belong into a server's log, not between the lines of progress.
        quiet = [] if self._args.debug else ['server.log_level="warning"']
        named = self._args.model
        default = prepare.load_config(self._args, quiet).model
        if self._args.revision:
            default = default.removesuffix(f"@{self._args.revision}")  # it comes back below
        for name, group in _by_model(lines, named, default).items():
            self._args.model = name
            loaded = prepare.load_config(self._args, quiet)
            try:
                located, card = prepare.load_model(self._args, loaded)
            except UnknownModelError as e:
                if named:
                    raise
                for line in group:
                    self._tally.add(is_answer=False, num_tokens=0)
                    self._output.failed(line.custom_id, "model_not_found", str(e))
                continue
            anyio.run(partial(self._in_process, loaded, located, card, name, group))

    async def _over_http(self, lines: list[Line]) -> None:
        from ..batch.over_http import OverHttp

        key = self._args.api_key or os.environ.get(API_KEY)
        await self._drive(OverHttp(self._args.url, self._args.concurrency or _AT_ONCE_OVER_HTTP, key), lines)

    async def _in_process(
        self, loaded: Config, located: Located, card: ModelCard, name: str, lines: list[Line]
    ) -> None:
        from ..batch.in_process import started

        async with started(loaded, located, card, name) as way:
            way.limit = self._args.concurrency or way.limit
            await self._drive(way, lines)

    async def _drive(self, way: Way, lines: list[Line]) -> None:
        with shown(self._tally, sys.stderr) as display:

            def report(record: Record, num_tokens: int) -> None:
                self._tally.add(is_answer=record.is_answer, num_tokens=num_tokens)
                display.changed(self._tally)

            await Driver(self._batch, self._output, way, report, self._args.model).run(lines)


def _by_model(lines: Iterable[Line], named: str | None, default: str) -> dict[str, list[Line]]:
    """Lines by the model that is to answer them, in the order of the file."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(named or line.model or default, []).append(line)
    return groups


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
