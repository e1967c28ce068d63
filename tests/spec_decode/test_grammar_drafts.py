"""Drafts cut by a grammar: what is kept is what the target's masks would allow, and doubt keeps everything."""

import threading
import time

import llguidance
import pytest
import tiny_tokenizers

from paceline.engine.core.plan import Drafts
from paceline.engine.execution.grammar import Grammars
from paceline.spec_decode.adapt import Fixed
from paceline.spec_decode.grammar_drafts import GrammarDrafts
from paceline.spec_decode.proposer import Proposer
from paceline.spec_decode.step_costs import StepCosts

TEXT = tiny_tokenizers.byte_level()
REGEX = llguidance.LLMatcher.grammar_from_regex
END = 2


def tokenizer() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(TEXT.to_str(), n_vocab=448, eos_token=[END])


def ids(text: str) -> list[int]:
    return [TEXT.encode(c, add_special_tokens=False).ids[0] for c in text]


def opened(grammar: str, output: str = "") -> GrammarDrafts:
    """A trim with the request "r": three tokens of prompt, then ``output``."""
    trim = GrammarDrafts(Grammars(tokenizer))
    trim.open("r", grammar, 3 + len(output), ids(output))
    trim._open["r"].compiled.result(10)
    return trim


def test_a_chain_ends_at_the_first_that_is_forbidden() -> None:
    trim = opened(REGEX("[0-9]{2}-x"))
    cut = trim.shorten(Drafts("r", 0, 3, ids("1a-x"), confidence=[0.9, 0.8, 0.7, 0.6], source="suffix"))
    assert cut == Drafts("r", 0, 3, ids("1"), confidence=[0.9], source="suffix") and trim.num_cut == 3
    whole = Drafts("r", 0, 3, [*ids("12-x"), END])
    assert trim.shorten(whole).token_ids == ids("12-x"), "behind the end nothing is verified"
    good = Drafts("r", 0, 3, ids("12-"))
    assert trim.shorten(good) is good
    trim.commit("r", ids("12"))
    assert trim.shorten(Drafts("r", 0, 5, ids("-y"))).token_ids == ids("-")
    assert opened(REGEX("[0-9]{2}-x"), "12").shorten(Drafts("r", 0, 5, ids("-y"))).token_ids == ids("-")
    assert trim.shorten(Drafts("r", 0, 5, ids("zz"))).token_ids == []


def test_a_tree_loses_forbidden_nodes_with_what_hangs_below_them() -> None:
    trim = opened(REGEX("1(2|3)4|56"))
    tree = Drafts("r", 0, 3, ids("1a52634"), parents=[-1, -1, -1, 0, 2, 1, 3], confidence=[0.1 * i for i in range(7)])
    cut = trim.shorten(tree)
    assert cut.token_ids == ids("15264") and cut.parents == [-1, -1, 0, 1, 2]
    assert cut.confidence == pytest.approx([0.0, 0.2, 0.3, 0.4, 0.6])


def test_doubt_keeps_drafts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Drafts("r", 0, 3, ids("zz"))
    trim = opened(REGEX("[0-9]+"))
    stale, unknown = Drafts("r", 0, 2, ids("zz")), Drafts("other", 0, 3, ids("zz"))
    assert trim.shorten(stale) is stale and trim.shorten(unknown) is unknown
    assert trim.shorten(wrong).token_ids == []
    trim.close("r")
    trim.commit("r", ids("1"))
    assert trim.shorten(wrong) is wrong
    assert opened(REGEX("(")).shorten(wrong) is wrong
    assert opened(REGEX("[0-9]+"), "x").shorten(Drafts("r", 0, 4, ids("zz"))).token_ids == ids("zz")

    gate = threading.Event()
    slow = GrammarDrafts(Grammars(lambda: gate.wait(10) and tokenizer()))  # type: ignore[arg-type,return-value]
    slow.open("r", REGEX("[0-9]+"), 3, [])
    began_s = time.monotonic()
    assert slow.shorten(wrong) is wrong and time.monotonic() - began_s < 1
    gate.set()
    slow._open["r"].compiled.result(10)
    assert slow.shorten(wrong).token_ids == []


def test_the_proposer_tells_it_of_requests_under_a_grammar() -> None:
    from paceline.engine.core.plan import RequestOutput, Row, RowResult, StepPlan, StepResult
    from paceline.engine.types import SamplingParams
    from paceline.spec_decode.base import Context
    from paceline.spec_decode.live import Method
    from paceline.spec_decode.speculators.suffix import Config, Suffix

    context = Context(vocab_size=448, max_model_len=500, max_num_seqs=8, max_draft_tokens=4)
    trim = GrammarDrafts(Grammars(tokenizer))
    proposer = Proposer([Method("suffix", Suffix(Config(), context))], Fixed(4), StepCosts(), 4, grammars=trim)
    proposer.open("r", ids("abc"), SamplingParams(max_tokens=9, grammar=REGEX("[0-9]+")), output_ids=ids("12"))
    proposer.open("free", ids("abc"), SamplingParams(max_tokens=9))
    assert list(trim._open) == ["r"] and trim._open["r"].length == 5
    trim._open["r"].compiled.result(10)
    plan = StepPlan(0, [], [], [Row("r", 0, 4, 1, 1, [], True)])
    proposer.sent(plan)
    proposer.applied(plan, StepResult(0, [RowResult("r", 0, ids("3"))]), [RequestOutput("r", 2, ids("3"))])
    assert proposer.fitting(Drafts("r", 0, 6, ids("4x"))).token_ids == ids("4")
    proposer.report("r", is_last=True)
    assert not trim._open
