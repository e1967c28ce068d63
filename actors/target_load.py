"""From a Setup to a Runner that is ready: threads, weights, KV pages, rule, and one warm round through all kernels.

Runs in the target's process only, off its event loop. Every choice is the config's or ``engine.sizing``'s; what was
chosen is told in ``facts``.
"""

import os
import time
from dataclasses import dataclass

import torch

from ..engine import plugins, sizing
from ..engine.config import Config
from ..engine.core.plan import NewRequest, Row, StepPlan
from ..engine.errors import BadModelFileError, ConfigError
from ..engine.execution.grammar import Grammars
from ..engine.execution.kv_pool import allocate, page_dtype
from ..engine.execution.profile import measure
from ..engine.execution.runner import Runner
from ..engine.nn.load import load_model
from ..engine.nn.model import KVCache, Model
from ..engine.store.located import Located, ModelCard
from ..engine.types import SamplingParams
from ..kernels import dispatch
from .grammars import load_grammars
from .head_load import load_head


@dataclass(slots=True)
class Pages:
    """A model and KV pages for it."""

    model: Model
    kv: KVCache
    device: torch.device
    sizes: sizing.Sizes
    facts: dict[str, str]
    """For people: device, dtype, threads, load seconds, what was shrunk."""


@dataclass(slots=True)
class Loaded:
    """A runner and what others must know of it."""

    runner: Runner
    sizes: sizing.Sizes
    facts: dict[str, str]
    """For people: device, dtype, kernels, load seconds, what was shrunk."""
    step_costs: list[tuple[int, float]]
    """Rows and seconds of a step; empty where speculation is not configured."""
    draft_costs: list[tuple[int, float]]
    """Requests and seconds of one draft for each by a head beside the target; empty where there is none."""
    grammars: Grammars | None
    """The runner's; None where the model's answers have no end."""


def load(config: Config, located: Located, card: ModelCard) -> Loaded:
    """Everything that stands between a process and its first step.

    Raises:
        BadModelFileError: the weights are damaged or of no kind we read.
        ConfigError: no such device, or the model or its KV pool does not fit into memory.
    """
    pages = load_pages(config, located, card)
    began_s = time.monotonic()
    sizes = pages.sizes
    rule = plugins.load("spec_decode.rules", config.speculation.rule).build(None)
    head = load_head(config, pages)
    observer = head.observer if head else None
    grammars = load_grammars(card)
    runner = Runner(pages.model, pages.kv, rule, device=pages.device, observer=observer, grammars=grammars)
    warm_up(runner, min(sizes.max_model_len, config.scheduler.max_num_batched_tokens), config.cache.block_size)
    step_costs = _measure(runner, config, sizes)
    facts = {**pages.facts, "warm_up_s": f"{time.monotonic() - began_s:.2f}"}
    return Loaded(runner, sizes, facts, step_costs, head.costs if head else [], grammars)


def load_pages(config: Config, located: Located, card: ModelCard) -> Pages:
    """Weights in memory, and a KV pool in what is left of it, as the sections ``target`` and ``cache`` say.

    Raises:
        BadModelFileError: the weights are damaged or of no kind we read.
        ConfigError: no such device, or the model or its KV pool does not fit into memory.
    """
    began_s = time.monotonic()
    device = choose_device(config.target.device)
    num_threads = config.target.num_threads or _num_cores()
    torch.set_num_threads(num_threads)
    dispatch.configure(native=config.target.native_kernels, num_threads=num_threads)
    model = load_model(card, located, dtype=config.target.dtype, device=str(device))
    load_s = time.monotonic() - began_s
    dtype = page_dtype(config.cache.dtype)
    free = sizing.free_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    sizes = sizing.decide(model.config, config, free, dtype.itemsize)
    kv = allocate(model.config, sizes.num_blocks, config.cache.block_size, dtype, device)
    facts = {
        "device": str(device),
        "dtype": _dtype_name(config.target.dtype, card, device),
        "kv_dtype": str(dtype).removeprefix("torch."),
        "threads": str(num_threads),
        "load_s": f"{load_s:.2f}",
        **{f"kernel_{op}": told for op, told in dispatch.why(device.type).items()},
        **{f"note_{i}": note for i, note in enumerate(sizes.notes)},
    }
    return Pages(model, kv, device, sizes, facts)


def _dtype_name(dtype: str, card: ModelCard, device: torch.device) -> str:
    """What ``load_model`` makes of "auto", for people: a GGUF file's blocks stay what they are."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.type != "cpu" else "mixed" if card.quantization.startswith("Q") else "int8"


def _measure(runner: Runner, config: Config, sizes: sizing.Sizes) -> list[tuple[int, float]]:
    section = config.speculation
    if not section.methods or not section.max_draft_tokens:
        return []
    return measure(
        runner,
        num_blocks=sizes.num_blocks,
        block_size=config.cache.block_size,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
        depth=section.max_draft_tokens,
    )


def choose_device(name: str) -> torch.device:
    """The device of ``target.device``; auto = the first GPU, else the CPU.

    Raises:
        ConfigError: it is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"target.device = {name}: this machine shows {count} GPUs; use cpu, auto or a lower number")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up(runner: Runner, most_tokens: int, block_size: int) -> None:
    """One prompt chunk, then one decoded token: each kernel has run, each thread is awake, and nothing is left open.

    The blocks it writes are the scheduler's to hand out afterwards; what is in them is never read.
    """
    count = max(1, min(32, most_tokens - 1))
    blocks = list(range(-(-(count + 1) // block_size)))
    params = SamplingParams(max_tokens=2, temperature=1.0, top_p=0.9)
    new = NewRequest("warm-up", 0, [0] * count, count, blocks, params)
    for step, (start, length) in enumerate([(0, count), (count, 1)]):
        row = Row("warm-up", 0, start, length, len(blocks), [], True)
        error = runner.run(StepPlan(step, [], [] if step else [new], [row])).rows[0].error
        if error is not None:
            raise BadModelFileError(f"the first step failed: {error.message}; use a sound copy of the model")
    runner.forget()
