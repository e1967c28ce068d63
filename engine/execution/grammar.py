"""Grammars of requests: compiled once and kept, and where each request's output stands in its own.

llguidance does the work. A ``Constraint`` is fed committed tokens only; drafts are fed, looked behind and taken back
within one call. Its state is a function of the grammar and the output, so a request that comes back from preemption is
fed its output again. Knows nothing of logits, steps or schemas: a grammar is text that the gateway has compiled before.
"""

import contextlib
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.plan import path_to

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_KEPT = 256
MAX_KEPT_CHARS = 4 * 1024 * 1024
"""Of the texts of all kept grammars; compiled ones take some ten times as much."""


class GrammarError(Exception):
    """A request cannot go on under its grammar; one line for its client."""


class Grammars:
    """Compiled grammars of one vocabulary, the least recently used dropped first. For several threads.

    ``tokenizer`` is asked for at the first grammar: who serves none does not wait for it.
    """

    def __init__(self, tokenizer: "Callable[[], LLTokenizer]") -> None:
        self._make_tokenizer = tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._num_chars = 0
        self._lock = threading.Lock()

    def constraint(self, grammar: str, output_ids: Sequence[int] = ()) -> "Constraint":
        """Where a request stands that has ``output_ids`` so far. Costs nothing: it is compiled when it is asked."""
        return Constraint(self, grammar, output_ids)

    def is_kept(self, grammar: str) -> bool:
        """Is it compiled already?"""
        with self._lock:
            return grammar in self._kept

    def fault(self, grammar: str) -> str:
        """Have it compiled; why it cannot be, empty = it is."""
        try:
            self.compile(grammar)
        except GrammarError as e:
            return str(e)
        return ""

    def compile(self, grammar: str) -> "LLMatcher":
        """A matcher at the beginning of ``grammar``, the caller's own.

        Raises:
            GrammarError: it is none, it exceeds the bounds of its complexity, or the tokenizer does not serve.
        """
        with self._lock:
            kept = self._kept.get(grammar)
            if kept is not None:
                self._kept.move_to_end(grammar)
                return kept.deep_copy()
        matcher = self._compiled(grammar)
        with self._lock:
            if grammar not in self._kept:
                self._keep(grammar, matcher)
        return matcher.deep_copy()

    def _compiled(self, grammar: str) -> "LLMatcher":
        from llguidance import LLMatcher

        matcher = LLMatcher(self._ready_tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"the grammar does not compile: {first_line(matcher.get_error())}; send a simpler one")
        return matcher

    def _ready_tokenizer(self) -> "LLTokenizer":
        with self._lock:
            if self._tokenizer is None:
                try:
                    self._tokenizer = self._make_tokenizer()
                except ValueError as e:
                    what = f"this model's tokenizer does not serve for grammars: {first_line(str(e))}"
                    raise GrammarError(f"{what}; leave response_format and structured_outputs out") from e
            return self._tokenizer

    def _keep(self, grammar: str, matcher: "LLMatcher") -> None:
        self._kept[grammar] = matcher
        self._num_chars += len(grammar)
        while len(self._kept) > MAX_KEPT or (self._num_chars > MAX_KEPT_CHARS and len(self._kept) > 1):
            dropped, _ = self._kept.popitem(last=False)
            self._num_chars -= len(dropped)


