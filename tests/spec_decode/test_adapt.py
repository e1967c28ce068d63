"""The policy against a search over every choice; its calm; what rates and costs learn."""

import itertools
import random

import pytest

from paceline.spec_decode.adapt import DraftingCost, Fixed, Load, Offer, Table, Wish
from paceline.spec_decode.goodput import Goodput
from paceline.spec_decode.rates import MethodRates, RequestRates
from paceline.spec_decode.step_costs import StepCosts

FREE = [(1, 0.010), (8, 0.010), (64, 0.011)]  # verifying costs nearly nothing
DEAR = [(1, 0.010), (64, 0.640)]  # every row costs a whole step


def best_by_search(offers: list[Offer], load: Load, costs: StepCosts) -> float:
    """Tokens a second of the best choice of depths there is."""
    best = 0.0
    for depths in itertools.product(*(range(len(o.survival) + 1) for o in offers)):
        tokens = load.num_decoding + sum(sum(o.survival[:k]) for o, k in zip(offers, depths, strict=True))
        cost = costs.at(load.num_decoding + load.num_prompt_rows + sum(depths))
        best = max(best, tokens / (cost + (2 * load.overhead_s if sum(depths) else 0.0)))
    return best


def falling(rng: random.Random, num: int) -> list[float]:
    chances, product = [], 1.0
    for _ in range(num):
        product *= rng.random()
        chances.append(product)
    return chances


@pytest.mark.parametrize("seed", range(40))
def test_goodput_finds_the_best_choice_of_all(seed: int) -> None:
    rng = random.Random(seed)
    steps = sorted(rng.uniform(0.01, 0.03) for _ in range(4))
    costs = StepCosts(list(zip([1, 4, 9, 20], steps, strict=True)))
    offers = [Offer(f"r{i}", falling(rng, rng.randint(1, 4))) for i in range(4)]
    load = Load(rng.randint(4, 8), rng.choice([0, 5]), rng.choice([0.0, 0.001]))
    policy = Goodput(costs)
    policy.stepped(1, 1)  # drafts were taken before: no hurdle
    depths = policy.choose(offers, load)
    num = sum(depths.values())
    tokens = load.num_decoding + sum(sum(o.survival[: depths.get(o.request_id, 0)]) for o in offers)
    cost = costs.at(load.num_decoding + load.num_prompt_rows + num) + (2 * load.overhead_s if num else 0.0)
    assert tokens / cost == pytest.approx(best_by_search(offers, load, costs))


def test_a_dip_does_not_hide_what_lies_behind_it() -> None:
    costs = StepCosts([(1, 0.010), (2, 0.030), (8, 0.031)])  # the second row is dear, the next six are free
    policy = Goodput(costs)
    assert policy.choose([Offer("r", [0.95**i for i in range(1, 8)])], Load(1, 0, 0.0)) == {"r": 7}
    assert policy.choose([Offer("r", [0.95])], Load(1, 0, 0.0)) == {}


def test_slots_go_to_those_who_use_them() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (8, 0.011), (9, 0.5), (64, 9.0)]))
    depths = policy.choose([Offer("sure", [0.9, 0.8, 0.7, 0.6]), Offer("vague", [0.3, 0.1])], Load(4, 0, 0.0))
    assert depths == {"sure": 4}


def test_prompts_cost_but_commit_nothing() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (32, 0.010), (33, 0.1), (64, 0.1)]))
    offer = [Offer("r", [0.9])]
    assert policy.choose(offer, Load(1, 0, 0.0)) == {"r": 1}
    assert policy.choose(offer, Load(1, 31, 0.0)) == {}


def test_the_lost_overlap_is_counted() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (64, 0.010)]))
    offer = [Offer("r", [0.2])]
    assert policy.choose(offer, Load(1, 0, 0.0)) == {"r": 1}
    assert policy.choose(offer, Load(1, 0, 0.002)) == {}


def test_a_change_needs_five_percent() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (64, 0.010)]))
    small = [Offer("r", [0.4])]
    assert policy.choose(small, Load(10, 0, 0.0)) == {}
    policy.stepped(1, 3)
    assert policy.choose(small, Load(10, 0, 0.0)) == {"r": 1}


def test_off_after_sixteen_fruitless_offers_and_a_probe_in_every_64_steps() -> None:
    policy = Goodput(StepCosts(DEAR))
    offers = [Offer(f"r{i}", [0.5, 0.4]) for i in range(10)]
    load = Load(10, 0, 0.0)
    for _ in range(15):
        assert policy.wants_drafts and policy.choose(offers, load) == {}
        policy.stepped(10, 0)
    policy.stepped(0, 0)  # nothing offered, nothing learnt
    assert policy.wants_drafts
    policy.stepped(10, 0)
    probes: list[int] = []
    for step in range(200):
        if policy.wants_drafts:
            depths = policy.choose(offers, load)
            assert depths == {"r0": 1, "r1": 1}  # one in eight, rounded up, one draft each
            probes.append(step)
            policy.stepped(10, 2)
        else:
            assert policy.choose(offers, load) == {}
            policy.stepped(0, 0)
    assert probes == [63, 127, 191]


