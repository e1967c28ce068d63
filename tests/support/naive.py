"""The judge: one request at a time, one token at a time, all state rebuilt from the tokens before each choice.

It shares with the engine the model, its kernels and the functions that turn logits into a token, and nothing else: no
scheduler, no batch, no block reuse, no drafts, no counts that are kept.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from paceline.engine.core.plan import NewRequest, TokenLogprobs
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.logprobs import describe
from paceline.engine.execution.sampler import Ask, process
from paceline.engine.execution.state import RequestTable
from paceline.engine.nn.load import load_model
from paceline.engine.nn.model import Batch, KVCache, Model
from paceline.engine.store import card, resolve
from paceline.engine.types import SamplingParams
from paceline.kernels import ops


@dataclass
class Generated:
    """What a request must give. ``prompt_logprobs`` start at the prompt's second token."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = "length"
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None


def load(folder: Path | str, dtype: str = "auto") -> Model:
    """The model of a folder or GGUF file, with the weights the engine would use."""
    located = resolve.locate(str(folder), download=False)
    return load_model(card.read(located), located, dtype=dtype)


def generate(
    model: Model,
    prompt_ids: list[int],
    params: SamplingParams,
    *,
    max_model_len: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> list[int]:
    """Output ids of one request; ``dtype`` is that of the engine's KV pages."""
    return judge(model, prompt_ids, params, max_model_len=max_model_len, dtype=dtype).token_ids


@torch.inference_mode()
def judge(
    model: Model,
    prompt_ids: list[int],
    params: SamplingParams,
    *,
    max_model_len: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Generated:
    """``generate`` with all that a request can ask for."""
    limit = min(len(prompt_ids) + params.max_tokens, max_model_len or model.config.max_position)
    kv = allocate(model.config, 1, limit, dtype)
    ids = list(prompt_ids)
    hidden = _feed(model, kv, ids, 0)
    out = Generated(logprobs=None if params.logprobs is None else [])
    if params.prompt_logprobs is not None:
        rows = model.logits(hidden[:-1]).numpy() if len(ids) > 1 else []
        out.prompt_logprobs = [describe(r, t, params.prompt_logprobs) for r, t in zip(rows, ids[1:], strict=True)]
    while len(ids) < limit:
        logits = model.logits(hidden[-1:])
        raw = logits[0].numpy().copy()
        token = _choose(logits, ids, len(prompt_ids), params)
        ids.append(token)
        out.token_ids.append(token)
        if out.logprobs is not None:
            out.logprobs.append(describe(raw, token, params.logprobs or 0, params.logprob_token_ids))
        ends = params.stop_token_ids if params.ignore_eos else [*params.stop_token_ids, *params.end_ids]
        if token in ends and len(out.token_ids) >= params.min_tokens:
            out.finish_reason = "stop"
            break
        if len(ids) < limit:
            hidden = _feed(model, kv, ids, len(ids) - 1)
    return out


def _feed(model: Model, kv: KVCache, ids: list[int], start: int) -> torch.Tensor:
    """Compute positions ``start ..`` of the one sequence in the one block of ``kv``."""
    count = len(ids) - start

    def ints(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    where = ints(list(range(start, len(ids))))
    batch = Batch(ints(ids[start:]), where, where.clone(), ints([0, count]), ints([len(ids)]), ints([0]).view(1, 1))
    return model.forward(batch, kv)


def _choose(logits: torch.Tensor, ids: list[int], num_prompt: int, params: SamplingParams) -> int:
    table = RequestTable(num_blocks=1, block_size=1, vocab_size=logits.shape[1])
    held = table.open(NewRequest("naive", 0, ids, num_prompt, [], params))
    batch = process(logits, [Ask(held, [], np.asarray(ids, np.int32))])
    return int(ops.sample(batch.logits, batch.temperatures, batch.seeds, batch.positions))
