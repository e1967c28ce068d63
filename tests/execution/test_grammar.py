"""Requests under a grammar: masks per position, taken back and fed again, and the same text with any drafts."""

import json
import random
import re

import llguidance
import numpy as np
import pytest
import tiny_tokenizers
import torch
from random_plans import RandomPlans, Stream
from toy_model import ToyModel

from paceline.engine.core.plan import NewRequest, Row, StepPlan
from paceline.engine.execution.grammar import Grammars
from paceline.engine.execution.grammar_masks import mask_logits
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.types import SamplingParams
from paceline.spec_decode.rules import coupled

VOCAB, END, BLOCK, POOL = 448, 2, 4, 120
TEXT = tiny_tokenizers.byte_level()
REGEX = llguidance.LLMatcher.grammar_from_regex
SCHEMA = llguidance.LLMatcher.grammar_from_json_schema(
    {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "k": {"enum": ["red", "blue"]}},
        "required": ["n", "k"],
        "additionalProperties": False,
    },
    overrides={"whitespace_flexible": False},
)


def tokenizer() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(TEXT.to_str(), n_vocab=VOCAB, eos_token=[END])


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(tokenizer)


@pytest.fixture(scope="module")
def model() -> ToyModel:
    return ToyModel(vocab_size=VOCAB)


def runner_of(model: ToyModel, grammars: Grammars | None) -> Runner:
    return Runner(model, allocate(model.config, POOL, BLOCK, torch.float32), coupled.build(), grammars=grammars)


def params(grammar: str, seed: int = 0, **fields: object) -> SamplingParams:
    given = {"max_tokens": 60, "temperature": 1.0 if seed else 0.0} | fields
    return SamplingParams(seed=seed, end_ids=[END], grammar=grammar, **given)  # type: ignore[arg-type]


