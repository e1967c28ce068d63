"""Wire frame -> message, of every inbox. What is decoded encodes to a frame that says the same."""

from fuzzing.messages import EXAMPLES, ROLES
from fuzzing.target import Target
from fuzzing.tree_mutator import msgpack_mutator

from paceline.actors import wire
from paceline.engine.errors import WireError


def run(data: bytes) -> None:
    """A byte for the role, the version byte, the message."""
    decoder = wire.decoder(ROLES[data[0] % len(ROLES)] if data else ROLES[0])
    message = decoder.decode(data[1:])
    again = decoder.decode(bytes(wire.encode(message)))
    assert repr(again) == repr(message)  # NaN differs from itself


def _seeds() -> list[bytes]:
    return [bytes([i]) + bytes(wire.encode(m)) for i, role in enumerate(ROLES) for m in EXAMPLES[role]]


TARGET = Target(run=run, seeds=_seeds(), mutate=msgpack_mutator(head=2), expected=(WireError,))
