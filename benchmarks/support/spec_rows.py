"""Cells of the speculation benchmark: what is sent in a round, and what several rounds come to."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import spec_counters
from contestants import Round
from load import Call, Reply
from prompt_sets import Prompt
from report import summary

LATENCIES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "tpot_p50_ms")


class Cell(NamedTuple):
    """One load; every contestant gets it in turn."""

    set: str
    temperature: float
    concurrency: int

    def __str__(self) -> str:
        return f"{self.set} T={self.temperature:g} c={self.concurrency}"


class Entry(NamedTuple):
    """A contestant at one depth; depth 0 = as its configuration has it."""

    name: str
    depth: int


def cells(sets: Sequence[str], temperatures: Sequence[float], concurrency: Sequence[int]) -> list[Cell]:
    """Few clients first: when time runs out, the end of the list is what is missing."""
    return [Cell(name, t, c) for c in concurrency for t in temperatures for name in sets]


def calls(
    prompts: Sequence[Prompt],
    cell: Cell,
    entry: Entry,
    number: int,
    *,
    requests: int,
    max_tokens: int,
    speculates: bool,
) -> list[Call]:
    """The calls of round ``number``: each prompt once, as many as asked for and at least two a client.

    The salt is this round's own, so neither the prefix cache nor a tree of finished requests knows these texts from an
    earlier round. Seeds are the prompts' own: under the coupled rule all contestants owe the same text.
    """
    count = min(len(prompts), max(requests, 2 * cell.concurrency))
    made: list[Call] = []
    for place, prompt in enumerate(prompts[:count]):
        fields: dict[str, Any] = {
            "max_tokens": min(max_tokens, prompt.max_tokens),
            "temperature": cell.temperature,
            "seed": 1000 + place,
            "cache_salt": f"{cell.set}-{cell.temperature:g}-{cell.concurrency}-{entry.name}-{entry.depth}-{number}",
        }
        if speculates:
            fields["speculation"] = {"detail": True} | ({"max_draft_tokens": entry.depth} if entry.depth else {})
        made.append(Call(prompt.text, fields, prompt.name))
    return made


def row(cell: Cell, entry: Entry, rounds: Sequence[Round], plain: Sequence[Round]) -> dict[str, Any]:
    """Figures of one contestant in one cell, against ``plain``, the rounds without speculation."""
    figures, base = [summary(r.replies) for r in rounds], [summary(r.replies) for r in plain]
    speedups = [on["output_tok_s"] / off["output_tok_s"] for on, off in zip(figures, base, strict=True)]
    each = [(on["tpot_p50_ms"], off["tpot_p50_ms"]) for on, off in zip(figures, base, strict=True)]
    decode = [off / on for on, off in each if on]
    counts = added([r.counts for r in rounds])
    told = [x for r in rounds for reply in r.replies if (x := _told(reply)) is not None]
    different, compared = differences(rounds, plain)
    return {
        **cell._asdict(),
        "method": entry.name,
        "depth": entry.depth,
        "requests": len(rounds[0].replies),
        "output_tokens": sum(reply.output_tokens for r in rounds for reply in r.replies),
        "errors": sum(reply.error is not None for r in rounds for reply in r.replies),
        "first_error": next((reply.error for r in rounds for reply in r.replies if reply.error), None),
        "off_tok_s": statistics.median(x["output_tok_s"] for x in base),
        "tok_s": statistics.median(x["output_tok_s"] for x in figures),
        "speedup": statistics.median(speedups),
        "speedup_low": min(speedups),
        "speedup_high": max(speedups),
        "speedup_decode": statistics.median(decode) if decode else 0.0,
        "texts_compared": compared,
        "texts_different": different,
        **{name: statistics.median(x[name] for x in figures) for name in LATENCIES},
        "acceptance": spec_counters.acceptance(counts, told)._asdict(),
        "steps": spec_counters.steps(counts)._asdict(),
        "off_steps": spec_counters.steps(added([r.counts for r in plain]))._asdict(),
        "busy": {name: statistics.mean(r.busy[name] for r in rounds) for name in rounds[0].busy},
        "rounds": figures,
        "counts": counts,
    }


def differences(rounds: Sequence[Round], plain: Sequence[Round]) -> tuple[int, int]:
    """How many texts are not what the call's text was without speculation, and how many were compared."""
    wanted = [{reply.name: reply.text for reply in r.replies if reply.error is None} for r in plain]
    pairs = [
        (reply.text, texts[reply.name])
        for r, texts in zip(rounds, wanted, strict=True)
        for reply in r.replies
        if reply.error is None and reply.name in texts
    ]
    return sum(mine != theirs for mine, theirs in pairs), len(pairs)


def added(counters: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name by name."""
    total: dict[str, float] = {}
    for counts in counters:
        for name, value in counts.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _told(reply: Reply) -> Mapping[str, Any] | None:
    told = (reply.usage.get("metrics") or {}).get("speculative_decoding")
    return told if told and "per_step_accepted" in told else None
