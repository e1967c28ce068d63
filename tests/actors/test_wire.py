"""Frames: what is encoded comes back, and nothing but WireError comes out of bad bytes."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.actors import wire
from paceline.actors.messages import Abort, Add, Drain, Failed, Generate, Sampling, Stop
from paceline.engine.core.plan import Row, StepPlan, StepResult
from paceline.engine.errors import WireError
from paceline.engine.types import ErrorInfo, SamplingParams

EXAMPLES = {
    "scheduler": [
        Add("a-0", [1, 2, 3], SamplingParams(max_tokens=5, logit_bias={7: -1.5}), output_ids=[9]),
        Abort("a-0"),
        StepResult(3, [], 0.25),
        Drain(),
        Stop(),
    ],
    "target": [StepPlan(1, ["x"], [], [Row("a-0", 0, 0, 3, 0, [4], True)])],
    "tokenizer": [Generate("c", Sampling(stop=["\n"]), prompts=["hi", [1, 2]])],
    "supervisor": [Failed("target", 2, ErrorInfo("internal", "disk on fire"))],
}


@pytest.mark.parametrize("role", EXAMPLES)
def test_messages_survive_the_wire(role: str) -> None:
    for message in EXAMPLES[role]:
        assert wire.decoder(role).decode(bytes(wire.encode(message))) == message


def frame(payload: bytes) -> bytes:
    return bytes([wire.PROTOCOL_VERSION]) + payload


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        frame(b""),
        bytes([wire.PROTOCOL_VERSION + 1]) + bytes(wire.encode(Stop()))[1:],
        bytes(wire.encode(Stop())) + b"\x00",
        bytes(wire.encode(StepPlan(0, [], [], []))),  # of another inbox
        frame(msgspec.msgpack.encode(["Abort", 7])),
        frame(msgspec.msgpack.encode(["NoSuchMessage"])),
        frame(b"\xdd\xff\xff\xff\xff"),  # a list said to have 2^32 - 1 entries
        frame(b"\xdb\xff\xff\xff\xffabc"),
        frame(b"\x91" * 100_000),
        frame(b"\x92\xa5Abort\xa2\xff\xfe"),
    ],
    ids=range(11),
)
def test_bad_frames_are_wire_errors(bad: bytes) -> None:
    with pytest.raises(WireError):
        wire.decoder("scheduler").decode(bad)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    for candidate in (data, frame(data)):
        try:
            wire.decoder("scheduler").decode(candidate)
        except WireError:
            continue


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_raises_nothing_else(position: int, value: int) -> None:
    data = bytearray(wire.encode(EXAMPLES["scheduler"][0]))
    data[position % len(data)] = value
    try:
        message = wire.decoder("scheduler").decode(bytes(data))
    except WireError:
        return
    assert type(message).__name__ in {"Add", "Abort"}


def test_a_frame_over_the_cap_is_refused_where_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 100)
    with pytest.raises(WireError, match=r"Add message has \d+ bytes: the cap is 100"):
        wire.encode(Add("a", list(range(200)), SamplingParams(max_tokens=1)))


def test_an_actor_without_a_role_is_our_own_mistake() -> None:
    assert wire.role_of("target-1") == "target"
    with pytest.raises(LookupError, match="tokeniser"):
        wire.role_of("tokeniser")
