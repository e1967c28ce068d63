"""What ngram and suffix propose, against searches that a reader can check; their cost and memory."""

import random
import time
from types import ModuleType

import msgspec
import pytest

from paceline.engine import plugins
from paceline.engine.core.plan import Drafts
from paceline.engine.types import SamplingParams
from paceline.spec_decode.base import Context, Outcome, ProposeReq, Speculator, StepBudget
from paceline.spec_decode.speculators import ngram, suffix

CTX = Context(vocab_size=1000, max_model_len=20_000, max_num_seqs=8, max_draft_tokens=8)
PARAMS = SamplingParams(max_tokens=4000)
BOTH = pytest.mark.parametrize("module", [ngram, suffix], ids=["ngram", "suffix"])


def ask(speculator: Speculator, name: str, length: int, depth: int = 8) -> Drafts | None:
    answers = speculator.propose([ProposeReq(name, 0, length, [], depth)], StepBudget(8, 8))
    assert len(answers) <= 1
    return answers[0] if answers else None


def drafted(speculator: Speculator, text: list[int], depth: int = 8, salt: str = "") -> list[int]:
    speculator.open("r", text, PARAMS, 0, cache_salt=salt)
    found = ask(speculator, "r", len(text), depth)
    speculator._live.pop("r", None) if isinstance(speculator, suffix.Suffix) else speculator.close("r")
    return found.token_ids if found else []


