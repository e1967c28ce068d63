"""Tokens that a grammar forces: drafts that nobody has to guess. The text is the same with and without them."""

import json
import random
from collections.abc import Sequence
from typing import Any

import llguidance
import pytest
import tiny_tokenizers
from repeating_model import Loop
from simulation import simulate
from spec_engine import Engine, config

from paceline.engine.config import Speculation
from paceline.engine.core.plan import Drafts, RequestOutput, Row, RowResult, StepPlan, StepResult
from paceline.engine.execution.grammar import Grammars
from paceline.engine.types import SamplingParams, SpeculationControl
from paceline.spec_decode.adapt import Fixed, Load, Offer, Policy
from paceline.spec_decode.base import Context, ProposeReq, StepBudget
from paceline.spec_decode.goodput import Goodput
from paceline.spec_decode.live import Method
from paceline.spec_decode.proposer import Proposer
from paceline.spec_decode.speculators.suffix import Config, Suffix
from paceline.spec_decode.step_costs import StepCosts

VOCAB, END = 448, 2
TEXT = tiny_tokenizers.byte_level()
CONTEXT = Context(vocab_size=VOCAB, max_model_len=500, max_num_seqs=8, max_draft_tokens=4)
DRAFTS, ACCEPTED = "spec_draft_tokens/grammar", "spec_accepted_tokens/grammar"


class Forcing:
    """Forces what it is told, and allows everything."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = list(token_ids)

    def open(self, request_id: str, grammar: str, length: int, output_ids: Sequence[int]) -> None:
        pass

    def commit(self, request_id: str, token_ids: Sequence[int]) -> None:
        pass

    def close(self, request_id: str) -> None:
        pass

    def forced(self, request_id: str, length: int, most: int) -> list[int]:
        return self.token_ids[:most]

    def shorten(self, drafts: Drafts) -> Drafts:
        return drafts


class Counted(Suffix):
    """Slow where ``seconds`` is; counts how often it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(Config(), CONTEXT)
        self.seconds = seconds
        self.num_asked = 0

    def cost(self, num_requests: int, depth: int) -> float:
        return self.seconds

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        self.num_asked += 1
        return super().propose(batch, budget)


def make(forces: Sequence[int], speculator: Suffix | None = None, policy: Policy | None = None) -> Proposer:
    """A proposer with the requests "r", under a grammar, and "free"; both have committed 3, and "r" 1, 2, 3 before."""
    methods = [] if speculator is None else [Method("suffix", speculator)]
    proposer = Proposer(
        methods, policy or Fixed(4), StepCosts(), 4, lambda: 0.0, grammars=Forcing(forces), forced_tokens=True
    )
    for name, grammar in (("r", "some"), ("free", "")):
        params = SamplingParams(max_tokens=100, temperature=0.0, grammar=grammar)
        proposer.open(name, [1, 2, 3, 4, 5, 6, 1, 2], params)
    play(proposer, [3])
    return proposer


def play(proposer: Proposer, ids: list[int], drafts: Sequence[int] = (), *, answered: bool = True) -> StepPlan:
    """A step of both requests; "r" has ``drafts``."""
    rows = [Row("r", 0, 0, 1, 1, [], True, -1, list(drafts)), Row("free", 0, 0, 1, 1, [], True)]
    plan = StepPlan(0, [], [], rows)
    proposer.sent(plan)
    if answered:
        answer(proposer, plan, ids)
    return plan


def answer(proposer: Proposer, plan: StepPlan, ids: list[int]) -> None:
    results = [RowResult("r", 0, ids, len(ids) - 1), RowResult("free", 0, [3])]
    outputs = [RequestOutput(result.request_id, 0, result.token_ids) for result in results]
    proposer.applied(plan, StepResult(0, results, 0.01), outputs)


def offer(proposer: Proposer) -> dict[str, list[int]]:
    """A round of proposals, and what then waits for "r"."""
    for drafts in proposer.propose():
        drafts = proposer.fitting(drafts)
        proposer.landed(drafts, drafts.token_ids)
    live = proposer._live["r"]
    return {live.source: live.waiting}


def test_they_need_no_method_and_count_in_no_figures_of_the_request() -> None:
    proposer = make([7, 8])
    assert offer(proposer) == {"grammar": [7, 8]} and proposer.depths() == {"r": 2}
    play(proposer, [7, 8, 9], [7, 8])
    assert (proposer.tally.values[DRAFTS], proposer.tally.values[ACCEPTED]) == (2, 2)
    assert proposer.report("r", is_last=True) is None
    assert not proposer._moved and not proposer._offering


