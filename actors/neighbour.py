"""Is a neighbouring actor there to be sent work? Judged from its Hello, from word of its death, and from a clock.

What is open when a neighbour dies waits, is sent again to its replacement, and ends with an error where that does not
come in time or has come too often. Who uses this keeps what is to be sent; nothing of it is known here.
"""

import asyncio
from collections.abc import Callable

from ..engine.errors import UnavailableError

WAIT_S = 60.0
"""How long open work waits for a dead neighbour's replacement before it ends with an error."""
MAX_REPLAYS = 3
"""Most times that one piece of work is sent again: what dies each time may be dying of it."""
RETRY_AFTER_S = 5.0


class Neighbour:
    """One neighbour, from start to start. Its first process counts as there: messages wait in its inbox."""

    def __init__(self, name: str, epoch: int, give_up: Callable[[], None]) -> None:
        """``epoch``: of the process to which messages go now. ``give_up`` is called ``WAIT_S`` after a death."""
        self.name = name
        self.is_up = True
        self.is_late = False
        """It has been away for longer than anything waits."""
        self._epoch = epoch
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def lost(self, epoch: int) -> bool:
        """Its process of ``epoch`` is dead. Whether that is news: everything sent so far is lost."""
        if epoch < self._epoch:
            return False
        self._epoch = epoch + 1
        self.is_up = False
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_S, self._late)
        return True

    def met(self, epoch: int) -> bool:
        """Its process of ``epoch`` can work. Whether that is another one, which knows nothing of what was sent before.

        It may be the first to tell that the one before is dead.
        """
        if epoch < self._epoch or (epoch == self._epoch and self.is_up):
            return False
        self._epoch = epoch
        self.is_up = True
        self.is_late = False
        self.close()
        return True

    def why_down(self) -> UnavailableError:
        """What to tell those that waited in vain."""
        what = f"the {self.name} process has been down for {WAIT_S:.0f} s; try again later"
        return UnavailableError(what, code="engine_unavailable", retry_after_s=RETRY_AFTER_S)

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self.is_late = True
        self._give_up()


def check_replays(num_replays: int) -> None:
    """May work be sent again for the ``num_replays``-th time?

    Raises:
        UnavailableError: it may not, ``MAX_REPLAYS`` is the bound.
    """
    if num_replays > MAX_REPLAYS:
        what = f"a process has died {num_replays} times while it worked on this call; send it again, or ask for less"
        raise UnavailableError(what, code="engine_unavailable", retry_after_s=RETRY_AFTER_S)
