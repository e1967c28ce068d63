"""Typed public functions; each docstring is the contract that every backend obeys: shapes, then dtypes, then rules.

T tokens, R rows (requests) of a step, S rows to sample, Hq query heads, Hk key/value heads, D head size, N outputs,
K inputs. On a CPU activations are fp32 and KV pages bf16 or fp32. **Row-invariance:** in every op a token's result
never depends on which other tokens are in the batch, how many there are, or how a prompt was cut into chunks.

**On a GPU** activations and pages are bf16, fp16 or fp32, sums fp32, and indices are not checked: that would make the
host wait. Who makes them on the host has checked them there; a slot outside the pages is not written.

The backend of each op is chosen once by ``dispatch``; call these functions, never a backend.
"""

from collections.abc import Sequence

import torch

from .decoder import Decoder, Rows
from .dispatch import backend


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """Root-mean-square norm (arXiv 1910.07467). x [T, H], weight [H] fp32 -> [T, H] new tensor.

    With ``residual`` [T, H]: it is first increased **in place** by x, and the sum is what is normed.
    """
    return backend("rms_norm", x)(x, weight, eps, residual)


def rope(q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> None:
    """Rotary embedding (arXiv 2104.09864), halves layout (dimension i pairs with i + D/2), **in place**.

    q [T, Hq, D], k [T, Hk, D]: last dimension contiguous, may be views of one qkv tensor. cos_sin fp32
    [max_position, D]: the cosines of D/2 frequencies, then the sines. positions int32 [T]; one outside the table raises
    IndexError.
    """
    backend("rope", q)(q, k, cos_sin, positions)


def store_kv(
    k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, slots: torch.Tensor
) -> None:
    """Write k, v [T, Hk, D] into pages [num_blocks, block_size, Hk, D] at int32 slots [T].

    Values are rounded to the pages' dtype. k and v may be views. A slot outside the pages raises IndexError, and then
    nothing was written.
    """
    backend("store_kv", k)(k, v, k_pages, v_pages, slots)


def move_kv(pages: Sequence[torch.Tensor], sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Copy slot sources[i] to slot targets[i], both int32 [N], **in place** in all ``pages`` of like shape and dtype.

    Pages [num_blocks, block_size, Hk, D]. A source must not be an earlier target. A slot outside the pages raises
    IndexError, and then nothing was written.
    """
    backend("move_kv", pages[0])(pages, sources, targets)


def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_tables: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    parents: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of ragged rows over pages read in place -> fp32 [T, Hq, D]; softmax in fp32.

    q [T, Hq, D], may be a view; pages [num_blocks, block_size, Hk, D] (fp32, bf16; others slowly) with Hq a multiple of
    Hk; block_tables int32 [R, max_blocks]; query_starts int32 [R + 1]; context_lens int32 [R]. Token j of row r, of n
    tokens, sees the first context_lens[r] - n + j + 1 slots of the row, or the last ``window`` of these if window > 0.
    ``soft_cap`` > 0 turns scores s into soft_cap * tanh(s / soft_cap). The reduction is split by context position only.
    Slots that no token of the row sees are not read. Raises IndexError where lengths or blocks are impossible.

    Trees: int32 ``parents`` [T] names for each token but a row's first the earlier token of that row that it follows,
    by index in the batch; t - 1 makes a chain. Token j's K and V still lie in slot context_lens[r] - n + j, but it sees
    only the row's slots before its n tokens, and those of its ancestors and itself, and gets the same bits as if
    these lay one behind the other; ``window`` counts along that path.
    """
    return backend("paged_attention", q)(
        q, k_pages, v_pages, block_tables, query_starts, context_lens, scale, window, soft_cap, parents
    )


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """x [T, 2I] = gate, up side by side -> silu(gate) * up, [T, I]."""
    return backend("silu_mul", x)(x)


def pack_int8(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Quantise fp32 weight [N, K] to int8 with one scale per output and group of 32 inputs, in the backend's layout.

    The tuple is opaque: pass it to ``linear_int8``. Symmetric, codes -127..127, scale = max|w| / 127 rounded up to an
    fp16 value (0 where all are below 2**-100). K need not be a multiple of 32, nor N of anything: the packer pads.
    """
    return backend("linear_int8", weight, "pack")(weight)


def pack_int8_blocks(blocks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows of GGUF's Q8_0 blocks, uint8 [N, row bytes], in the layout of ``pack_int8``: codes and scales as they are.

    ValueError where rows are no whole number of blocks.
    """
    return backend("linear_int8", blocks, "pack_blocks")(blocks)


def linear_int8(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x fp32 [T, K] times packed int8 weight [N, K] -> fp32 [T, N], plus bias [N].

    x is quantised on the fly to int8 per token and group of 32 inputs (scale = max|x| / 127, codes x * (127 / max|x|)
    to the nearest, ties to even); sums inside a group are exact int32; then (sum * weight scale) * activation scale is
    added group by group in fp32, each operation rounded, and the bias last. All CPU backends give the same bits, for
    any T. A NaN or an infinity makes all outputs of its token NaN or infinite.
    """
    return backend("linear_int8", x)(x, packed, n, bias)


def pack_blocks(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """Weights of 4 to 6 bits in GGUF's blocks, as they are, in the backend's layout: every output keeps its codes.

    blocks uint8 [N, row bytes]; ``kind`` Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K or Q6_K, ggml's names. A weight is code *
    scale + least, with both for each 32 inputs; in Q6_K (code - 32) * scale, for each 16. They become fp16: exact where
    a block is one group, but the K kinds' are products, which are rounded (at most 1 part in 2048).
    The tuple is opaque: pass it to ``linear_blocks``. ValueError where rows are no whole number of blocks.
    """
    return backend("linear_blocks", blocks, "pack")(blocks, kind)


def linear_blocks(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x fp32 [T, K] times packed weight [N, K'] -> fp32 [T, N], plus bias [N]; K' is K rounded up to 32.

    x is quantised as in ``linear_int8``, the inputs that it lacks are zero. Sums inside a group are exact int32; then
    (sum of products * scale + sum of x's codes * least value) * activation scale is added group by group in fp32, each
    operation rounded, and the bias last; for Q6_K (sum of the first 16 products * their scale + sum of the last 16 *
    theirs) * activation scale. All CPU backends give the same bits, for any T. A NaN or an infinity makes all
    outputs of its token NaN or infinite.
    """
    return backend("linear_blocks", x)(x, packed, n, bias)


def pack_decoder_layers(decoder: Decoder) -> object:
    """Layers whose products ``pack_int8`` and ``pack_blocks`` packed, in the backend's form; it is opaque."""
    return backend("decoder_layers", decoder.cos_sin, "pack")(decoder)


def decoder_layers(packed: object, rows: Rows, x: torch.Tensor, residual: torch.Tensor, first: int, last: int) -> None:
    """Layers ``first`` to ``last`` - 1 over the step's T tokens, **in place**; K and V go to the pages.

    x [T, hidden_size] is the normed input of layer ``first`` and becomes the last one's output behind its
    ``next_norm``; residual [T, hidden_size] is what x was normed from, and grows. Equal bit for bit to the ops of each
    layer called one by one. Pages fp32 or bf16, of one shape in all layers. IndexError as in ``rope``, ``store_kv`` and
    ``paged_attention``; x and residual are then of no use.
    """
    backend("decoder_layers", x)(packed, rows, x, residual, first, last)


def sample(
    logits: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Keyed Gumbel-max (arXiv 2408.07978, coupled rule): argmax(logits + g(seed, position, id)) -> int64 [S].

    logits fp32 [S, V], already divided by temperature and masked with -inf; temperature fp32 [S], 0 = greedy (no
    noise); seeds int64 [S] (read as unsigned); positions int64 [S]: of the token that is drawn. Lowest id wins ties.
    Noise: Philox4x32-10, key = seed, counter = (id // 4, position, stream 0, window 0), word id % 4 = r;
    v = (r + 0.5) * 2**-32, in fp64 or else clamped below 1; g = -log(-log1p(-v)). NaN logits have no defined result.
    """
    return backend("sample", logits)(logits, temperature, seeds, positions)


def verify(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    draft_ids: torch.Tensor,
    q_ids: torch.Tensor,
    q_weights: torch.Tensor,
    rule: str,
) -> torch.Tensor:
    """Rejection of drafts that were drawn from q -> int64 [R, 2]: how many stand, and the next token.

    ``rule``: "token" (arXiv 2211.17192) or "block" (arXiv 2403.10444). The first four are those of ``sample``, the
    places of a row next to each other. draft_ids int64 [S]: the draft at each place, -1 behind the row's last one, so
    that R places hold -1 and the last does. q_ids int64, q_weights fp32 [S, M]: the drafter's law in proportion to
    weights, those > 0 at distinct ids, unused ones 0, with a sum > 0 where there is a draft; a draft that it gives no
    weight is refused. The noise is that of ``noise.py`` with window = the row's first position: u of the accept test in
    stream ACCEPT; behind a refusal ``sample`` of the remaining law's logarithm under the key of stream RESIDUAL, else
    ``sample``. Where sums end within rounding of a decision, backends may differ.
    """
    return backend("verify", logits)(logits, temperature, seeds, positions, draft_ids, q_ids, q_weights, rule)