def test_a_request_may_go_without() -> None:
    for control in (SpeculationControl(enabled=False), SpeculationControl(max_draft_tokens=0)):
        proposer = make([7, 8])
        proposer.report("r", is_last=True)
        params = SamplingParams(max_tokens=100, grammar="some")
        proposer.open("r", [1, 2, 3], params, control=control)
        play(proposer, [3])
        assert offer(proposer) == {"": []}


def test_a_quick_method_is_taken_where_it_goes_on_behind_them() -> None:
    assert offer(make([4, 5], Suffix(Config(), CONTEXT))) == {"suffix": [4, 5, 6]}
    assert offer(make([4], Suffix(Config(), CONTEXT))) == {"suffix": [4, 5, 6]}
    assert offer(make([4, 5, 6], Suffix(Config(), CONTEXT))) == {"grammar": [4, 5, 6]}, "not further"
    assert offer(make([9], Suffix(Config(), CONTEXT))) == {"grammar": [9]}, "elsewhere"
    assert offer(make([], Suffix(Config(), CONTEXT))) == {"suffix": [4, 5, 6]}


def test_what_comes_later_gives_way_unless_it_goes_further() -> None:
    proposer = make([7, 8])
    offer(proposer)
    length = proposer._live["r"].length
    stale = Drafts("r", 0, length - 1, [3, 7, 8, 9], source="late")
    laws = Drafts("r", 0, length, [7, 8, 9], draft_q=[([t], [1.0]) for t in (7, 8, 9)], source="late")
    assert proposer.fitting(stale).token_ids == [] == proposer.fitting(laws).token_ids
    tree = Drafts("r", 0, length, [6, 7, 8, 9], parents=[-1, -1, 1, 2], source="late")
    assert proposer.fitting(tree) is tree
    assert proposer.fitting(Drafts("r", 0, length, [6, 7, 8], parents=[-1, -1, 1])).token_ids == []
    other = Drafts("free", 0, length, [1], source="late")
    assert proposer.fitting(other) is other


def test_nobody_waits_for_a_slow_method_for_them() -> None:
    slow = Counted(seconds=0.001)
    proposer = make([7, 8], slow)
    assert offer(proposer) == {"grammar": [7, 8]} and slow.num_asked == 1, 'asked for "free" alone'


def test_no_plan_waits_for_a_token_that_a_running_step_will_give() -> None:
    proposer = make([7])
    running = play(proposer, [], answered=False)
    assert offer(proposer) == {"": []} and not proposer.waits(proposer.depths())
    answer(proposer, running, [3])

    proposer = make([7, 8, 9])
    running = play(proposer, [], answered=False)
    assert offer(proposer) == {"grammar": [7, 8, 9]} and proposer.waits(proposer.depths())
    answer(proposer, running, [7])
    assert proposer._live["r"].waiting == [8, 9] and proposer.tally.values["spec_ahead_hits"] == 0


def test_they_are_offered_while_speculation_rests() -> None:
    costs = StepCosts([(1, 0.010), (64, 0.012)])
    policy, suffix = Goodput(costs), Counted()
    for _ in range(16):
        policy.stepped(1, 0)
    assert policy.is_off
    proposer = make([7, 8], suffix, policy)
    for _ in range(20):
        assert offer(proposer) == {"grammar": [7, 8]} and proposer.depths() == {"r": 2}
        play(proposer, [7, 8, 3], [7, 8])
    assert policy.is_off and not suffix.num_asked
    assert proposer.tally.values[ACCEPTED] == 40


def test_at_rest_sure_drafts_are_weighed_by_themselves() -> None:
    def resting(slope_s: float) -> Goodput:
        policy = Goodput(StepCosts([(32, 0.010), (64, 0.010 + 32 * slope_s)]))
        for _ in range(16):
            policy.stepped(1, 0)
        return policy

    sure, guess = Offer("a", [0.99], True), Offer("b", [0.99])
    crowd = Load(32, 0, 0.0)
    many = [Offer(f"r{i}", [0.99], True) for i in range(8)]
    cheap, dear = resting(0.00001), resting(0.001)
    assert cheap.choose([sure, guess], crowd) == {}, "a token on 32 is no gain of 5 %"
    assert cheap.choose([*many, guess], crowd) == {f"r{i}": 1 for i in range(8)}
    assert dear.choose([*many, guess], crowd) == {}, "a row costs more than a token is worth"
    for _ in range(63):
        cheap.stepped(0, 8)
    assert cheap.is_off and cheap.wants_drafts, "time to probe"
    bad = Offer("b", [0.01])
    assert cheap.choose([*many, bad], crowd) == {f"r{i}": 1 for i in range(8)} | {"b": 1}
    cheap.stepped(1, 9)
    assert cheap.is_off, "that sure drafts pay says nothing of the others"


