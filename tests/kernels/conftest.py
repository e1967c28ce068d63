"""Every test here leaves the native library as it found it. Without a GPU, Triton's kernels run in its interpreter."""

import os
from collections.abc import Iterator

import pytest
import torch

from paceline.kernels import dispatch
from paceline.kernels.native import load

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported


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


@pytest.fixture(params=["reference", "native"])
def either(request: pytest.FixtureRequest) -> None:
    """The reference, then the native library."""
    if request.param == "reference":
        dispatch.configure(native=False)
    elif reason := load.why_not("cpu"):
        pytest.skip(reason)
