"""One thing that the client asked of the engine and that is not over: all that is needed to ask for it once more.

Knows no mailbox.
"""

from typing import TypeAlias

import msgspec

from .call import Call
from .messages import Again, Detokenize, Generate, ResetPrefixCache, Tokenize
from .neighbour import check_replays

Question: TypeAlias = Generate | Tokenize | Detokenize | ResetPrefixCache


class Asked:
    """A message, when it was sent, and the call that takes the answer."""

    __slots__ = ("_asked_s", "_message", "_num_replays", "call", "is_sent", "to")

    def __init__(self, message: Question, to: str, call: Call, now_s: float) -> None:
        self.to = to
        """The actor that is asked."""
        self.call = call
        self.is_sent = False
        """It went out; else it waits for the actor to be there."""
        self._message = message
        self._asked_s = now_s
        self._num_replays = 0

    @property
    def call_id(self) -> str:
        """Of the message and its answers."""
        return self._message.call_id

    def to_send(self, now_s: float) -> Question:
        """The message as it goes out now, at first or after the death of who had it.

        Raises:
            UnavailableError: it was sent often enough.
        """
        message = self._message
        if self.is_sent:
            self._num_replays += 1
            check_replays(self._num_replays)
            self.call.begin_again()
        self.is_sent = True
        if not isinstance(message, Generate):
            return message
        again = None
        if self._num_replays:
            again = Again(self._num_replays, self.call.is_admitted, self.call.ended)
        return msgspec.structs.replace(
            message, timeout_s=max(0.0, message.timeout_s - (now_s - self._asked_s)), again=again
        )
