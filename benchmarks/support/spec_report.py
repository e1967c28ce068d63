"""Rows of the speculation benchmark as tables and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import table

_SPEED = ["set", "T", "clients", "method", "k", "off tok/s", "tok/s", "speed-up", "low-high", "decode", "TTFT p50 ms"]
_SPEED += ["ITL p50 ms", "ITL p99 ms", "other text", "errors", "others' CPU"]
_DRAFTS = ["set", "T", "clients", "method", "k", "L", "L spec", "spec steps", "conditional by position"]
_DRAFTS += ["unconditional", "drafted", "accepted", "wasted", "stale", "ahead hits"]
_DRAFTS += ["off step ms", "step ms", "pause ms"]

_LEAST_TRIED = 10  # drafts at a position, for a point in the plot

Rows = Sequence[dict[str, Any]]


def speed_table(rows: Rows, *, markdown: bool = False) -> str:
    """Against off: speed-up is of all output tokens a second, decode of those behind the first."""
    return _lay_out([_speed(row) for row in rows], _SPEED, markdown)


def drafts_table(rows: Rows, *, markdown: bool = False) -> str:
    """Drafts, and what came of them. L = committed tokens of a request's step; L spec only of steps with drafts."""
    return _lay_out([_drafts(row) for row in rows], _DRAFTS, markdown)


def _lay_out(cells: list[list[Any]], head: list[str], markdown: bool) -> str:
    if not markdown:
        return table(cells, head)
    lines = [head, ["---"] * 4 + ["---:"] * (len(head) - 4), *cells]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _place(row: dict[str, Any]) -> list[Any]:
    return [row["set"], f"{row['temperature']:g}", row["concurrency"], row["method"], row["depth"] or ""]


def _speed(row: dict[str, Any]) -> list[Any]:
    return [
        *_place(row),
        f"{row['off_tok_s']:.1f}",
        f"{row['tok_s']:.1f}",
        f"{row['speedup']:.2f}",
        f"{row['speedup_low']:.2f}-{row['speedup_high']:.2f}",
        f"{row['speedup_decode']:.2f}",
        f"{row['ttft_p50_ms']:.0f}",
        f"{row['itl_p50_ms']:.0f}",
        f"{row['itl_p99_ms']:.0f}",
        f"{row['texts_different']}/{row['texts_compared']}",
        row["errors"],
        f"{row['busy']['others']:.0%}",
    ]


def _drafts(row: dict[str, Any]) -> list[Any]:
    got, steps = row["acceptance"], row["steps"]
    ahead = got["ahead_hits"] + got["ahead_misses"]
    return [
        *_place(row),
        f"{got['length_all']:.2f}",
        f"{got['length_speculating']:.2f}",
        f"{got['share_speculating']:.0%}",
        _chances(got["conditional"]),
        _chances(got["unconditional"]),
        got["drafted"],
        got["accepted"],
        f"{(got['drafted'] - got['accepted']) / got['drafted']:.0%}" if got["drafted"] else "",
        sum(got["stale"].values()),
        f"{got['ahead_hits']}/{ahead}" if ahead else "",
        f"{1e3 * row['off_steps']['mean_s']:.1f}",
        f"{1e3 * steps['mean_s']:.1f}",
        f"{1e3 * steps['mean_pause_s']:.2f}",
    ]


def _chances(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}".removeprefix("0") for value in values)


def plot(path: Path, rows: Rows) -> None:
    """One line of panels a temperature: speed-up by clients, and acceptance by position at the fewest clients.

    A colour is a set, a line style a method.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install 'paceline[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    temperatures = sorted({row["temperature"] for row in rows})
    size = (13, 4.4 * len(temperatures))
    figure, grid = pyplot.subplots(len(temperatures), 2, figsize=size, layout="constrained", squeeze=False)
    styles = _styles(rows)
    for axes, temperature in zip(grid, temperatures, strict=True):
        some = [row for row in rows if row["temperature"] == temperature]
        _speedups(axes[0], some, styles)
        _positions(axes[1], some, styles)
        axes[0].set_title(f"Speed-up, temperature {temperature:g}")
        axes[1].set_title(f"Acceptance by position, temperature {temperature:g}, clients: {_fewest(some)}")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=3.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _fewest(rows: Rows) -> int:
    return min(row["concurrency"] for row in rows)


def _label(row: dict[str, Any]) -> str:
    depth = f", k={row['depth']}" if row["depth"] else ""
    return f"{row['set']}: {row['method']}{depth}"


def _styles(rows: Rows) -> dict[str, dict[str, Any]]:
    sets = list(dict.fromkeys(row["set"] for row in rows))
    methods = list(dict.fromkeys((row["method"], row["depth"]) for row in rows))
    lines, marks = ["-", "--", "-.", ":"], "osv^Dx*P"
    return {
        _label(row): {
            "color": f"C{sets.index(row['set']) % 10}",
            "linestyle": lines[methods.index((row["method"], row["depth"])) % len(lines)],
            "marker": marks[methods.index((row["method"], row["depth"])) % len(marks)],
        }
        for row in rows
    }


def _speedups(axes: Any, rows: Rows, styles: dict[str, dict[str, Any]]) -> None:
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(_label(row), []).append(row)
    for label, some in lines.items():
        some = sorted(some, key=lambda row: row["concurrency"])
        xs, ys = [row["concurrency"] for row in some], [row["speedup"] for row in some]
        axes.plot(xs, ys, label=label, **styles[label])
        low, high = [row["speedup_low"] for row in some], [row["speedup_high"] for row in some]
        axes.fill_between(xs, low, high, color=styles[label]["color"], alpha=0.1, linewidth=0)
    axes.axhline(1.0, color="black", linewidth=0.8)
    ticks = sorted({row["concurrency"] for row in rows})
    axes.set(xlabel="clients", ylabel="output tok/s, against the server without", xscale="log", ylim=(0, None))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _positions(axes: Any, rows: Rows, styles: dict[str, dict[str, Any]]) -> None:
    most = 1
    for row in rows:
        got = row["acceptance"]
        values = [x for x, num in zip(got["conditional"], got["reached"], strict=True) if num >= _LEAST_TRIED]
        if row["concurrency"] == _fewest(rows) and values:
            axes.plot(range(1, len(values) + 1), values, **styles[_label(row)])
            most = max(most, len(values))
    axes.set(xlabel="position of the draft", ylabel="accepted, given all before it were", ylim=(0, 1.02))
    axes.set_xticks(range(1, most + 1))
    axes.grid(alpha=0.3)
