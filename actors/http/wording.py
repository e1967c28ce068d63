"""Errors in the words of the body that the client wrote. What is checked is the OpenAI body that asks for the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...engine.errors import InvalidRequestError


@contextmanager
def in_words_of(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the parameter of an error that leaves the block; ``names`` are OpenAI's -> the dialect's.

    Raises:
        InvalidRequestError: what was raised inside, renamed.
    """
    try:
        yield
    except InvalidRequestError as e:
        first, dot, rest = (e.param or "").partition(".")
        if first not in names:
            raise
        message = str(e).replace(first, names[first], 1)
        param = names[first] + dot + rest
        raise InvalidRequestError(message, param=param, code=e.code, not_found=e.not_found) from None