def naive_lookup(text: list[int], longest: int, shortest: int, depth: int) -> list[int]:
    for n in range(longest, shortest - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[-n:]:
                run = list(text)
                for i in range(depth):
                    run.append(run[start + n + i])
                return run[len(text) :]
    return []


@pytest.mark.parametrize(("longest", "shortest"), [(5, 2), (3, 3), (2, 2), (8, 4)])
def test_ngram_is_prompt_lookup(longest: int, shortest: int) -> None:
    rng = random.Random(longest)
    speculator = ngram.build(ngram.Config(max_match=longest, min_match=shortest), CTX)
    hits = 0
    for _ in range(300):
        text = [rng.randrange(rng.choice([3, 3, 5])) for _ in range(rng.randint(1, 40))]
        wanted = naive_lookup(text, longest, shortest, 6)
        hits += bool(wanted)
        assert drafted(speculator, text, 6) == wanted
    assert hits > 10


@BOTH
def test_text_grows_and_requests_do_not_mix(module: ModuleType) -> None:
    speculator: Speculator = module.build(module.Config(), CTX)
    speculator.open("a", [1, 2, 3, 4], PARAMS, 0)
    speculator.open("b", [1, 2, 9, 9], PARAMS, 0)
    assert ask(speculator, "a", 4) is None and ask(speculator, "b", 4) is None
    speculator.observe([Outcome("a", 0, 4, 0, [7, 1, 2]), Outcome("b", 0, 4, 0, [8, 1]), Outcome("b", 0, 6, 0, [2])])
    a, b = ask(speculator, "a", 7), ask(speculator, "b", 7)
    assert a is not None and a.token_ids[:2] == [3, 4] and (a.epoch, a.base_len) == (0, 7)
    assert b is not None and b.token_ids[:2] == [9, 9]
    speculator.close("a")
    speculator.close("a")
    assert speculator.stats()["num_texts"] >= 1


@BOTH
def test_what_the_client_predicts_is_looked_up(module: ModuleType) -> None:
    speculator: Speculator = module.build(module.Config(), CTX)
    speculator.open("a", [50, 51], PARAMS, 0, prediction=[1, 2, 3, 4, 5, 6])
    assert ask(speculator, "a", 2) is None
    speculator.observe([Outcome("a", 0, 2, 0, [1, 2, 3])])
    found = ask(speculator, "a", 5)
    assert found is not None and found.token_ids == [4, 5, 6][: len(found.token_ids)] != []


@BOTH
def test_delta_is_an_observation(module: ModuleType) -> None:
    speculator: Speculator = module.build(module.Config(), CTX)
    speculator.open("a", [1, 2, 3], PARAMS, 0)
    [found] = speculator.propose([ProposeReq("a", 0, 5, [1, 2], 4)], StepBudget(8, 8))
    assert found.token_ids[0] == 3


def test_suffix_takes_the_branch_that_most_occurrences_take() -> None:
    speculator = suffix.build(suffix.Config(max_factor=4.0), CTX)
    text = [1, 2, 5, 6, 90, 1, 2, 7, 8, 91, 1, 2, 5, 6, 92, 1, 2]
    assert drafted(speculator, text)[:2] == [5, 6]
    speculator.open("r", text, PARAMS, 0)
    found = ask(speculator, "r", len(text))
    assert found is not None and found.confidence is not None
    assert found.confidence[0] == pytest.approx(2 / 3 * 2 / 3)  # two of three branches, behind a match of two


def test_suffix_stops_where_branches_get_unlikely() -> None:
    text = [1, 2, 3, 40, 1, 2, 3, 41, 1, 2, 3, 42, 1, 2, 3, 43, 9, 1, 2]
    sure = suffix.build(suffix.Config(max_factor=4.0, min_token_prob=0.5), CTX)
    assert drafted(sure, text) == [3]
    bold = suffix.build(suffix.Config(max_factor=4.0, min_token_prob=0.1), CTX)
    assert drafted(bold, text)[:2] == [3, 43]


@pytest.mark.parametrize(("factor", "num"), [(1.0, 3), (0.5, 1), (2.0, 6)])
def test_suffix_proposes_no_more_than_the_match_is_worth(factor: float, num: int) -> None:
    speculator = suffix.build(suffix.Config(max_factor=factor), CTX)
    text = [*range(20), 90, 10, 11, 12]
    assert drafted(speculator, text) == list(range(13, 13 + num))


def test_suffix_matches_at_most_max_depth() -> None:
    text = [*range(30), 90, *range(10)]
    assert len(drafted(suffix.build(suffix.Config(max_depth=4), CTX), text)) == 4
    assert len(drafted(suffix.build(suffix.Config(max_depth=24), CTX), text)) == 8


def finish(speculator: suffix.Suffix, name: str, prompt: list[int], output: list[int], salt: str = "") -> None:
    speculator.open(name, prompt, PARAMS, 0, cache_salt=salt)
    speculator.observe([Outcome(name, 0, len(prompt), 0, output)])
    speculator.close(name)


def test_suffix_learns_from_finished_requests_of_the_same_salt_only() -> None:
    speculator = suffix.build(suffix.Config(), CTX)
    finish(speculator, "a", [1, 2], [30, 31, 32, 33, 34], salt="alice")
    assert drafted(speculator, [8, 30, 31, 32], salt="alice") == [33, 34]
    assert drafted(speculator, [8, 30, 31, 32], salt="bob") == []
    assert drafted(speculator, [8, 30, 31, 32]) == []
    assert drafted(speculator, [5, 5, 1, 2], salt="alice") == [30, 31]  # the end of the prompt leads into the output


def test_suffix_prefers_its_own_text() -> None:
    speculator = suffix.build(suffix.Config(), CTX)
    finish(speculator, "a", [0, 0], [30, 31, 99, 99])
    assert drafted(speculator, [30, 31, 7, 8, 30, 31]) == [7, 8]


def test_suffix_keeps_so_many_requests_and_salts_and_no_more() -> None:
    speculator = suffix.build(suffix.Config(global_requests=3, global_tokens=1024), CTX)
    for i in range(6):
        finish(speculator, f"r{i}", [0], [100 + i, 200 + i, 300 + i])
    held = [bool(drafted(speculator, [9, 100 + i, 200 + i])) for i in range(6)]
    assert held == [False, False, False, True, True, True]
    before = speculator.stats()["num_bytes"]
    for i in range(200):
        finish(speculator, f"x{i}", [0], list(range(400)))
    assert speculator.stats()["num_bytes"] == before
    for i in range(40):
        finish(speculator, f"y{i}", [0], [1, 2, 3], salt=f"salt{i}")
    assert speculator.stats()["num_texts"] <= 16
    off = suffix.build(suffix.Config(global_requests=0), CTX)
    finish(off, "a", [0], [1, 2, 3])
    assert off.stats()["num_texts"] == 0


@pytest.mark.parametrize("name", plugins.names("spec_decode.speculators"))
def test_every_plugin_says_what_it_is(name: str) -> None:
    module = plugins.load("spec_decode.speculators", name)
    assert module.PLACEMENT in ("scheduler", "process", "target")
    assert issubclass(module.Config, msgspec.Struct) and module.Config.__struct_config__.forbid_unknown_fields
    assert callable(module.build)


@BOTH
def test_wrong_settings_are_refused(module: ModuleType) -> None:
    wrong = {"ngram": [{"min_match": 1}, {"min_match": 6}], "suffix": [
        {"max_depth": 1}, {"max_factor": 0.0}, {"min_token_prob": 2.0}, {"global_requests": -1}, {"global_tokens": 1}
    ]}  # fmt: skip
    for settings in wrong[module.__name__.rpartition(".")[2]]:
        with pytest.raises(ValueError, match="must be"):
            module.Config(**settings)


@BOTH
def test_a_proposal_costs_microseconds(module: ModuleType) -> None:
    rng = random.Random(0)
    speculator: Speculator = module.build(module.Config(), CTX)
    phrase = [rng.randrange(1000) for _ in range(60)]
    for i in range(20):
        speculator.open(f"old{i}", phrase[:9], PARAMS, 0)
        speculator.observe([Outcome(f"old{i}", 0, 9, 0, [rng.randrange(1000) for _ in range(200)] + phrase)])
        speculator.close(f"old{i}")
    speculator.open("r", [rng.randrange(1000) for _ in range(4000)] + phrase, PARAMS, 0)
    times: list[float] = []
    for i in range(300):
        speculator.observe([Outcome("r", 0, 4060 + i, 0, [phrase[i % 60]])])
        began_s = time.perf_counter()
        found = ask(speculator, "r", 4061 + i)
        times.append(time.perf_counter() - began_s)
        assert found is not None or i < 2
    assert sorted(times)[150] < 50e-6
