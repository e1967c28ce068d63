"""Cells, calls and rows of the speculation benchmark, its tables and its plot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import spec_report
from contestants import Round
from load import Reply
from prompt_sets import Prompt, read_sets
from spec_rows import Cell, Entry, calls, cells, differences, row

CELL = Cell("edit", 0.0, 2)


def reply(name: str, text: str, tokens: int, started: float, ended: float) -> Reply:
    told = {"per_step_accepted": [1, 0], "per_step_drafted": [2, 2]}
    usage = {"metrics": {"speculative_decoding": told}}
    return Reply(started, ended, started + 0.1, [0.1], 5, tokens, text, usage=usage, name=name)


def a_round(texts: Sequence[str], seconds: float, accepted: int = 0) -> Round:
    replies = [reply(f"p{n}", text, 10, 0.0, seconds) for n, text in enumerate(texts)]
    counts = {
        "vllm:generation_tokens_total": 10.0 * len(texts),
        "vllm:spec_decode_num_drafts_total": 4.0,
        "vllm:spec_decode_num_draft_tokens_total": 8.0,
        "vllm:spec_decode_num_accepted_tokens_total": float(accepted),
        "vllm:spec_decode_num_accepted_tokens_per_pos_total/0": float(accepted),
    }
    return Round(replies, counts, {"server": 0.9, "client": 0.0, "idle_servers": 0.0, "others": 0.1})


def rows() -> list[dict[str, Any]]:
    plain = [a_round(["a", "b"], 4.0), a_round(["a", "b"], 6.0), a_round(["a", "b"], 4.0)]
    fast = [a_round(["a", "b"], 2.0, 3), a_round(["a", "x"], 2.0, 3), a_round(["a", "b"], 4.0, 3)]
    return [row(cell, Entry("suffix", 4), fast, plain) for cell in cells(["edit"], [0.0, 1.0], [1, 2])]


def test_speed_up_is_the_median_of_ratios_within_rounds() -> None:
    got = rows()[0]
    assert (got["speedup"], got["speedup_low"], got["speedup_high"]) == (2.0, 1.0, 3.0)
    assert got["tok_s"] == 10.0 and got["off_tok_s"] == 5.0
    assert got["acceptance"]["length_speculating"] == pytest.approx(1 + 9 / 12)
    assert got["acceptance"]["conditional"] == pytest.approx([0.5, 0.0])


def test_texts_are_compared_call_by_call_and_failures_left_out() -> None:
    assert differences([a_round(["a", "x"], 1.0)], [a_round(["a", "b"], 1.0)]) == (1, 2)
    failed = a_round(["a", "x"], 1.0)
    failed.replies[1].error = "HTTP 500"
    assert differences([failed], [a_round(["a", "b"], 1.0)]) == (0, 1)


def test_few_clients_come_first() -> None:
    order = cells(["edit", "chat"], [0.0, 1.0], [1, 8])
    assert [(c.concurrency, c.temperature, c.set) for c in order[:3]] == [
        (1, 0, "edit"),
        (1, 0, "chat"),
        (1, 1, "edit"),
    ]
    assert {c.concurrency for c in order[4:]} == {8}


def test_calls_share_prompts_and_seeds_but_no_salt() -> None:
    prompts = [Prompt(f"p{n}", f"text {n}", 60) for n in range(9)]
    options: dict[str, Any] = {"requests": 3, "max_tokens": 100}
    off = calls(prompts, CELL, Entry("off", 0), 0, speculates=False, **options)
    on = calls(prompts, CELL, Entry("suffix", 4), 0, speculates=True, **options)
    again = calls(prompts, CELL, Entry("suffix", 4), 1, speculates=True, **options)
    assert len(off) == 4  # two a client
    assert [(c.prompt, c.fields["seed"]) for c in off] == [(c.prompt, c.fields["seed"]) for c in on]
    assert len({c[0].fields["cache_salt"] for c in (off, on, again)}) == 3
    assert on[0].fields["speculation"] == {"detail": True, "max_draft_tokens": 4}
    assert "speculation" not in off[0].fields and off[0].fields["max_tokens"] == 60
    assert len(calls(prompts, Cell("edit", 0.0, 64), Entry("off", 0), 0, speculates=False, **options)) == 9


def test_sets_are_files_by_their_beginning_or_our_own_categories(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"x/{n}", "prompt": f"p{n}", "max_tokens": 9}) for n in range(20)]
    (tmp_path / "vicuna_20.jsonl").write_text("\n".join(lines))
    got = read_sets(tmp_path, ["chat"])["chat"]
    assert sorted(p.text for p in got) == sorted(f"p{n}" for n in range(20))
    assert [p.text for p in got] != [f"p{n}" for n in range(20)] and got == read_sets(tmp_path, ["chat"])["chat"]
    assert {"chat", "code", "edit"} <= set(read_sets(None, []))
    with pytest.raises(SystemExit, match=r"--sets poems: .*vicuna_20"):
        read_sets(tmp_path, ["poems"])


def test_tables_and_plot(tmp_path: Path) -> None:
    got = rows()
    plain, markdown = spec_report.speed_table(got), spec_report.drafts_table(got, markdown=True)
    assert "1.00-3.00" in plain and "3/6" not in plain and "1/6" in plain
    assert len(markdown.splitlines()) == 2 + len(got) and ".50 .00" in markdown
    path = tmp_path / "plots" / "spec.png"
    spec_report.plot(path, got)
    assert path.read_bytes().startswith(b"\x89PNG")
