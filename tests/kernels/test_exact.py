"""The exponential and the sum on which the references stand."""

import torch

from paceline.kernels.exact import exp, fold


def test_exp_is_correct_to_the_last_place() -> None:
    x = torch.linspace(-87.0, 88.5, 40_001)
    true = torch.exp(x.double())
    assert ((exp(x).double() - true).abs() / true).max() < 2.0**-23


def test_exp_at_the_edges() -> None:
    x = torch.tensor([-torch.inf, -1e9, -746.0, 0.0, 89.0, torch.inf, torch.nan])
    torch.testing.assert_close(
        exp(x), torch.tensor([0.0, 0.0, 0.0, 1.0, torch.inf, torch.inf, torch.nan]), rtol=0, atol=0, equal_nan=True
    )


def test_exp_does_not_depend_on_shape() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 20
    assert torch.equal(torch.stack([exp(v) for v in x]), exp(x))


def test_fold_sums_and_ignores_trailing_zeros() -> None:
    for n in (1, 2, 3, 17, 64, 100):
        x = torch.randn(5, n, generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(fold(x), x.double().sum(-1).float(), rtol=1e-6, atol=1e-6)
        for extra in (1, 7, 40):
            assert torch.equal(fold(torch.nn.functional.pad(x, (0, extra))), fold(x))
