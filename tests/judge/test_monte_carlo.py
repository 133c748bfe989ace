"""What a call of torch without an op of ours may give, and of which nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from parity.backend.profile import Declared
from parity.backend.torch_tensor import to_host
from parity.case.dtype import DTYPES
from parity.judge.budget import Budget, Exact
from parity.judge.compare import compare
from parity.judge.monte_carlo import Unjudgeable, expected_of
from parity.judge.verdict import Verdict

pytestmark = pytest.mark.needs_torch


@pytest.fixture
def x():
    return torch.randn(16, 24, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def readings(plain):
    def ask(call, *inputs, name="torch:test", profile=plain):
        return list(expected_of(call, [to_host(t) for t in inputs], name=name, profile=profile))

    return ask


@pytest.fixture
def verdict(readings):
    """The verdict on outputs of a call, by the last of its readings."""

    def ask(call, inputs, *outputs, **options):
        expected = readings(call, *inputs, **options)[-1]
        judged = compare(tuple(to_host(t) for t in outputs), tuple(map(str, range(len(outputs)))), expected)
        return [j.verdict for j in judged]

    return ask


def test_a_function_is_held_to_the_roundings_of_its_parts_in_float32_and_of_its_result(x, readings):
    low = x.to(torch.bfloat16)
    (budget,) = readings(F.softplus, low)[0]
    assert isinstance(budget, Budget)
    assert budget.roundings == 1
    assert torch.equal(budget.value, F.softplus(low.double()))
    size = budget.sigma / budget.value
    assert 2.0**-25 < float(size.median()) < 2.0**-22


def test_what_a_composite_stores_in_16_bits_widens_its_sigma_to_that(x, readings):
    (budget,) = readings(lambda t: F.normalize(t, dim=-1), x.to(torch.bfloat16))[0]
    assert 2.0**-11 < float((budget.sigma / budget.value.abs()).median()) < 2.0**-8


def test_results_of_one_row_share_its_reduction_and_count_as_one(x, readings):
    (budget,) = readings(lambda t: t / t.square().sum() ** 0.5 * 3.0, x[:1])[0]
    (apart,) = readings(F.softplus, x)[0]
    assert budget.independent < apart.independent


@pytest.mark.parametrize("call", [lambda t: t.flip(0), lambda t: F.pad(t, (1, 2)), lambda t: t.roll(3)])
def test_what_only_moves_must_be_equal_to_the_bit(call, x, verdict):
    right = call(x)
    wrong = right.clone()
    wrong[2, 3] = torch.nextafter(wrong[2, 3], torch.tensor(9.0))
    assert verdict(call, [x], right) == [Verdict.WITHIN]
    assert verdict(call, [x], wrong) == [Verdict.EXCEEDS]


def test_zeros_keep_their_sign_where_they_are_moved_and_may_lose_it_where_they_are_chosen(verdict):
    zeros = torch.tensor([-0.0, 1.0])
    assert verdict(lambda t: t.flip(0), [zeros], torch.tensor([1.0, 0.0])) == [Verdict.EXCEEDS]
    assert verdict(torch.relu, [zeros], torch.tensor([-0.0, 1.0])) == [Verdict.WITHIN]


def test_a_number_that_the_type_does_not_hold_is_rounded_once(x, verdict):
    def call(t):
        return t.masked_fill(t > 0, 0.1)

    off = call(x)
    off[x > 0] = 0.1001
    assert verdict(call, [x], call(x)) == [Verdict.WITHIN]
    assert verdict(call, [x], off) == [Verdict.EXCEEDS]


def test_in_place_calls_and_writes_through_views_are_followed(x, verdict):
    def call(t):
        t[2:4].mul_(1.7).add_(t[:2])
        return t

    right = call(x.clone())
    assert verdict(call, [x], right) == [Verdict.WITHIN]
    assert verdict(call, [x], x) == [Verdict.EXCEEDS]


def test_complex_products_are_followed_through_their_real_views(x, verdict):
    def rotate(t, angle):
        turn = torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(torch.view_as_complex(t.view(16, 12, 2)) * turn)

    angle = torch.rand(16, 12, generator=torch.Generator().manual_seed(1))
    assert verdict(rotate, [x, angle], rotate(x, angle)) == [Verdict.WITHIN]
    assert verdict(rotate, [x, angle], rotate(x, angle * 1.001)) == [Verdict.EXCEEDS]


def test_where_a_call_jumps_both_sides_are_right_and_nothing_else(verdict):
    x, y = torch.tensor([0.3, 5.5, 0.9]), torch.tensor([0.1, 1.0, 0.3])
    near = torch.tensor([3.0, 5.0, 3.0]), torch.tensor([2.0, 5.0, 2.0])
    for q in near:
        assert verdict(torch.floor_divide, [x, y], q) == [Verdict.WITHIN]
    assert verdict(torch.floor_divide, [x, y], torch.tensor([3.0, 4.0, 3.0])) == [Verdict.EXCEEDS]


def test_of_equal_elements_any_index_is_right(verdict):
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    values = torch.tensor([3.0, 4.0])
    for first in (1, 2):
        outputs = values, torch.tensor([first, 0])
        assert verdict(lambda t: tuple(t.max(-1)), [x], *outputs) == [Verdict.WITHIN, Verdict.WITHIN]
    wrong = values, torch.tensor([1, 2])
    assert verdict(lambda t: tuple(t.max(-1)), [x], *wrong) == [Verdict.WITHIN, Verdict.EXCEEDS]


def test_an_overflow_of_an_intermediate_is_free_and_counted(readings):
    x = torch.tensor([[3e30, 4e30, 0.0], [3.0, 4.0, 0.0]])
    (budget,) = readings(lambda t: t.square().sum(-1).sqrt(), x)[0]
    assert budget.free.tolist() == [True, False]


def test_declared_arithmetic_inside_an_operation_widens_it_and_nothing_else_does(x, verdict, declaring):
    low = (x.abs() + 0.5).to(torch.bfloat16)
    made = low[:, 0].clone()
    for column in range(1, 8):
        made = made * low[:, column]

    def call(t):
        return t[:, :8].prod(-1)

    declared = declaring("accumulates_in", "torch:prod", "bf16", "bf16")
    assert verdict(call, [low], made) == [Verdict.EXCEEDS]
    assert verdict(call, [low], made, name="torch:prod", profile=declared) == [Verdict.WITHIN]


def test_a_declared_rounding_of_numbers_is_a_reading_of_its_own(x, readings, verdict, declaring):
    low = x.abs().to(torch.bfloat16)
    declared = declaring("numbers_rounded", "torch:pow", "bf16")
    rounded = low.double().pow(1.703125).to(torch.bfloat16)
    assert len(readings(lambda t: t.pow(1.7), low, name="torch:pow", profile=declared)) == 2
    assert verdict(lambda t: t.pow(1.7), [low], rounded) == [Verdict.EXCEEDS]
    assert verdict(lambda t: t.pow(1.7), [low], rounded, name="torch:pow", profile=declared) == [
        Verdict.WITHIN
    ]


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda t: F.dropout(t, 0.5), "aten::bernoulli_.float is random"),
        (lambda t: torch.fft.rfft(t).abs(), "no error model for aten::_fft_r2c"),
        (torch.linalg.svdvals, "no error model for aten::_linalg_svd"),
        (lambda t: t.double(), "a float64 result cannot be judged by a float64 oracle"),
        (lambda t: t.shape, "it gives no tensor"),
        (
            lambda t: (t * 1e-9 + 1) - (t * 1e-9 + 1).mean(),
            "its samples lie farther apart than a quarter of the result: it is lost in rounding",
        ),
        (
            lambda t: (t * 1e30).square().sqrt(),
            "more than half of its elements overflow or jump within rounding",
        ),
    ],
)
def test_what_cannot_be_judged_says_why(call, reason, x, readings):
    with pytest.raises(Unjudgeable) as refused:
        readings(call, x)
    assert str(refused.value) == reason


def test_an_empty_result_is_exact_and_holds_no_element(x, readings):
    (exact,) = readings(torch.cos, x[:0])[0]
    assert isinstance(exact, Exact)
    assert exact.bits.numel == 0


def test_the_same_call_gets_the_same_budget_again(x, readings):
    (first,), (second,) = readings(F.mish, x)[0], readings(F.mish, x)[0]
    assert torch.equal(first.sigma, second.sigma)
    assert torch.equal(first.hard, second.hard)


def test_inputs_are_never_written_to(x, plain):
    host = to_host(x)
    before = host.digest()
    list(expected_of(lambda t: t.zero_(), [host], name="torch:zero", profile=plain))
    assert host.digest() == before


def _spaced_in_bf16(start, end, steps):
    """As torch makes it: each result of the chain in bf16, from both ends."""
    low, start, end = torch.bfloat16, *torch.tensor([start, end]).bfloat16()
    step = ((end - start) / torch.tensor(steps - 1.0).to(low)).to(low)
    i = torch.arange(steps).to(low)
    back = (steps - 1 - torch.arange(steps)).to(low)
    return torch.where(torch.arange(steps) < steps // 2, start + step * i, end - step * back)


def test_a_fact_of_the_type_that_a_call_names_holds_for_it_without_inputs(plain):
    made = _spaced_in_bf16(-2.0, 1.0, 50)
    fact = Declared(
        fact="intermediates_rounded", ops=("torch:linspace",), dtypes=("bf16",), value="bf16", source="a test"
    )
    rounded = replace(plain, declared=(fact,))

    def verdict(profile, named, y):
        found = expected_of(
            lambda: torch.linspace(-2.0, 1.0, 50, dtype=torch.bfloat16),
            [],
            name="torch:linspace",
            profile=profile,
            named=named,
        )
        return compare((to_host(y),), ("y",), next(found))[0].verdict

    assert verdict(rounded, DTYPES["bf16"], made) is Verdict.WITHIN
    assert verdict(plain, DTYPES["bf16"], made) is Verdict.EXCEEDS
    assert verdict(rounded, None, made) is Verdict.EXCEEDS
    assert verdict(rounded, DTYPES["bf16"], made + 0.25) is Verdict.EXCEEDS
