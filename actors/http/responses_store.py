"""Responses that may be asked for again, or continued. In memory, bounded, oldest out first, lost at a restart."""

from collections import OrderedDict
from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from .errors import describe

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 1024 * 1024


class Kept(msgspec.Struct, frozen=True):
    """One stored response."""

    response: dict[str, Any]
    items: list[Any]
    """The conversation up to it, its input included."""
    num_bytes: int

    @property
    def conversation(self) -> list[Any]:
        """What a response that continues it starts with."""
        return [*self.items, *self.response["output"]]


class ResponseStore:
    """By owner and id: nobody reads what was made with another key."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._num_bytes = 0

    def keep(self, owner: str, response: dict[str, Any], items: list[Any]) -> None:
        """Store a response; the oldest make room. What is larger than all room is not kept."""
        num_bytes = len(msgspec.json.encode(response)) + len(msgspec.json.encode(items))
        self._drop((owner, response["id"]))
        if num_bytes > self._max_bytes:
            return
        self._kept[owner, response["id"]] = Kept(response, items, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes or len(self._kept) > self._max_responses:
            self._drop(next(iter(self._kept)))

    def find(self, owner: str, response_id: str, param: str | None = None) -> Kept:
        """A stored response.

        Raises:
            InvalidRequestError: 404, when there is none, or none any more.
        """
        kept = self._kept.get((owner, response_id))
        if kept is None:
            what = f"there is no response {describe(response_id)}, or no longer"
            raise InvalidRequestError(
                f"{what}; send its conversation again", param=param, code="response_not_found", not_found=True
            )
        return kept

    def delete(self, owner: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            InvalidRequestError: 404, when there is none.
        """
        self.find(owner, response_id)
        self._drop((owner, response_id))

    def _drop(self, key: tuple[str, str]) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._num_bytes -= kept.num_bytes
