"""Message <-> bytes. The one place that decodes frames from other actors and that knows the frame's layout.

A frame is one version byte followed by one msgpack value, a tagged union member of the receiver's inbox.
"""

from functools import cache
from typing import Any

import msgspec

from ..engine.errors import WireError
from .messages import (
    PROTOCOL_VERSION,
    DraftInbox,
    GatewayInbox,
    SchedulerInbox,
    SupervisorInbox,
    TargetInbox,
    TokenizerInbox,
)

MAX_FRAME_BYTES = 64 * 1024 * 1024

_VERSION = bytes([PROTOCOL_VERSION])
_INBOXES: dict[str, Any] = {
    "gateway": GatewayInbox,
    "tokenizer": TokenizerInbox,
    "scheduler": SchedulerInbox,
    "target": TargetInbox,
    "draft": DraftInbox,
    "supervisor": SupervisorInbox,
}
_encoder = msgspec.msgpack.Encoder()


def role_of(actor: str) -> str:
    """The role of an actor's name: ``target-1`` plays ``target``.

    Raises:
        LookupError: no such role; a typing error in our own code.
    """
    role = actor.partition("-")[0]
    if role not in _INBOXES:
        raise LookupError(f"no actor plays {actor!r}; roles: {', '.join(_INBOXES)}")
    return role


def encode(message: Any) -> bytearray:
    """The frame of ``message``.

    Raises:
        WireError: it would be over ``MAX_FRAME_BYTES``.
    """
    frame = bytearray(_VERSION)
    _encoder.encode_into(message, frame, 1)
    if len(frame) > MAX_FRAME_BYTES:
        what = f"a {type(message).__name__} message has {len(frame)} bytes"
        raise WireError(f"{what}: the cap is {MAX_FRAME_BYTES}; send a smaller request")
    return frame


class FrameDecoder:
    """Frames of one inbox back to messages. Built once per role: msgspec compiles the union."""

    def __init__(self, role: str) -> None:
        self._decoder = msgspec.msgpack.Decoder(_INBOXES[role])
        self._role = role

    def decode(self, frame: bytes) -> Any:
        """One message of this inbox.

        Raises:
            WireError: whatever is wrong with the frame; nothing else is raised.
        """
        if not frame or len(frame) > MAX_FRAME_BYTES:
            raise WireError(f"frame for {self._role} has {len(frame)} bytes: must be 1 to {MAX_FRAME_BYTES}; dropped")
        if frame[0] != PROTOCOL_VERSION:
            what = f"frame for {self._role} speaks protocol {frame[0]}"
            raise WireError(f"{what}, not {PROTOCOL_VERSION}; restart the engine")
        try:
            return self._decoder.decode(memoryview(frame)[1:])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, MemoryError) as e:
            text = str(e).partition("\n")[0][:200] or type(e).__name__
            raise WireError(f"frame for {self._role} of {len(frame)} bytes is not a message: {text}; dropped") from e


@cache
def decoder(role: str) -> FrameDecoder:
    """The decoder of ``role``'s inbox."""
    return FrameDecoder(role)