def test_a_probe_that_finds_a_gain_turns_it_on() -> None:
    costs = StepCosts(DEAR)
    policy = Goodput(costs)
    load = Load(1, 0, 0.0)
    for _ in range(16):
        policy.choose([Offer("r", [0.5])], load)
        policy.stepped(1, 0)
    for _ in range(63):
        policy.stepped(0, 0)
    cheap = StepCosts(FREE)
    policy._costs = cheap
    assert policy.choose([Offer("r", [0.9, 0.8])], load) == {"r": 2}
    policy.stepped(1, 2)
    assert policy.wants_drafts
    for _ in range(15):
        policy.stepped(1, 0)
    assert policy.wants_drafts


def chances(alpha: float, num: int) -> list[float]:
    return [alpha**j for j in range(1, num + 1)]


def batch_cost(draft_s: float) -> DraftingCost:
    return lambda num_requests, depth: depth * draft_s


def test_asks_for_as_many_drafts_as_pay_for_the_wait() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (64, 0.010)]))
    load, wishes = Load(1, 0, 0.0), [Wish("r", chances(0.8, 8), 0)]
    depths = [policy.ask(wishes, [], load, batch_cost(s)).get("r", 0) for s in (0.0, 0.001, 0.003, 0.02)]

    def rate(depth: int, draft_s: float) -> float:
        return (1 + sum(chances(0.8, depth))) / (0.010 + depth * draft_s)

    best = [max(range(9), key=lambda k: rate(k, s)) for s in (0.0, 0.001, 0.003)]
    assert depths == [*best, 0] and depths == sorted(depths, reverse=True) and depths[2] > 0


def test_what_is_held_is_given_up_for_drafts_that_bring_more_for_all_they_cost() -> None:
    load, good = Load(1, 0, 0.0), chances(0.9, 4)
    for held, is_asked in (((), True), (chances(0.4, 4), True), (chances(0.9, 4), False), (chances(0.8, 4), False)):
        policy = Goodput(StepCosts([(1, 0.010), (64, 0.010)]))
        depths = policy.ask([Wish("r", good, 0, held)], [], load, batch_cost(0.001))
        assert bool(depths) is is_asked, held


def test_asks_for_those_who_use_them() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (4, 0.012), (64, 0.090)]))
    wishes = [Wish("vague", chances(0.1, 4), 0), Wish("sure", chances(0.95, 4), 0)]
    assert list(policy.ask(wishes, [], Load(2, 0, 0.0), batch_cost(0.0005))) == ["sure"]


def test_drafts_that_are_there_make_a_slow_method_less_worth() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (64, 0.010)]))
    wishes, load = [Wish("r", [0.7], 0)], Load(2, 0, 0.0)
    assert policy.ask(wishes, [], load, batch_cost(0.002)) == {"r": 1}
    there = [Offer("other", chances(0.99, 8))]
    assert policy.ask(wishes, there, load, batch_cost(0.002)) == {}


def test_a_slow_method_that_does_not_pay_is_tried_ever_more_rarely_and_its_drafts_are_verified() -> None:
    policy = Goodput(StepCosts([(1, 0.010), (64, 0.010)]))
    load, tried = Load(1, 0, 0.0), []
    for step in range(600):
        depths = policy.ask([Wish("r", [0.02], step)], [], load, batch_cost(0.008))
        assert not depths or policy.choose([Offer("r", [0.02])], load) == {"r": 1}
        tried += [step] if depths else []
        policy.stepped(len(depths), sum(depths.values()))
    gaps = [b - a for a, b in itertools.pairwise(tried) if b - a > 1]
    assert 6 <= len(tried) <= 16 and gaps == sorted(gaps) and gaps[-1] > 100


def test_a_step_without_drafts_shows_its_cost_now_and_then() -> None:
    policy = Goodput(StepCosts(FREE))
    without: list[int] = []
    for step in range(400):
        taken = policy.choose([Offer("r", [0.9])], Load(1, 0, 0.0)) if policy.wants_drafts else {}
        without += [] if taken else [step]
        policy.stepped(1 if taken else 0, sum(taken.values()))
    assert without == [16, 49, 114, 243]


