"""Every quant plug-in: close to the exact product at unkind sizes, bias and all; it owns what it packed."""

from types import ModuleType

import pytest
import torch

from paceline.engine import plugins

QUANTS = plugins.names("engine.quant")
# Largest error over the largest output, fp32 weights drawn from a normal distribution.
BOUNDS = {"none": 1e-6, "int8": 0.02, "blocks": 0.2}
SIZES = [(1, 1, 1), (1, 16, 32), (3, 17, 33), (8, 64, 100), (60, 63, 576)]


@pytest.fixture(params=QUANTS)
def quant(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("engine.quant", request.param)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize(("t", "n", "k"), SIZES)
def test_close_to_the_exact_product(quant: ModuleType, t: int, n: int, k: int) -> None:
    torch.manual_seed(t * n * k)
    x, weight, bias = torch.randn(t, k), torch.randn(n, k), torch.randn(n)
    bound = BOUNDS[quant.__name__.rpartition(".")[2]]
    packed = quant.pack(weight)
    want = x.double() @ weight.double().T
    assert quant.linear(x, packed, n).shape == (t, n)
    assert relative_error(quant.linear(x, packed, n), want) < bound
    assert relative_error(quant.linear(x, packed, n, bias), want + bias) < bound


def test_packing_owns_its_memory(quant: ModuleType) -> None:
    weight, x = torch.randn(4, 32), torch.randn(2, 32)
    packed = quant.pack(weight)
    before = quant.linear(x, packed, 4)
    weight.zero_()
    assert torch.equal(quant.linear(x, packed, 4), before)


def test_joined_outputs_are_packed_as_each_by_itself(quant: ModuleType) -> None:
    torch.manual_seed(5)
    first, second, x = torch.randn(16, 64), torch.randn(24, 64), torch.randn(3, 64)
    apart = torch.cat([quant.linear(x, quant.pack(w), len(w)) for w in (first, second)], dim=1)
    together = quant.linear(x, quant.pack(torch.cat([first, second])), 40)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5 if quant.__name__.endswith("none") else 0)


@pytest.mark.parametrize("name", ["int8", "blocks"])
def test_rows_do_not_depend_on_the_batch(name: str) -> None:
    quant = plugins.load("engine.quant", name)
    torch.manual_seed(6)
    x, packed = torch.randn(33, 96), quant.pack(torch.randn(48, 96))
    whole = quant.linear(x, packed, 48)
    for row in range(33):
        assert torch.equal(quant.linear(x[row : row + 1].clone(), packed, 48)[0], whole[row])


def test_none_multiplies_in_the_weights_dtype() -> None:
    quant = plugins.load("engine.quant", "none")
    x, weight = torch.randn(2, 64), torch.randn(8, 64).bfloat16()
    got = quant.linear(x, quant.pack(weight), 8)
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.nn.functional.linear(x.bfloat16(), weight).float())