class Constraint:
    """One request under its grammar. Used by one thread at a time: committed to between steps, asked within one."""

    __slots__ = ("_due", "_grammar", "_grammars", "_matcher")

    def __init__(self, grammars: Grammars, grammar: str, output_ids: Sequence[int]) -> None:
        self._grammars = grammars
        self._grammar = grammar
        self._matcher: LLMatcher | None = None
        self._due = list(output_ids)  # committed, and not yet fed

    def push(self, token_ids: Sequence[int]) -> None:
        """These were committed. They are fed when the next mask is due, which is off the step's critical path."""
        self._due += token_ids

    def fill(self, bits: np.ndarray, draft_ids: Sequence[int], parents: Sequence[int] | None) -> None:
        """The allowed ids behind the output and behind each draft -> ``bits`` int32 [k + 1, words], one bit an id.

        Row 0 is the root's, row 1 + i that of draft i, as if the drafts before it (in a tree: its ancestors) were
        committed. Rows behind a draft that the grammar forbids allow everything: no rule gets there.

        Raises:
            GrammarError: see ``Grammars.compile``; or a bound of the matcher was hit, or the output does not fit.
        """
        from llguidance.numpy import fill_next_token_bitmask

        matcher = self._up_to_date()
        bits[1:] = -1
        fill_next_token_bitmask(matcher, bits, 0)
        if parents is None:
            num_fed = 0
            for i, draft in enumerate(draft_ids):
                fed = matcher.try_consume_tokens([draft])
                if not fed and not matcher.is_stopped():  # forbidden; a stopped one takes nothing, and end ids follow
                    break
                num_fed += fed
                fill_next_token_bitmask(matcher, bits, 1 + i)
            _take_back(matcher, num_fed)
        else:
            for node in range(len(draft_ids)):
                path = [draft_ids[n] for n in path_to(node, parents)]
                num_fed = matcher.try_consume_tokens(path)
                if num_fed == len(path) or matcher.is_stopped():
                    fill_next_token_bitmask(matcher, bits, 1 + node)
                _take_back(matcher, num_fed)
        if matcher.is_error():
            raise _too_complex(matcher)

    def allowed(self, draft_ids: Sequence[int], parents: Sequence[int] | None) -> list[int]:
        """Which drafts are behind the output and their ancestors what the grammar allows: indices, in order.

        Raises:
            GrammarError: see ``fill``.
        """
        matcher = self._up_to_date()
        if parents is None:
            num_fed = matcher.try_consume_tokens(list(draft_ids))
            _take_back(matcher, num_fed)
            return list(range(num_fed))
        found: list[int] = []
        for node in range(len(draft_ids)):
            path = [draft_ids[n] for n in path_to(node, parents)]
            num_fed = matcher.try_consume_tokens(path)
            if num_fed == len(path):
                found.append(node)
            _take_back(matcher, num_fed)
        return found

    def forced(self, most: int) -> list[int]:
        """The only tokens that can follow the output, ``most`` at most; [] where there is a choice, or nothing follows.

        Written as the tokenizer would write that text. The masks allow nothing else.

        Raises:
            GrammarError: see ``fill``.
        """
        matcher = self._up_to_date()
        ids = matcher.compute_ff_tokens()[:most]
        if matcher.is_error():
            raise _too_complex(matcher)
        return ids

    def _up_to_date(self) -> "LLMatcher":
        if self._matcher is None:
            self._matcher = self._grammars.compile(self._grammar)
        if self._due:
            fed = self._matcher.try_consume_tokens(self._due)
            # Behind the end of the grammar come end ids only, which are not fed; others mean a fault of ours.
            if fed < len(self._due) and not self._matcher.is_stopped():
                raise GrammarError(f"output token {self._due[fed]} does not fit the grammar; send the request again")
            self._due = []
        return self._matcher


def step_aside() -> None:
    """Let the calling thread, which compiles, have what time all others leave, on systems that know such threads."""
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _too_complex(matcher: "LLMatcher") -> GrammarError:
    return GrammarError(f"the grammar is too complex here: {first_line(matcher.get_error())}; send a simpler one")


def _take_back(matcher: "LLMatcher", num_tokens: int) -> None:
    if num_tokens:
        matcher.rollback(num_tokens)


def first_line(error: str) -> str:
    """What a grammar's error says, without the state that llguidance dumps behind it."""
    return (error.strip().splitlines() or ["no reason given"])[0][:200].rstrip(" .;")
