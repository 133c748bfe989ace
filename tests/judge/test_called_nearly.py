"""A result within one rounding of the float64 call is right; what the first samples allow, all of them do."""

from __future__ import annotations

import pytest
import torch

from parity.backend.torch_call import decode_call, encode_call
from parity.backend.torch_tensor import to_host
from parity.judge.budget import Budget, Exact
from parity.judge.called_nearly import expected_nearly
from parity.judge.compare import compare
from parity.judge.monte_carlo import expected_of
from parity.judge.verdict import Verdict, worst

pytestmark = pytest.mark.needs_torch


@pytest.fixture
def x():
    return torch.randn(8, 25, generator=torch.Generator().manual_seed(11))


def nearly(function, *args, **kwargs):
    text, tensors = encode_call(function, args, kwargs)
    return expected_nearly(decode_call(text), [to_host(t) for t in tensors])


def verdict(expected, *outputs):
    names = tuple(map(str, range(len(outputs))))
    return worst(j.verdict for j in compare(tuple(map(to_host, outputs)), names, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_rounded_oracle_is_within_and_a_step_beside_it_is_not(x, dtype):
    x = x.to(dtype)
    expected = nearly(torch.sinh, x)
    right = torch.sinh(x.double()).to(dtype)
    assert verdict(expected, right) is Verdict.WITHIN
    wrong = right.clone().view(torch.int32 if dtype is torch.float32 else torch.int16)
    wrong[3, 4] += 2
    assert verdict(expected, wrong.view(dtype)) is Verdict.EXCEEDS


def test_many_results_one_step_off_are_not_within(x):
    expected = nearly(torch.sinh, x)
    right = torch.sinh(x.double()).float()
    assert verdict(expected, (right.view(torch.int32) + 1).view(torch.float32)) is Verdict.EXCEEDS


def test_what_its_type_holds_must_be_equal(x):
    whole = torch.arange(20.0)
    (expected,) = nearly(torch.add, whole, 3)
    assert isinstance(expected, Exact)
    assert verdict((expected,), whole + 3) is Verdict.WITHIN
    assert verdict((expected,), (whole + 3) * (1 + 2.0**-23)) is Verdict.EXCEEDS
    mixed = torch.cat([x[0], whole])
    (expected,) = nearly(torch.add, mixed, 0.5)
    assert isinstance(expected, Budget)
    made = mixed + 0.5
    made[30] = torch.nextafter(made[30], torch.tensor(0.0))
    assert verdict((expected,), made) is Verdict.EXCEEDS


def test_zeros_of_the_other_sign_are_left_to_the_slow_way():
    expected = nearly(torch.neg, torch.zeros(4))
    assert verdict(expected, -torch.zeros(4)) is Verdict.WITHIN
    assert verdict(expected, torch.zeros(4)) is Verdict.EXCEEDS


def test_integers_must_be_equal(x):
    index = nearly(torch.argsort, x, dim=-1)
    assert verdict(index, torch.argsort(x, dim=-1)) is Verdict.WITHIN
    assert verdict(index, torch.argsort(x, dim=-1).flip(-1)) is Verdict.EXCEEDS


def test_nothing_is_said_where_integers_give_floats_or_torch_refuses_float64(x):
    assert nearly(torch.sqrt, torch.arange(5)) is None
    assert nearly(torch.sum, x, dtype=torch.float64) is None


def test_what_the_first_samples_allow_all_of_them_allow(x, plain):
    asked = []

    def enough(known):
        asked.append(known)
        return False

    host = [to_host(x)]
    readings = expected_of(lambda t: torch.softmax(t, -1), host, name="torch:t", profile=plain, enough=enough)
    ((final,),) = readings
    assert len(asked) == 3
    for (least,) in asked:
        assert bool((least.hard <= final.hard).all())
        assert bool((least.sigma <= final.sigma).all())
    sizes = [float(least.hard.sum()) for (least,) in asked]
    assert sizes == sorted(sizes)


def test_no_more_is_sampled_once_it_is_enough(x, plain):
    calls = []

    def call(t):
        calls.append(t)
        return torch.softmax(t, -1)

    (found,) = expected_of(call, [to_host(x)], name="torch:t", profile=plain, enough=lambda _: True)
    assert isinstance(found[0], Budget)
    assert len(calls) == 5  # the exact one, and four samples
