"""A head that is damaged, incomplete or another target's is refused in one line, at start."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_runs
import pytest
import tiny_heads
import torch
from safetensors.torch import load_file

from paceline.engine.errors import ConfigError

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, dict[str, Any]], object]


def changed(source: Path, path: Path, change: Change) -> Path:
    """A copy of a head's folder."""
    tensors = load_file(source / "model.safetensors")
    settings = json.loads((source / "config.json").read_text())
    change(tensors, settings)
    return tiny_heads.write(path, tensors, settings)


def renamed(tensors: Tensors, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


MEDUSA: dict[str, Change] = {
    "model.safetensors: tensor '1.0.linear.weight' has shape [32, 32]": lambda t, _: t.update(
        {"1.0.linear.weight": torch.zeros(32, 32)}
    ),
    "asks for [512, 64]; use a head that was trained for this target": lambda t, _: t.update(
        {"0.1.weight": torch.zeros(500, 64)}
    ),
    "tensor '2.out.weight' is missing; use a complete copy": lambda t, _: t.pop("2.1.weight"),
    "holds heads [0, 2]": lambda t, _: [t.pop(n) for n in list(t) if n.startswith("1.")],
    "tensor 'lm_head.scale' belongs to no head of this kind": lambda t, _: renamed(t, "0.1.weight", "lm_head.scale"),
    "tensor '0.out.weight' is missing": lambda t, _: renamed(t, "0.1.weight", "7.1.weight") or t.pop("7.1.weight"),
    "tensor '0.0.linear.bias' has shape [2]": lambda t, _: t.update({"0.0.linear.bias": torch.zeros(2)}),
    "tensor '0.1.weight' is int8, not one of float32": lambda t, _: t.update({"0.1.weight": t["0.1.weight"].char()}),
    "config.json: tells of 5 heads, the file has 3": lambda _, s: s.update(medusa_num_heads=5),
    "config.json: medusa_num_heads = 'many': must be 1 to": lambda _, s: s.update(medusa_num_heads="many"),
}
THIRD: dict[str, Change] = {
    "config.json: hidden_size = 128, the target's is 64": lambda _, s: s.update(hidden_size=128),
    "tensor 'fc.weight' is missing": lambda t, _: t.pop("fc.weight"),
    "tensor 'fc.weight' has shape [64, 128]": lambda t, _: t.update({"fc.weight": torch.zeros(64, 128)}),
    "tensor 'midlayer.self_attn.q_proj.weight' has shape [64, 128]": lambda _, s: s.update(num_attention_heads=2),
    "tensor 'layer.mlp.up_proj.weight' is missing": lambda t, _: t.pop("midlayer.mlp.up_proj.weight"),
    "tensor 'layers.1.mlp.up_proj.weight' belongs to no": lambda t, _: t.update(
        {"layers.1.mlp.up_proj.weight": torch.zeros(1)}
    ),
    "tensor 'd2t' leads to ids": lambda t, _: t["d2t"].add_(400),
    "or twice to one": lambda t, _: t["d2t"].copy_(-torch.arange(300)),
    "without d2t, asks for [512, 64]": lambda t, _: t.pop("d2t"),
    "feature layers [1, 9] are not all of 1 to 3; set layer_ids": lambda _, s: s.update(
        eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 9]}
    ),
    "rope_theta = -1: must be a number above 0": lambda _, s: s.update(rope_theta=-1),
}


@pytest.mark.parametrize(
    ("kind", "message"), [("medusa", m) for m in MEDUSA] + [("eagle-3", m) for m in THIRD], ids=lambda v: str(v)[:40]
)
def test_a_head_that_does_not_fit_is_refused(target: Any, tmp_path: Path, kind: str, message: str) -> None:
    change = (MEDUSA if kind == "medusa" else THIRD)[message]
    folder = changed(target.heads[kind], tmp_path / "head", change)
    with pytest.raises(ConfigError) as caught:
        head_runs.build(kind.partition("-")[0], folder, target.model)
    text = str(caught.value)
    assert message in text and str(folder) in text and "\n" not in text and ";" in text


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 4000, b"\x10\0\0\0\0\0\0\0" + b"{}"])
def test_garbage_is_refused(target: Any, tmp_path: Path, content: bytes) -> None:
    folder = changed(target.heads["medusa"], tmp_path / "head", lambda _, s: s)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model.safetensors: is no safetensors file .*fetch the head again"):
        head_runs.build("medusa", folder, target.model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no table of settings"),
        ("{", "cannot be read"),
        ("[" * 10_000, "cannot be read"),
        (None, "is not there; name the folder of a head"),
        (" " * (1 << 20) + "{}", "is no table of settings"),
    ],
    ids=["list", "cut", "deep", "none", "long"],
)
def test_a_bad_config_is_refused(target: Any, tmp_path: Path, content: str | None, message: str) -> None:
    folder = changed(target.heads["medusa"], tmp_path / "head", lambda _, s: s)
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        head_runs.build("medusa", folder, target.model)


def test_a_tensor_in_two_files_is_refused(target: Any, tmp_path: Path) -> None:
    folder = changed(target.heads["medusa"], tmp_path / "head", lambda _, s: s)
    (folder / "more.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="is there twice; remove the stray file"):
        head_runs.build("medusa", folder, target.model)