def test_free_rows_are_used_and_dear_ones_are_not() -> None:
    offers = [Offer("r", [0.7, 0.5, 0.3, 0.1])]
    assert Goodput(StepCosts(FREE)).choose(offers, Load(1, 0, 0.0)) == {"r": 4}
    assert Goodput(StepCosts(DEAR)).choose(offers, Load(1, 0, 0.0)) == {}


def test_fixed_and_table() -> None:
    offers = [Offer("a", [0.1] * 6), Offer("b", [0.1])]
    assert Fixed(4).choose(offers, Load(2, 0, 9.0)) == {"a": 4, "b": 1}
    assert not Fixed(0).wants_drafts and not Fixed(0).choose(offers, Load(2, 0, 0.0))
    table = Table([(1, 2, 3), (3, 8, 1)])
    assert [table.choose(offers, Load(n, 0, 0.0)) for n in (2, 3, 9)] == [{"a": 3, "b": 1}, {"a": 1, "b": 1}, {}]


# --- rates ------------------------------------------------------------------------------------------------------------


def test_only_positions_reached_count() -> None:
    method = MethodRates(4)
    for _ in range(500):
        method.observe(4, 1, None)  # the first accepted, the second refused, the others never seen
    means = method.means()
    assert means[0] > 0.97 and means[1] < 0.05
    assert means[3] == pytest.approx(means[2]) == pytest.approx(means[1])


def test_a_request_follows_its_own_text_slowly_and_the_method_first() -> None:
    method = MethodRates(2)
    bad, good = RequestRates(method, 2), RequestRates(method, 2)
    for _ in range(100):
        bad.observe(1, 0)
        good.observe(1, 1)
    fresh = RequestRates(method, 2)
    assert bad.survival(1)[0] < 0.25 < fresh.survival(1)[0] < 0.75 < good.survival(1)[0]
    assert fresh.survival(1)[0] == pytest.approx(method.means()[0])


def test_survival_falls_and_confidence_scales_it() -> None:
    method = MethodRates(4)
    rates = RequestRates(method, 4)
    plain = rates.survival(4)
    assert plain == sorted(plain, reverse=True) and rates.survival(4, [0.5] * 4) == plain  # nothing to compare with
    for _ in range(20):
        rates.observe(4, 2, [0.5] * 4)
    usual = rates.survival(2, [0.5, 0.5])
    assert usual == pytest.approx(rates.survival(2))
    assert rates.survival(2, [0.25, 0.5])[1] == pytest.approx(usual[1] / 2)
    assert rates.survival(2, [0.9, 0.9])[1] <= 0.995**2


# --- costs ------------------------------------------------------------------------------------------------------------


def test_costs_are_linear_between_and_beyond() -> None:
    costs = StepCosts([(2, 1.0), (4, 2.0), (8, 2.0), (10, 4.0)])
    assert costs.span(1, 10) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 4.0, 5.0])
    assert [costs.at(n) for n in (1, 3, 12)] == pytest.approx([0.5, 1.5, 6.0])
    assert StepCosts([(4, 1.0)]).span(1, 2) == [1.0, 1.0, 1.0]


def test_noise_that_falls_is_raised() -> None:
    assert StepCosts([(1, 2.0), (2, 1.0), (4, 3.0)]).span(1, 3) == pytest.approx([2.0, 2.0, 2.5, 3.0])


def test_real_steps_correct_the_table() -> None:
    costs = StepCosts([(1, 0.01), (8, 0.01), (64, 0.02)])
    for _ in range(400):
        costs.observe(1, 0.02)
        costs.observe(8, 0.04)
    assert costs.at(1) == pytest.approx(0.02, rel=0.15)
    assert costs.at(8) == pytest.approx(0.04, rel=0.15)
    before = costs.at(8)
    costs.observe(8, 50.0)  # one stalled step moves little
    assert costs.at(8) < before * 1.2
    costs.observe(8, 0.0)
    costs.observe(0, 1.0)


def test_a_width_in_use_does_not_drag_the_others_along() -> None:
    costs = StepCosts([(1, 0.010), (8, 0.010), (64, 0.020)])
    for _ in range(200):
        costs.observe(8, 0.014)
    assert costs.at(8) == pytest.approx(0.014, rel=0.05)
    assert costs.at(1) < 0.0115
    for _ in range(200):
        costs.observe(8, 0.006)
    assert costs.at(1) <= costs.at(8) * 1.0001  # never dearer with fewer rows


def test_without_a_table_the_first_step_sets_the_scale() -> None:
    costs = StepCosts()
    costs.observe(1, 0.02)
    assert costs.at(1) == pytest.approx(0.02)
    assert costs.at(1) < costs.at(8) < 2 * costs.at(1)
