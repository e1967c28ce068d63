"""Finds the compiled kernels, or says why not. Plain C functions through ctypes; nothing is built here."""

import ctypes
import importlib.machinery
import os
from collections.abc import Callable
from pathlib import Path

ABI = 7
"""Raised with every change of a signature; must equal ``PL_ABI`` in abi.h."""

ISAS = ("portable", "avx2", "avx512", "amx")
"""Instruction sets that the library is compiled for, slowest first."""

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_KINDS = {"p": _POINTER, "i": _INT, "f": _FLOAT}
_SIGNATURES = {
    "pl_set_num_threads": "i",
    "pl_limit_isa": "i",
    "pl_rms_norm": "ppppiif",
    "pl_rope": "piipiippiii",
    "pl_store_kv": "pppppiiiiii",
    "pl_move_kv": "pippiii",
    "pl_silu_mul": "ppii",
    "pl_paged_attention": "ppppppppiiiiiiiiiiiff",
    "pl_pack_blocks": "ppppiii",
    "pl_linear_blocks": "ppppiiii",
    "pl_pack_int8": "pppii",
    "pl_pack_q8_0": "pppii",
    "pl_linear_int8": "pppppiii",
    "pl_ceiling_read": "pi",
    "pl_ceiling_dot": "i",
    "pl_summarise": "pppppiii",
    "pl_philox": "pppppii",
    "pl_sample": "pppppii",
    "pl_decoder_layers": "ppppii",
}
"""Argument kinds of each function (p pointer, i int64, f float); all return an int64. abi.h says what they mean."""


def _open() -> tuple[ctypes.CDLL | None, str]:
    folder = Path(__file__).parent
    found = [folder / f"lib{s}" for s in importlib.machinery.EXTENSION_SUFFIXES if (folder / f"lib{s}").exists()]
    if not found:
        return None, "the native library was not built: install a C++ compiler, then install paceline again"
    try:
        library = ctypes.CDLL(str(found[0]))
        version = library.pl_abi_version()
        for name, kinds in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [_KINDS[k] for k in kinds]
            function.restype = _INT
    except (OSError, AttributeError) as e:
        return None, f"the native library cannot be used ({e}): install paceline again"
    if version != ABI:
        return None, f"the native library has version {version}, not {ABI}: install paceline again"
    return library, ""


_library, _reason = _open()


def why_not(device: str) -> str | None:
    """Why the native kernels cannot serve this kind of device, or None."""
    if device != "cpu":
        return f"the native library serves cpu, not {device}"
    return None if _library is not None else _reason


def function(name: str) -> Callable[..., int]:
    """A C function with its argument types set; calling it without a library raises with the reason."""
    if _library is not None:
        return getattr(_library, name)

    def missing(*_: object) -> int:
        raise RuntimeError(f"{name}: {_reason}")

    return missing


def limit_isa(most: str = ISAS[-1]) -> str:
    """Let the library use no instruction set above ``most``; returns the one it uses now. For tests and benchmarks."""
    return ISAS[function("pl_limit_isa")(ISAS.index(most))]


def set_num_threads(num_threads: int = 0) -> int:
    """Size of the library's thread pool, the caller included; 0 = one a core this process may use. Returns it."""
    size = num_threads or _num_cores()
    if _library is not None:
        _library.pl_set_num_threads(size)
    return size


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if _library is not None:
    set_num_threads()
