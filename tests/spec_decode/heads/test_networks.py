"""The networks against plain torch, written from the papers' published code: whole sequences, no pages, no kernels."""

from typing import Any

import head_runs
import pytest
import tiny_heads
import torch
from safetensors.torch import load_file
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from paceline.engine.core.plan import NewRequest, Row, StepPlan
from paceline.engine.execution.observe import Seen
from paceline.engine.types import SamplingParams

PARAMS = SamplingParams(max_tokens=50, temperature=0.0)


def show(head: Any, model: Any, ids: list[int], end: int, *, start: int = 0, depth: int = 3, name: str = "r") -> Any:
    """One step that fed positions ``start .. end - 1`` and committed token ``end``; the drafts behind it."""
    last, layers = tiny_heads.states(model, ids[:end], [i + 1 for i in head.wanted_layers])
    shown = {layer - 1: states[start:] for layer, states in layers.items()}
    with torch.inference_mode():
        head.observe([Seen(name, 0, start, ids[start:end], ids[end], True, last[start:], shown)])
        found = head.propose(StepPlan(0, [], [], [Row(name, 0, start, end - start, 0, [], True)], [depth]))
    head.check()
    return found[0] if found else None


def opened(head: Any, ids: list[int], name: str = "r", params: SamplingParams = PARAMS) -> Any:
    head.opened(NewRequest(name, 0, ids, len(ids), [], params))
    return head


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotated(x: torch.Tensor, theta: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[1]).float(), theta ** (-torch.arange(half).float() / half))
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def layer(t: dict[str, torch.Tensor], at: str, x: torch.Tensor, residual: torch.Tensor, config: Any) -> torch.Tensor:
    """A decoder layer over a whole sequence [n, H], behind its input norms."""
    q, k, v = (
        linear(x, t[f"{at}.self_attn.{name}_proj.weight"]).view(len(x), -1, config.head_dim).transpose(0, 1)
        for name in "qkv"
    )
    # Pages hold K and V in bf16.
    k = rotated(k, config.rope_theta).bfloat16().float()
    v = v.bfloat16().float()
    y = scaled_dot_product_attention(rotated(q, config.rope_theta), k, v, is_causal=True, enable_gqa=True)
    residual = residual + linear(y.transpose(0, 1).flatten(1), t[f"{at}.self_attn.o_proj.weight"])
    x = norm(residual, t[f"{at}.post_attention_layernorm.weight"], config.rms_norm_eps)
    gated = silu(linear(x, t[f"{at}.mlp.gate_proj.weight"])) * linear(x, t[f"{at}.mlp.up_proj.weight"])
    return residual + linear(gated, t[f"{at}.mlp.down_proj.weight"])


def eagle_chain(target: Any, kind: str, ids: list[int], depth: int) -> list[int]:
    """Greedy drafts behind ``ids``, of which the last has no feature yet: EAGLE-1's and EAGLE-3's generation loop."""
    model, config = target.model, target.model.config
    t = load_file(target.heads[kind] / "model.safetensors")
    third = kind == "eagle-3"
    last, layers = tiny_heads.states(model, ids[:-1], [1, config.num_layers] if third else [])
    features = linear(torch.cat([layers[1], layers[1], layers[3]], 1), t["fc.weight"]) if third else last
    drafts: list[int] = []
    for _ in range(depth):
        embedded = model.embed(torch.tensor([*ids[1:], *drafts], dtype=torch.int32))
        if third:
            at = "midlayer"
            sides = [(embedded, "input_layernorm"), (features, "hidden_norm")]
            x = torch.cat([norm(side, t[f"{at}.{name}.weight"], config.rms_norm_eps) for side, name in sides], 1)
            outputs = layer(t, at, x, features, config)
            logits = linear(norm(outputs[-1], t["norm.weight"], config.rms_norm_eps), t["lm_head.weight"])
            best = int(logits.argmax())
            drafts.append(best + int(t["d2t"][best]))
        else:
            x = linear(torch.cat((embedded, features), 1), t["fc.weight"])
            outputs = layer(t, "layers.0", x, x, config)
            drafts.append(int(model.logits(outputs[-1:]).argmax()))
        features = torch.cat((features, outputs[-1:]))
    return drafts


@pytest.mark.parametrize("kind", ["eagle", "eagle-3"])
@torch.inference_mode()
def test_eagle_drafts_what_the_published_code_drafts(target: Any, kind: str) -> None:
    different = set()
    for wrote in target.wrote[:6]:
        ids = (wrote.prompt + wrote.output)[:30]
        head = opened(head_runs.build("eagle", target.heads[kind], target.model), ids)
        drafts = show(head, target.model, ids, len(ids) - 1).token_ids
        assert drafts == eagle_chain(target, kind, ids, 3)
        different.add(tuple(drafts))
    assert len(different) > 3


@torch.inference_mode()
def test_medusa_drafts_what_the_published_code_drafts(target: Any) -> None:
    t = load_file(target.heads["medusa"] / "model.safetensors")
    for wrote in target.wrote:
        ids = wrote.prompt + wrote.output
        head = opened(head_runs.build("medusa", target.heads["medusa"], target.model), ids)
        x = tiny_heads.states(target.model, ids[:-1])[0][-1]
        expected = []
        for j in range(3):
            y = x + silu(linear(x, t[f"{j}.0.linear.weight"], t[f"{j}.0.linear.bias"]))
            expected.append(int(linear(y, t[f"{j}.1.weight"]).argmax()))
        assert show(head, target.model, ids, len(ids) - 1).token_ids == expected


def test_both_layouts_of_medusa_are_one_head(target: Any, tmp_path: Any) -> None:
    texts = [wrote.prompt + wrote.output for wrote in target.wrote]
    other = tiny_heads.make_medusa(tmp_path / "blocks", target.model, texts, layout="blocks")
    ids = texts[0]
    heads = [head_runs.build("medusa", folder, target.model) for folder in (target.heads["medusa"], other)]
    first, second = (show(opened(head, ids), target.model, ids, 20).token_ids for head in heads)
    assert first == second


def test_a_head_without_lm_head_uses_the_targets(target: Any, tmp_path: Any) -> None:
    t = load_file(target.heads["eagle-3"] / "model.safetensors")
    for name in ("lm_head.weight", "d2t", "t2d"):
        del t[name]
    settings = {"num_key_value_heads": 2, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 1, 3]}}
    folder = tiny_heads.write(tmp_path / "head", t, settings)
    ids = target.wrote[0].prompt + target.wrote[0].output
    drafts = show(opened(head_runs.build("eagle", folder, target.model), ids), target.model, ids, 20)
    assert len(drafts.token_ids) == 3
