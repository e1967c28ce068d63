"""A trained head on disk: a folder of ``config.json`` and safetensors, read under our own names for its tensors.

A head was trained for one target. Whatever shows that it is another's, or no head at all, is said at start in one line
that names the file, the tensor and what to do. Knows no method: which names there are is the method's to say.
"""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from ...engine import plugins
from ...engine.errors import ConfigError
from ...engine.nn.load import DTYPES, Loader
from ...engine.nn.weights import Quant

MAX_CONFIG_BYTES = 1 << 20
UNUSED = ""
"""What ``rename`` answers for a tensor that is known and not needed, because the target has the same."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32)


class HeadFiles:
    """``engine.nn.weights.WeightSource`` of a head. ``settings`` is its config.json."""

    def __init__(self, folder: str, files: Sequence[str], rename: Callable[[str], str | None]) -> None:
        """``rename``: a tensor's name in the file -> ours, ``UNUSED``, or None where it belongs to no such head.

        Raises:
            ConfigError: a file is damaged, or holds what ``rename`` does not know.
        """
        self.where = folder
        self._config = Path(folder, "config.json")
        self.settings = _settings(self._config)
        self._places: dict[str, tuple[Any, str, str]] = {}  # ours -> open file, its path, the name in it
        for file in files:
            handle = _open(file)
            for name in handle.keys():  # noqa: SIM118 - a handle is no mapping
                ours = rename(name)
                if ours is None:
                    raise ConfigError(f"{file}: tensor {name!r} belongs to no head of this kind; name a head's folder")
                if ours in self._places:
                    raise ConfigError(f"{file}: tensor {name!r} is there twice; remove the stray file")
                if ours != UNUSED:
                    self._places[ours] = handle, file, name

    @property
    def names(self) -> Collection[str]:
        """Ours, of all tensors."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading it."""
        handle, _, inside = self._places[name]
        return tuple(handle.get_slice(inside).get_shape())

    def expect(self, name: str, shape: tuple[int, ...], why: str) -> None:
        """Check that there is such a tensor.

        Raises:
            ConfigError: there is none, or it has another shape; ``why`` says what asked for this one.
        """
        if name not in self._places:
            raise ConfigError(f"{self.where}: tensor {name!r} is missing; use a complete copy of the head")
        if (found := self.shape(name)) != shape:
            _, file, inside = self._places[name]
            raise ConfigError(
                f"{file}: tensor {inside!r} has shape {list(found)}, but {why} asks for {list(shape)}; "
                "use a head that was trained for this target"
            )

    def read(self, name: str) -> torch.Tensor:
        """A matrix or vector of floats.

        Raises:
            ConfigError: it holds something else.
        """
        return self._read(name, _FLOATS)

    def integers(self, name: str) -> torch.Tensor:
        """A vector of integers, int64.

        Raises:
            ConfigError: it holds something else.
        """
        return self._read(name, _INTEGERS).long()

    def close(self) -> None:
        """Let the files go; tensors read before stay valid."""
        self._places = {}

    def _read(self, name: str, kinds: tuple[torch.dtype, ...]) -> torch.Tensor:
        handle, file, inside = self._places[name]
        try:
            tensor = handle.get_tensor(inside)
        except (SafetensorError, AttributeError) as e:  # torch may lack the file's type
            raise ConfigError(f"{file}: tensor {inside!r} cannot be read ({e}); fetch the head again") from e
        if tensor.dtype not in kinds:
            known = ", ".join(str(kind).removeprefix("torch.") for kind in kinds)
            found = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(f"{file}: tensor {inside!r} is {found}, not one of {known}; use an unquantised head")
        return tensor

    def size(self, *names: str, default: int | None = None, least: int = 1, most: int = 1 << 24) -> int:
        """A whole number of config.json: the first of ``names`` that it has.

        Raises:
            ConfigError: out of range or no number; or it has none of them and there is no ``default``.
        """
        name, value = self._setting(names, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigError(f"{self._config}: {name} = {value!r}: must be {least} to {most}; fetch the head again")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number of config.json.

        Raises:
            ConfigError: it is none.
        """
        _, value = self._setting((name,), default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise ConfigError(f"{self._config}: {name} = {value!r}: must be a number above 0; fetch the head again")
        return float(value)

    def _setting(self, names: Sequence[str], default: Any) -> tuple[str, Any]:
        for name in names:
            if self.settings.get(name) is not None:
                return name, self.settings[name]
        if default is None:
            raise ConfigError(f"{self._config}: {names[0]} is missing; add it, or use a complete head")
        return names[0], default


def loader_for(files: HeadFiles, dtype: str, device: str) -> Loader:
    """What makes layers of ``files``. ``dtype``: a key of ``engine.nn.load.DTYPES``."""
    quant = cast(Quant, plugins.load("engine.quant", DTYPES[dtype][0]))
    return Loader(files, quant, dtype, torch.device(device))


def _open(file: str) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as e:
        raise ConfigError(f"{file}: is no safetensors file ({e}); fetch the head again") from e


def _settings(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        found = json.loads(raw) if len(raw) <= MAX_CONFIG_BYTES else None
    except FileNotFoundError as e:
        raise ConfigError(f"{path}: is not there; name the folder of a head with its config.json") from e
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: cannot be read ({e}); fetch the head again") from e
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is no table of settings below {MAX_CONFIG_BYTES} bytes; fetch the head again")
    return found
