"""The one seam where a backend is chosen: what is chosen, the reasons given, and hiding the native library."""

import importlib.util
import subprocess
import sys
import timeit
from pathlib import Path

import pytest
import torch

from paceline.kernels import dispatch, ops
from paceline.kernels.native import load


def test_native_serves_every_op_on_a_cpu(native: None) -> None:
    assert dispatch.why() == dict.fromkeys(dispatch.OPS, "cpu")
    assert dispatch.backend("silu_mul", torch.zeros(1)).__module__ == "paceline.kernels.silu_mul.cpu"


def test_hidden_native_library_says_so() -> None:
    dispatch.configure(native=False)
    for told in dispatch.why().values():
        assert told == "reference; not cpu: native kernels are hidden by configuration"
    assert dispatch.backend("silu_mul", torch.zeros(1)).__module__ == "paceline.kernels.silu_mul.reference"
    dispatch.configure()
    assert dispatch.select("silu_mul", "cpu")[0] == ("cpu" if load.why_not("cpu") is None else "reference")


def test_other_devices_get_the_reference_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("triton"):
        dispatch.select("rope", "cuda")  # imports its kernel, which asks but once whether to be interpreted
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert dispatch.select("move_kv", "cuda") == ("reference", {"triton": "not written for this op"})
    if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
        assert dispatch.select("rope", "cuda") == ("reference", {"triton": "there is no GPU that torch can use"})
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find_spec(name))
    told = "triton is not installed; install paceline[gpu]"
    assert dispatch.select("rope", "cuda") == ("reference", {"triton": told})
    assert dispatch.backend("rope", torch.zeros(1, device="meta")).__module__ == "paceline.kernels.rope.reference"
    assert load.why_not("cuda") == "the native library serves cpu, not cuda"


def test_unknown_op_lists_the_known() -> None:
    with pytest.raises(LookupError, match="no op 'conv'; known: rms_norm"):
        dispatch.backend("conv", torch.zeros(1))


def test_choice_is_kept_and_cheap() -> None:
    x = torch.zeros(1)
    assert dispatch.backend("rope", x) is dispatch.backend("rope", x)
    assert min(timeit.repeat(lambda: dispatch.backend("rope", x), number=2000, repeat=20)) / 2000 < 2e-6


def test_packing_follows_the_choice(native: None) -> None:
    weight = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    fast = ops.pack_int8(weight)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    expected = ops.linear_int8(x, fast, 20)
    dispatch.configure(native=False)
    plain = ops.pack_int8(weight)
    assert plain[0].dtype is torch.int8 and fast[0].dtype is torch.uint8
    assert torch.equal(ops.linear_int8(x, plain, 20), expected)


def test_without_a_library_everything_runs(tmp_path: Path) -> None:
    """The package copied without its compiled file, in a fresh interpreter."""
    package = tmp_path / "paceline"
    source = Path(dispatch.__file__).parent
    for path in source.rglob("*.py"):
        target = package / "kernels" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (package / "__init__.py").touch()
    script = (
        "import torch\n"
        "from paceline.kernels import dispatch, ops\n"
        "from paceline.kernels.native import load\n"
        "told = dispatch.why()['linear_int8']\n"
        "assert told.startswith('reference; not cpu: the native library was not built'), told\n"
        "x = torch.eye(4)\n"
        "dispatch.configure(native=True, num_threads=2)\n"
        "assert torch.allclose(ops.linear_int8(x, ops.pack_int8(x), 4), x, atol=0.01)\n"
        "try:\n"
        "    load.function('pl_rope')()\n"
        "except RuntimeError as e:\n"
        "    assert 'install a C++ compiler' in str(e)\n"
        "else:\n"
        "    raise AssertionError('a missing function was called')\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
