"""Keys made in one native call have the bits of the law in torch."""

import pytest
import torch

from paceline.kernels import noise
from paceline.kernels.native import load


def test_native_keys_are_the_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := load.why_not("cpu"):
        pytest.skip(reason)
    g = torch.Generator().manual_seed(1)
    seeds, positions, windows = (torch.randint(-(2**62), 2**62, (300,), generator=g) for _ in range(3))
    positions[:100] = torch.arange(100)
    for stream in (noise.ACCEPT, noise.RESIDUAL, noise.DRAFT, noise.SIBLING + 7):
        quick = noise.keys(seeds, positions, stream, windows), noise.uniforms(seeds, positions, stream, windows)
        with monkeypatch.context() as hidden:
            hidden.setattr(load, "why_not", lambda device: "hidden")
            law = noise.keys(seeds, positions, stream, windows), noise.uniforms(seeds, positions, stream, windows)
        assert all(torch.equal(a, b) for a, b in zip(quick, law, strict=True))
        assert len(quick[0].unique()) == 300
