"""Waits are bounded, silence is not paid for twice, and how slow answers really come is learnt."""

import pytest

from paceline.spec_decode.patience import Patience


def test_a_wait_ends_with_the_last_answer_or_with_its_time() -> None:
    patience = Patience()
    patience.ask({"a": 3, "b": 4}, 0.1, 10.0, wait=True)
    assert patience.left_s(10.0) == pytest.approx(0.202)
    assert patience.answered("a", 3, 10.05) and not patience.answered("a", 3, 10.05), "the same one twice"
    assert not patience.answered("b", 3, 10.05), "of an earlier question"
    assert patience.left_s(10.1) == pytest.approx(0.102)
    assert patience.left_s(10.3) == 0 and patience.num_late == 1
    assert patience.left_s(10.3) == 0 and patience.num_late == 1, "counted once"


def test_what_is_not_waited_for_still_counts_as_a_question() -> None:
    patience = Patience()
    patience.ask({"a": 3}, 0.1, 10.0, wait=False)
    assert patience.left_s(10.0) == 0
    assert patience.may_ask(10.1) and not patience.may_ask(10.3) and patience.may_ask(11.3)
    assert patience.answered("a", 3, 10.4) and patience.may_ask(10.4)


def test_whoever_ends_or_goes_is_not_waited_for() -> None:
    patience = Patience()
    patience.ask({"a": 3}, 0.1, 10.0, wait=True)
    patience.forget("a")
    assert patience.left_s(10.0) == 0 and patience.may_ask(10.9)
    patience.ask({"b": 3}, 0.1, 11.0, wait=True)
    patience.clear()
    assert patience.left_s(11.0) == 0 and patience.may_ask(11.9)


def test_slowness_is_learnt_from_answers_that_tell_it() -> None:
    patience = Patience()
    for turn in range(40):
        patience.ask({"a": turn}, 0.1, float(turn), wait=True)
        patience.answered("a", turn, turn + 0.3)
    assert patience.slowdown == pytest.approx(3.0, rel=0.01)
    patience.ask({"a": 99}, 0.1, 99.0, wait=True, learn=False)
    patience.answered("a", 99, 99.9)
    assert patience.slowdown == pytest.approx(3.0, rel=0.01), "it had a prompt to read"
    for turn in range(100, 140):
        patience.ask({"a": turn}, 0.1, float(turn), wait=True)
        patience.answered("a", turn, turn + 60.0)
    assert patience.slowdown < 8.1, "one bad minute is not for ever"
    fixed = Patience(0.05)
    fixed.ask({"a": 1}, 10.0, 5.0, wait=True)
    assert fixed.left_s(5.0) == pytest.approx(0.05)