# --- the whole engine -------------------------------------------------------------------------------------------------

SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "first_name": {"enum": ["Ada", "Bob"]},
            "age_in_years": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["first_name", "age_in_years"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"const": {"kind": "point", "x": 0}}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"const": "a rather long text"}, {"const": "a rather large text"}, {"type": "boolean"}]},
]


def tokenizer() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(TEXT.to_str(), n_vocab=VOCAB, eos_token=[END])


GRAMMARS = Grammars(tokenizer)
COMPILE = llguidance.LLMatcher.grammar_from_json_schema


def work() -> dict[str, tuple[list[int], SamplingParams]]:
    """Every schema and free text, greedy and with three seeds, two requests of one prompt each."""
    rng = random.Random(5)
    asked: dict[str, tuple[list[int], SamplingParams]] = {}
    for i, schema in enumerate([*SCHEMAS, None]):
        prompt = [rng.randrange(3, VOCAB) for _ in range(rng.randint(4, 14))]
        grammar = COMPILE(schema, overrides={"whitespace_flexible": False}) if schema else ""
        for seed in (0, 1, 2, 3):
            params = SamplingParams(
                max_tokens=100 if schema else 25,
                temperature=1.0 if seed else 0.0,
                seed=seed,
                end_ids=[END],
                grammar=grammar,
                logprobs=2 if seed == 1 else None,
            )
            asked[f"{i}-{seed}"] = prompt, params
    return asked


def played(section: Speculation, num_blocks: int, in_flight: int) -> tuple[Engine, dict[str, float]]:
    settings = config(section, max_in_flight=in_flight, max_num_seqs=8, max_num_batched_tokens=24)

    async def main() -> tuple[Engine, dict[str, float]]:
        async with Engine(settings, model=Loop(vocab_size=VOCAB, seed=3), num_blocks=num_blocks,
                          grammars=GRAMMARS) as engine:  # fmt: skip
            for name, asked in work().items():
                engine.add(name, *asked)
            await engine.finish(timeout_s=6000.0)
            stats = engine.scheduler.stats()
            assert stats is not None
            return engine, stats.values

    return simulate(main)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[RequestOutput]]:
    engine, values = played(Speculation(forced_tokens=False), 200, 1)
    assert DRAFTS not in values
    for name in engine.outputs:
        if not name.startswith("3"):
            text = TEXT.decode([token for token in engine.tokens(name) if token != END])
            assert engine.outputs[name][-1].finish_reason == "stop" and json.loads(text) is not None
    return engine.outputs


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("num_blocks", [29, 200])
@pytest.mark.parametrize("policy", ["fixed", "goodput"])
@pytest.mark.parametrize("methods", [[], ["suffix"], ["ngram", "outside.chaos_speculator"]])
def test_the_text_is_the_same(
    expected: dict[str, list[RequestOutput]],
    monkeypatch: pytest.MonkeyPatch,
    methods: list[str],
    policy: Any,
    num_blocks: int,
    in_flight: int,
) -> None:
    monkeypatch.setattr("paceline.actors.scheduler.load_grammars", lambda card: GRAMMARS)
    engine, values = played(Speculation(methods=methods, policy=policy), num_blocks, in_flight)
    for name, outputs in expected.items():
        assert engine.tokens(name) == [token for output in outputs for token in output.token_ids], name
        told = [entry for output in engine.outputs[name] for entry in output.logprobs or []]
        assert told == [entry for output in outputs for entry in output.logprobs or []]
        report = engine.outputs[name][-1].speculation
        assert report is None or "grammar" not in report.drafted
        assert methods or report is None
    assert values["num_preemptions"] > 0 or num_blocks == 200
    assert values[ACCEPTED] == values[DRAFTS] > 50
    counted = values.get("spec_decode_num_draft_tokens")
    assert counted == (sum(values[f"spec_draft_tokens/{method}"] for method in methods) if methods else None)