def alone(runner: Runner, prompt: list[int], asked: SamplingParams) -> list[int]:
    """The output of one request, one token a step."""
    blocks = list(range(-(-(len(prompt) + asked.max_tokens) // BLOCK)))
    new = [NewRequest("r", 0, prompt, len(prompt), blocks, asked)]
    row, out = Row("r", 0, 0, len(prompt), len(blocks), [], True), []
    while len(out) < asked.max_tokens and END not in out:
        answer = runner.run(StepPlan(0, [], new, [row])).rows[0]
        assert answer.error is None, answer.error
        out += answer.token_ids
        new, row = [], Row("r", 0, len(prompt) + len(out) - 1, 1, len(blocks), [], True)
    runner.forget()
    return out


def text_of(output: list[int]) -> str:
    return TEXT.decode([t for t in output if t != END])


def allowed(bits: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())


def ids(text: str) -> list[int]:
    return TEXT.encode(text, add_special_tokens=False).ids


# --- where an output stands -------------------------------------------------------------------------------------------


def masks(
    grammars: Grammars, grammar: str, output: list[int], drafts: list[int], parents: list[int] | None = None
) -> list[set[int]]:
    bits = np.zeros((len(drafts) + 1, VOCAB // 32), np.int32)
    grammars.constraint(grammar, output).fill(bits, drafts, parents)
    return [allowed(line) for line in bits]


def test_every_position_of_drafts_has_the_mask_it_would_have_if_they_were_committed(grammars: Grammars) -> None:
    output, found = ids('{"n":7,"k":"red"}'), []
    for start in range(len(output)):
        found = masks(grammars, SCHEMA, output[:start], output[start:])
        for i, line in enumerate(found):
            assert line == masks(grammars, SCHEMA, output[: start + i], [])[0]
            assert start + i == len(output) or output[start + i] in line
    assert found[-1] == {END}


def test_asking_with_drafts_leaves_no_trace(grammars: Grammars) -> None:
    standing = grammars.constraint(SCHEMA)
    bits = np.zeros((9, VOCAB // 32), np.int32)
    rng = random.Random(0)
    output = [*ids('{"n":12,"k":"blue"}'), END]
    for at, token in enumerate(output):
        tail = output[at : at + rng.randint(0, 8)]
        if tail and rng.random() < 0.5:
            tail[rng.randrange(len(tail))] = rng.randrange(VOCAB)
        standing.fill(bits[: len(tail) + 1], tail, None)
        assert allowed(bits[0]) == masks(grammars, SCHEMA, output[:at], [])[0]
        standing.push([token])


def test_nodes_of_a_tree_stand_behind_their_own_ancestors(grammars: Grammars) -> None:
    a, b, c = (ids(x)[0] for x in "123")
    grammar = REGEX("1(2|3)2|31")
    drafts, parents = [a, c, b, a, c, b], [-1, -1, 0, 1, 0, 4]
    root, n0, n1, n2, n3, n4, n5 = masks(grammars, grammar, [], drafts, parents)
    assert {a, c} <= root and {b, c} <= n0 and a in n1 and b in n2
    assert n3 == {END} and b in n4 and n5 == {END}
    wrong = masks(grammars, grammar, [], [a, a, b], [-1, 0, 0])
    assert wrong[2] == set(range(VOCAB)), "nobody gets behind a forbidden draft"
    assert wrong[3] == n2


def test_an_end_id_may_follow_where_the_grammar_may_end(grammars: Grammars) -> None:
    digits = REGEX("[0-9]{1,3}")
    one = ids("1")
    assert END not in masks(grammars, digits, [], [])[0]
    lines = masks(grammars, digits, one, [END, END])
    assert END in lines[0] and lines[1] == {END} == lines[2]
    assert masks(grammars, digits, [*one, *one, *one, END, END, END], [])[0] == {END}


@pytest.mark.parametrize("width", [448, 430, 31])
def test_masked_logits_are_the_others_untouched(width: int) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(-(2**31), 2**31, (3, -(-width // 32)), dtype=np.int64).astype(np.int32)
    logits = torch.randn(5, width)
    before = logits.clone()
    mask_logits(logits, [4, 0, 2], bits)
    for place, line in ((4, 0), (0, 1), (2, 2)):
        keep = sorted(i for i in allowed(bits[line]) if i < width)
        assert torch.equal(logits[place, keep], before[place, keep])
        assert torch.isinf(logits[place]).sum() == width - len(keep)
    assert torch.equal(logits[[1, 3]], before[[1, 3]])


# --- requests ---------------------------------------------------------------------------------------------------------


def is_good(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"n", "k"} and 0 <= value["n"] <= 99 and value["k"] in ("red", "blue")


@pytest.mark.parametrize(("depth", "trees"), [(0, False), (1, False), (5, False), (5, True)])
def test_any_schedule_and_any_drafts_give_the_same_sentences(
    model: ToyModel, grammars: Grammars, depth: int, trees: bool
) -> None:
    rng = random.Random(depth)
    plain, streams = runner_of(model, grammars), []
    shared = [rng.randrange(VOCAB) for _ in range(9)]
    for i in range(12):
        prompt = shared + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))]
        grammar = [SCHEMA, "", REGEX("(ab|cd){2,9}"), REGEX("[0-9]{4}-[0-9]{2}")][i % 4]
        asked = params(grammar, seed=i % 3, max_tokens=40, logprobs=1 if i % 2 else None)
        streams.append(Stream(f"r{i}", prompt, asked, alone(plain, prompt, asked)))
    plans = RandomPlans(streams, num_blocks=POOL, block_size=BLOCK, depth=depth, seed=depth, trees=trees)
    plans.run(runner_of(model, grammars))
    assert plans.num_preempted > 0
    for i, stream in enumerate(plans.streams):
        assert stream.output == stream.answer
        if i % 4 == 0:
            assert is_good(text_of(stream.output)), text_of(stream.output)
        if i % 4 == 3:
            assert re.fullmatch("[0-9]{4}-[0-9]{2}", text_of(stream.output))
    assert depth == 0 or sum(s.accepted for s in plans.streams) > 0


def failing(model: ToyModel, grammars: Grammars | None, **fields: object) -> tuple[str, str]:
    asked = params(**{"grammar": SCHEMA} | fields)  # type: ignore[arg-type]
    free = params("", max_tokens=4)
    new = [NewRequest("bad", 0, [5, 6], 2, [0, 1], asked), NewRequest("good", 0, [5, 6], 2, [2, 3], free)]
    rows = [Row("bad", 0, 0, 2, 2, [], True), Row("good", 0, 0, 2, 2, [], True)]
    bad, good = runner_of(model, grammars).run(StepPlan(0, [], new, rows)).rows
    assert good.error is None and len(good.token_ids) == 1
    assert bad.error is not None and "\n" not in bad.error.message
    return bad.error.kind, bad.error.message


def test_a_grammar_that_fails_ends_its_request_alone(model: ToyModel, grammars: Grammars) -> None:
    assert failing(model, grammars, grammar=REGEX("(")) == ("invalid", failing(model, grammars, grammar=REGEX("("))[1])
    assert "does not compile" in failing(model, grammars, grammar=REGEX("("))[1]
    kind, message = failing(model, None)
    assert kind == "invalid" and "no grammar engine" in message
    kind, message = failing(model, grammars, allowed_token_ids=[3])
    assert kind == "invalid" and "a grammar" in message


def test_a_tokenizer_without_bytes_is_told_of(model: ToyModel) -> None:
    words = tiny_tokenizers.word_pieces()
    broken = Grammars(lambda: llguidance.LLTokenizer(words.to_str(), n_vocab=VOCAB, eos_token=[1]))
    kind, message = failing(model, broken)
    assert kind == "invalid" and "tokenizer does not serve" in message


def test_output_that_does_not_fit_is_a_fault(model: ToyModel, grammars: Grammars) -> None:
    asked = params(SCHEMA)
    new = NewRequest("r", 1, [5, 6, 7], 2, [0], asked)
    answer = runner_of(model, grammars).run(StepPlan(0, [], [new], [Row("r", 1, 0, 3, 1, [], True)])).rows[0]
    assert answer.error is not None and "does not fit" in answer.error.message


def test_compiled_grammars_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted() -> llguidance.LLTokenizer:
        made.append(1)
        return tokenizer()

    kept = Grammars(counted)
    assert not made
    monkeypatch.setattr("paceline.engine.execution.grammar.MAX_KEPT", 2)
    for text in ("a", "b", "a", "c"):
        kept.compile(REGEX(text))
    assert list(kept._kept) == [REGEX("a"), REGEX("c")] and made == [1]
    assert kept._num_chars == sum(map(len, kept._kept))
