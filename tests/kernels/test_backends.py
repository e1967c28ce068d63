"""Every backend in an op's folder against the reference beside it, over the grid, on every instruction set we have."""

import pytest

from paceline.kernels import dispatch, testing
from paceline.kernels.native import load


def _variants(op: str) -> list[tuple[str, str]]:
    """(backend, instruction set) of all backends but the reference."""
    found = [b for b in testing.backends(op) if b != "reference"]
    return [(b, isa) for b in found for isa in (load.ISAS if b == "cpu" else ("",))]


@pytest.mark.parametrize(("op", "backend", "isa"), [(op, *variant) for op in dispatch.OPS for variant in _variants(op)])
def test_agrees_with_the_reference(op: str, backend: str, isa: str) -> None:
    if backend != "cpu":
        pytest.skip(f"{backend} needs a device that this ring does not have")
    if reason := load.why_not("cpu"):
        pytest.skip(reason)
    if load.limit_isa(isa) != isa:
        pytest.skip(f"this machine has no {isa}")
    for case in testing.cases(op):
        ours, law = case.make(), case.make()
        try:
            actual, expected = testing.call(op, backend, ours), testing.call(op, "reference", law)
            testing.assert_close(op, actual, expected)
            testing.assert_close(op, ours, law)  # what is changed in place, and that nothing else is
        except AssertionError as e:
            raise AssertionError(f"{op} {case.name} on {backend} {isa}: {e}") from e


@pytest.mark.parametrize("op", dispatch.OPS)
def test_grid_finds_a_wrong_backend(op: str) -> None:
    """The comparison above can fail: a result off by one is noticed in every case that has one."""
    noticed = 0
    for case in testing.cases(op):
        args = case.make()
        result = testing.call(op, "reference", args)
        changed = args[2] if op == "store_kv" else args[0] if op in ("rope", "decoder_layers") else result
        changed = args[0][0] if op == "move_kv" else changed
        if changed.numel() == 0:
            continue
        wrong = changed.contiguous().clone()
        wrong.view(-1)[-1:] += 1
        with pytest.raises(AssertionError):
            testing.assert_close(op, wrong, changed)
        noticed += 1
    assert noticed >= 3


@pytest.mark.parametrize("op", dispatch.OPS)
def test_every_op_has_reference_and_cpu(op: str) -> None:
    assert testing.backends(op)[0] == "reference"
    assert "cpu" in testing.backends(op)
