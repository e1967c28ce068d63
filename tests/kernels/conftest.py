"""Every test here leaves the native library as it found it."""

from collections.abc import Iterator

import pytest
import torch

from paceline.kernels import dispatch
from paceline.kernels.native import load


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if load.why_not("cpu") is None:
        load.limit_isa()
    dispatch.configure()


@pytest.fixture
def native() -> None:
    """For tests of the native library alone."""
    if reason := load.why_not("cpu"):
        pytest.skip(reason)
