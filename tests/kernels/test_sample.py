"""Keyed Gumbel-max: Philox's published vectors, the law of the draws, and the native search against the plain one."""

import math

import pytest
import torch

from paceline.kernels import dispatch, ops
from paceline.kernels.native import load
from paceline.kernels.sample import reference


@pytest.fixture(params=["reference", *load.ISAS])
def path(request: pytest.FixtureRequest) -> None:
    if request.param == "reference":
        dispatch.configure(native=False)
    elif reason := load.why_not("cpu"):
        pytest.skip(reason)
    elif load.limit_isa(request.param) != request.param:
        pytest.skip(f"this machine has no {request.param}")


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (torch.tensor([v]) for v in counter)
    got = reference.philox((c0, c1, c2, c3), (torch.tensor([key[0]]), torch.tensor([key[1]])))
    assert tuple(int(w) for w in got) == words


def _sample(logits: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, t: float = 1.0) -> torch.Tensor:
    return ops.sample(logits, torch.full((len(logits),), t), seeds, positions)


def test_greedy_takes_the_lowest_of_equals(path: None) -> None:
    logits = torch.zeros(4, 100)
    logits[1, [70, 30, 99]] = 1.0
    logits[2] = -torch.inf
    logits[3, 64] = torch.inf
    zeros = torch.zeros(4, dtype=torch.int64)
    assert _sample(logits, zeros, zeros, 0.0).tolist() == [0, 30, 0, 64]


def test_masked_ids_are_never_drawn(path: None) -> None:
    logits = torch.full((500, 77), -torch.inf)
    logits[:, [3, 40, 76]] = torch.tensor([0.0, -3.0, 1.0])
    drawn = _sample(logits, torch.arange(500), torch.zeros(500, dtype=torch.int64))
    assert set(drawn.tolist()) == {3, 40, 76}
    one = torch.full((500, 77), -torch.inf)
    one[:, 40] = -1e4
    assert (_sample(one, torch.arange(500), torch.arange(500)) == 40).all()


def test_draws_follow_the_softmax(path: None) -> None:
    """Chi-square over 15 ids, 20,000 draws by seed and as many by position."""
    n = 20_000
    logits = torch.linspace(-2, 2, 15)
    expected = logits.softmax(0) * n
    many, zeros = logits.expand(n, 15).contiguous(), torch.zeros(n, dtype=torch.int64)
    for seeds, positions in ((torch.arange(n), zeros), (zeros, torch.arange(n))):
        counts = torch.bincount(_sample(many, seeds, positions), minlength=15)
        assert float(((counts - expected) ** 2 / expected).sum()) < 43.0  # 14 degrees of freedom, p = 1e-4
        assert counts.min() > 0


def test_both_halves_of_a_seed_count(path: None) -> None:
    logits = torch.zeros(4, 50_000)
    drawn = _sample(logits, torch.tensor([1, 1 + (1 << 32), -1, 0xFFFFFFFF]), torch.zeros(4, dtype=torch.int64))
    assert len(set(drawn.tolist())) == 4


def test_noise_belongs_to_the_id_not_to_the_size(path: None) -> None:
    """More ids that cannot win, and the choice stays."""
    g = torch.Generator().manual_seed(5)
    logits = torch.randn(200, 103, generator=g)
    padded = torch.nn.functional.pad(logits, (0, 61), value=-torch.inf)
    seeds, positions = torch.arange(200), torch.arange(200) * 3
    assert torch.equal(_sample(logits, seeds, positions), _sample(padded, seeds, positions))


def test_native_search_misses_nothing(native: None) -> None:
    """100,000 draws over flat, usual and steep logits, large magnitudes too, equal those of the plain path."""
    g = torch.Generator().manual_seed(11)
    for n, size, factor, shift in (
        (60_000, 67, 1.0, 0.0),
        (30_000, 130, 8.0, 0.0),
        (6_000, 515, 0.0, 0.0),
        (3_950, 300, 20.0, 3e5),
        (50, 49_152, 3.0, -1e3),
    ):
        logits = torch.randn(n, size, generator=g) * factor + shift
        seeds = torch.randint(-(2**63), 2**63 - 1, (n,), generator=g)
        positions = torch.randint(0, 2**31, (n,), generator=g)
        assert torch.equal(_sample(logits, seeds, positions), reference.run(logits, torch.ones(n), seeds, positions))


def test_largest_noise_is_what_the_search_assumes() -> None:
    """The bound that lets the search skip: the least word gives the most noise, about 22.9."""
    v = 0.5 * 2.0**-32
    assert -math.log(-math.log1p(-v)) < 34 * math.log(2)
