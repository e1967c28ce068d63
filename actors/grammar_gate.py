"""Requests whose grammar the target has yet to compile: they join the queue when it has, and nobody waits with them.

A step that met a grammar for the first time would hold up everyone in it, for as long as the compiler takes. So each is
asked for beforehand; several requests under one grammar wait for one answer. Plain state, no clock.
"""

from typing import NamedTuple

from ..engine.types import RequestId
from .messages import Add, Compile, Compiled


class Held(NamedTuple):
    """A request at the gate."""

    sender: str
    add: Add
    arrived_s: float


class GrammarGate:
    """See the module's docstring. True while somebody waits."""

    def __init__(self) -> None:
        self._held: dict[str, list[Held]] = {}
        """By grammar, in the order of arrival."""
        self._keys: dict[str, str] = {}
        """Of what the target was asked: its key -> the grammar."""
        self._num_asked = 0

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())

    def hold(self, sender: str, add: Add, arrived_s: float) -> Compile | None:
        """Keep a request; what to ask the target, where that is not asked already."""
        grammar = add.params.grammar
        is_new = grammar not in self._held
        self._held.setdefault(grammar, []).append(Held(sender, add, arrived_s))
        return self._ask(grammar) if is_new else None

    def _ask(self, grammar: str) -> Compile:
        self._num_asked += 1
        key = str(self._num_asked)
        self._keys[key] = grammar
        return Compile(key, grammar)

    def passed(self, answer: Compiled) -> list[Held]:
        """Who waited for this answer."""
        return self._held.pop(self._keys.pop(answer.key, ""), [])

    def drop(self, request_id: RequestId) -> None:
        """A request that wants nothing any more."""
        for held in self._held.values():
            held[:] = [h for h in held if h.add.request_id != request_id]

    def ask_again(self) -> list[Compile]:
        """There is another target: all that is still to be answered."""
        self._keys.clear()
        return [self._ask(grammar) for grammar in self._held]

    def take_all(self) -> list[Held]:
        """Everyone, and forget them."""
        held = [each for of in self._held.values() for each in of]
        self._held.clear()
        self._keys.clear()
        return held
