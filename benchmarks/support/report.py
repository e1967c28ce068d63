"""Medians, percentiles, tables and result files."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from load import Reply


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100), nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))]


def summary(replies: Sequence[Reply], skip_ends: bool = False) -> dict[str, float]:
    """Figures of one run: output tok/s over the wall, TTFT and inter-token gaps in ms, errors."""
    good = [r for r in replies if r.error is None]
    wall = max((r.ended for r in replies), default=0.0) - min((r.started for r in replies), default=0.0)
    ttft = [1e3 * (r.first - r.started) for r in good if r.first]
    gaps = [1e3 * g for r in good for g in r.gaps]
    each = [1e3 * (r.ended - r.first) / (r.output_tokens - 1) for r in good if r.output_tokens > 1 and r.first]
    return {
        "requests": len(replies),
        "errors": len(replies) - len(good),
        "wall_s": wall,
        "output_tok_s": sum(r.output_tokens for r in good) / wall if wall else 0.0,
        "prompt_tok_s": sum(r.prompt_tokens for r in good) / wall if wall else 0.0,
        "ttft_p50_ms": percentile(ttft, 50),
        "ttft_p99_ms": percentile(ttft, 99),
        "itl_p50_ms": percentile(gaps, 50),
        "itl_p99_ms": percentile(gaps, 99),
        "tpot_p50_ms": percentile(each, 50),
    }


def median_spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and half of max - min as a share of it."""
    mid = statistics.median(values)
    return mid, (max(values) - min(values)) / 2 / mid if mid else 0.0


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """Aligned columns, numbers to the right."""

    def cell(v: Any) -> str:
        return f"{v:.1f}" if isinstance(v, float) else str(v)

    cells = [list(head), *([cell(v) for v in row] for row in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head))]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures: processor, cores, versions, commit, command."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (x.split(":", 1)[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")), model
        )
    versions = {}
    for name in ("paceline", "torch", "tokenizers", "pyzmq", "uvicorn"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit,
        "command": " ".join(Path(part).name if os.sep in part else part for part in sys.argv),
    }


def save(path: Path, result: Any, *, quiet: bool = False) -> None:
    """Write ``result`` with the machine's facts as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "result": result}, indent=1) + "\n")
    if not quiet:
        print(f"wrote {path}")


def plot_lines(path: Path, title: str, xlabel: str, ylabel: str, series: dict[str, list[tuple[float, float]]]) -> None:
    """Lines with markers, one a name; needs the ``bench`` extra."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install 'paceline[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log")
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")
