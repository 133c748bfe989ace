"""Each parameter by an example computed by hand; draws by what they may depend on."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from parity.engine import SamplingParams
from parity.engine.run import sample
from parity.engine.run.sample import choose, scored, uniform
from parity.errors import UsageError

# Probabilities 1/2, 1/4, 1/8, 1/8 at temperature 1.
ROW = torch.tensor([3.0, 2.0, 1.0, 1.0], dtype=torch.float64) * math.log(2)


def at(monkeypatch, point, row=ROW, prompt=(0,), output=(), **params):
    """The token that a draw at `point` of [0, 1) gives."""
    monkeypatch.setattr(sample, "uniform", lambda seed, position: point)
    return choose(row, SamplingParams(**{"temperature": 1.0, **params}), prompt, output)


def reached(monkeypatch, **params):
    """All tokens that draws can give, at 1000 points."""
    return sorted({at(monkeypatch, n / 1000, **params) for n in range(1000)})


def test_greedy_takes_the_largest_and_the_lowest_id_of_equals():
    assert choose(torch.tensor([1.0, 5.0, 5.0]), SamplingParams(), [0], []) == 1


@pytest.mark.parametrize(
    "point, token", [(0.0, 0), (0.499, 0), (0.501, 1), (0.749, 1), (0.751, 2), (0.999, 3)]
)
def test_a_draw_is_the_first_token_whose_cumulated_probability_exceeds_it(monkeypatch, point, token):
    assert at(monkeypatch, point) == token


def test_temperature_divides_the_scores(monkeypatch):
    # At 1/2: weights 64, 16, 4, 4 of 88. At 2: 2.83, 2, 1.41, 1.41 of 7.66.
    assert [at(monkeypatch, p, temperature=0.5) for p in (64 / 88 - 1e-3, 64 / 88 + 1e-3)] == [0, 1]
    first = 8**0.5 / (8**0.5 + 2 + 2 * 2**0.5)
    assert [at(monkeypatch, p, temperature=2.0) for p in (first - 1e-3, first + 1e-3)] == [0, 1]


def test_a_tiny_temperature_is_greedy_and_does_not_overflow(monkeypatch):
    assert reached(monkeypatch, temperature=1e-320) == [0]


def test_top_k_keeps_the_lower_ids_of_equals(monkeypatch):
    assert reached(monkeypatch, top_k=1) == [0]
    assert reached(monkeypatch, top_k=3) == [0, 1, 2]
    assert reached(monkeypatch, top_k=99) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "top_p, kept", [(0.4, [0]), (0.5, [0]), (0.51, [0, 1]), (0.76, [0, 1, 2]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_reach_it(monkeypatch, top_p, kept):
    # log(2) sums are off by roundings: 0.5 is reached by the first alone.
    row = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64))
    assert reached(monkeypatch, top_p=top_p, row=row) == kept


def test_top_p_is_a_share_of_what_top_k_left(monkeypatch):
    # Of 1/2 and 1/4 the first has two thirds.
    assert reached(monkeypatch, top_k=2, top_p=0.66) == [0]
    assert reached(monkeypatch, top_k=2, top_p=0.67) == [0, 1]


def test_min_p_is_a_share_of_the_best(monkeypatch):
    assert reached(monkeypatch, min_p=0.51) == [0]
    assert reached(monkeypatch, min_p=0.49) == [0, 1]
    assert reached(monkeypatch, min_p=0.24) == [0, 1, 2, 3]


def greedy(row, prompt=(0,), output=(), **params):
    return choose(torch.tensor(row), SamplingParams(**params), prompt, output)


def test_repetition_divides_positive_and_multiplies_negative_scores_of_all_that_was_seen():
    assert greedy([4.0, 3.0], prompt=[0], repetition_penalty=1.3) == 0  # 3.08
    assert greedy([4.0, 3.0], prompt=[0], repetition_penalty=1.4) == 1  # 2.86
    assert greedy([4.0, 3.0], prompt=[1], output=[0], repetition_penalty=1.4) == 0  # 2.86 and 2.14
    assert greedy([-1.0, -1.5], prompt=[0], repetition_penalty=1.6) == 1  # -1.6


def test_presence_counts_once_and_frequency_each_time_and_the_prompt_never():
    assert greedy([4.0, 3.0], prompt=[0, 0], output=[1], presence_penalty=9.0, frequency_penalty=9.0) == 0
    assert greedy([4.0, 3.0], output=[0, 0, 0], presence_penalty=0.9) == 0
    assert greedy([4.0, 3.0], output=[0, 0, 0], presence_penalty=1.1) == 1
    assert greedy([4.0, 3.0], output=[0, 0, 0], frequency_penalty=0.3) == 0  # 3.1
    assert greedy([4.0, 3.0], output=[0, 0, 0], frequency_penalty=0.4) == 1  # 2.8


def test_bias_is_added_first_and_can_ban():
    assert greedy([4.0, 3.0], logit_bias={1: 1.5}) == 1
    assert greedy([4.0, 3.0], logit_bias={0: -math.inf}) == 1
    # 3 + 1.5 is halved by the penalty that comes after.
    assert greedy([2.0, 3.0], prompt=[1], logit_bias={1: 1.5}, repetition_penalty=2.0) == 1
    assert greedy([2.3, 3.0], prompt=[1], logit_bias={1: 1.5}, repetition_penalty=2.0) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_give_a_token_that_exists(temperature):
    row = torch.tensor([1.0, math.nan, 2.0])
    assert choose(row, SamplingParams(temperature=temperature), [0], []) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_choosing_never_writes_to_the_scores(dtype):
    row = ROW.to(dtype)
    before = row.clone()
    params = SamplingParams(
        temperature=1.0, logit_bias={0: -5.0}, repetition_penalty=2.0, presence_penalty=1.0
    )
    choose(row, params, [0], [1])
    assert torch.equal(row, before)


def test_a_draw_is_philox_of_seed_and_position():
    # Random123's known answer: key 0, counter 0 gives 0x16554d9eca36314c; numpy counts up first.
    assert uniform(0, 2**256 - 1) == (0x16554D9ECA36314C >> 11) / 2**53
    assert uniform(0, 0) == (0x02F4BA6408E4D89B >> 11) / 2**53
    assert len({uniform(seed, position) for seed in range(20) for position in range(20)}) == 400


def test_a_draw_depends_on_seed_and_position_alone():
    params = SamplingParams(temperature=1.0, seed=4)
    drawn = [choose(ROW, params, range(n), []) for n in range(1, 40)]
    assert drawn == [choose(ROW, params, [0], [1] * (n - 1)) for n in range(1, 40)]
    assert drawn != [choose(ROW, SamplingParams(temperature=1.0, seed=5), range(n), []) for n in range(1, 40)]


def chi_square(counts, p):
    total = sum(counts)
    return sum((c - total * q) ** 2 / (total * q) for c, q in zip(counts, p, strict=True))


def test_draws_have_the_distribution_of_the_scores():
    p = [0.5, 0.25, 0.125, 0.125]
    draws = 4000
    counts = [0, 0, 0, 0]
    for position in range(draws):
        counts[choose(ROW, SamplingParams(temperature=1.0, seed=11), range(position + 1), [])] += 1
    # One in 10^6 of honest samples exceeds it: Wilson and Hilferty's quantile of chi-square, 3 degrees.
    bound = 3 * (1 - 2 / 27 + NormalDist().inv_cdf(1 - 1e-6) * (2 / 27) ** 0.5) ** 3
    assert 30.7 < bound < 33  # the exact one is 30.66
    assert chi_square(counts, p) < bound
    # A token a tenth more probable than it should be is seen.
    assert chi_square(counts, [0.55, 0.225, 0.1125, 0.1125]) > bound


def test_a_logprob_is_of_the_scores_as_the_network_gave_them():
    found = scored(ROW, 1, 2)
    assert found.logprob == pytest.approx(math.log(0.25), abs=1e-15)
    assert [token for token, _ in found.top] == [0, 1]
    assert [value for _, value in found.top] == pytest.approx([math.log(0.5), math.log(0.25)], abs=1e-15)
    assert scored(ROW, 3, 0).top == ()
    assert len(scored(ROW, 3, 99).top) == 4


@pytest.mark.parametrize("dtype", ["f64", "f32"])
def test_reported_logprobs_are_those_of_a_new_prefill_whatever_changed_the_choice(engine, dtype):
    made = engine(dtype=dtype)
    params = SamplingParams(
        max_tokens=8,
        temperature=1.5,
        top_k=5,
        logit_bias={3: 4.0},
        repetition_penalty=1.5,
        presence_penalty=0.5,
        ignore_eos=True,
        logprobs=3,
    )
    (output,) = made.generate([[1, 2, 3]], params)
    logp = made.score([1, 2, 3, *output.tokens]).double().log_softmax(-1)[2:-1]
    for token, score, row in zip(output.tokens, output.scores, logp, strict=True):
        assert score.logprob == pytest.approx(float(row[token]), abs=1e-5 if dtype == "f32" else 1e-12)
        assert [t for t, _ in score.top] == row.argsort(descending=True)[:3].tolist()


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("max_tokens", -1, "0 or more"),
        ("temperature", -0.1, "0 or more, and finite"),
        ("temperature", math.nan, "0 or more, and finite"),
        ("temperature", math.inf, "0 or more, and finite"),
        ("top_k", -1, "0 (off) or more"),
        ("top_p", 0.0, "in (0, 1]"),
        ("top_p", 1.1, "in (0, 1]"),
        ("min_p", 1.0, "in [0, 1)"),
        ("repetition_penalty", 0.0, "above 0, and finite"),
        ("presence_penalty", math.nan, "finite"),
        ("frequency_penalty", math.inf, "finite"),
        ("logit_bias", {1: math.nan}, "numbers, or -inf to ban"),
        ("seed", -1, "in [0, 2^63)"),
        ("stop", ("a", ""), "texts that are not empty"),
        ("logprobs", -1, "0 or more"),
    ],
)
def test_a_parameter_out_of_range_is_refused(name, value, expected):
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{name: value})
    assert str(caught.value) == f"{name} must be {expected}, got {value!r}"
