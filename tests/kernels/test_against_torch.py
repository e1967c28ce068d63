"""The references against torch's own functions, which they do not use."""

import torch
from torch.nn import functional

from paceline.kernels import dispatch, ops
from paceline.kernels.testing import attention_batch


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_rms_norm_and_silu_mul() -> None:
    dispatch.configure(native=False)
    x, weight = _draw(9, 60), _draw(60)
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5), functional.rms_norm(x, (60,), weight, 1e-5))
    torch.testing.assert_close(ops.silu_mul(x), functional.silu(x[:, :30]) * x[:, 30:])


def test_rms_norm_adds_to_the_residual_in_place() -> None:
    dispatch.configure(native=False)
    x, residual, weight = _draw(4, 8), _draw(5, 8)[:4], torch.ones(8)
    total = x + residual
    out = ops.rms_norm(x, weight, 1e-6, residual)
    assert torch.equal(residual, total)
    torch.testing.assert_close(out, functional.rms_norm(total, (8,), weight, 1e-6))


def test_rope_turns_pairs_and_keeps_distances() -> None:
    dispatch.configure(native=False)
    angles = torch.arange(50.0).unsqueeze(1) * torch.tensor([1.0, 0.1, 0.01])
    table = torch.cat([angles.cos(), angles.sin()], 1)
    q, k = _draw(1, 1, 6), _draw(2, 1, 6)[:1].clone()

    def score(at_q: int, at_k: int) -> torch.Tensor:
        turned_q, turned_k = q.clone(), k.clone()
        ops.rope(turned_q, torch.zeros(1, 1, 6), table, torch.tensor([at_q], dtype=torch.int32))
        ops.rope(turned_k, torch.zeros(1, 1, 6), table, torch.tensor([at_k], dtype=torch.int32))
        return (turned_q * turned_k).sum()

    torch.testing.assert_close(score(0, 0), (q * k).sum())
    torch.testing.assert_close(score(7, 3), score(44, 40), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(score(7, 3), score(7, 4))


def test_attention_is_softmax_attention() -> None:
    dispatch.configure(native=False)
    q, k_pages, v_pages, tables, starts, lens = attention_batch(
        [(20, 37), (1, 9)], q_heads=4, k_heads=2, head_size=8, block_size=4, dtype=torch.float32
    )
    for window in (0, 6):
        out = ops.paged_attention(q, k_pages, v_pages, tables, starts, lens, 0.3, window)
        for r, length in enumerate(lens.tolist()):
            begin, end = int(starts[r]), int(starts[r + 1])
            k, v = (p[tables[r].long()].flatten(0, 1)[:length].repeat_interleave(2, 1) for p in (k_pages, v_pages))
            i = torch.arange(length - (end - begin), length).unsqueeze(1)
            j = torch.arange(length).unsqueeze(0)
            seen = (j <= i) & ((j > i - window) if window else True)
            expected = functional.scaled_dot_product_attention(
                q[begin:end].movedim(1, 0), k.movedim(1, 0), v.movedim(1, 0), attn_mask=seen, scale=0.3
            )
            torch.testing.assert_close(out[begin:end], expected.movedim(0, 1))
