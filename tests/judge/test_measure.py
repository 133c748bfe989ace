from __future__ import annotations

import math

import pytest
import torch

from parity.judge.measure import CHUNK, difference, measure

N = 2 * CHUNK + 17


def test_worst_ratio_its_place_and_the_sum_of_squares_are_those_of_the_whole():
    value = torch.zeros(N, dtype=torch.float64)
    got = torch.full((N,), 0.25, dtype=torch.float64)
    got[CHUNK + 5] = -3.0
    measured = measure(got, value, torch.full((N,), 2.0).double(), torch.full((N,), 0.5).double())
    assert (measured.count, measured.worst, measured.worst_at) == (N, 1.5, CHUNK + 5)
    assert measured.squares == pytest.approx((N - 1) * 0.25 + 36.0, rel=1e-12)
    assert measured.rms == pytest.approx(math.sqrt(measured.squares / N))


@pytest.mark.parametrize("at", [0, CHUNK + 1, N - 1])
def test_a_nan_stays_the_worst_whatever_later_chunks_hold(at):
    bound = torch.ones(N)
    bound[at] = math.nan
    measured = measure(torch.ones(N), torch.zeros(N), bound, bound)
    assert math.isnan(measured.worst)
    assert measured.worst_at == at
    assert math.isnan(measured.rms)


def test_inputs_are_not_written_to():
    streams = [torch.randn(99), torch.randn(99), torch.rand(99) + 1, torch.rand(99) + 1]
    before = [t.clone() for t in streams]
    measure(*streams)
    difference(streams[0], streams[1])
    assert all(torch.equal(a, b) for a, b in zip(streams, before, strict=True))


def test_no_elements_have_no_error():
    empty = torch.empty(0)
    assert measure(empty, empty, empty, empty).rms == 0.0
    assert difference(empty, empty).relative_l2 == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_difference_is_that_of_float64_at_every_scale(dtype, scale):
    r = (torch.linspace(-2, 3, N, dtype=torch.float64) * scale).to(dtype)
    t = (r.double() * 1.01).to(dtype)
    error = (t.double() - r.double()).nan_to_num()
    found = difference(r, t)
    finite = (r.isfinite() & t.isfinite()).double()
    size = (r.double().nan_to_num(posinf=0, neginf=0) * finite).square().sum().sqrt()
    assert found.largest == pytest.approx(float((error * finite).abs().max()), rel=1e-6)
    if size:
        # Sums of a chunk are float32's, which is plenty for a figure that nothing is judged by.
        distance = float((error * finite).square().sum().sqrt() / size)
        assert found.relative_l2 == pytest.approx(distance, rel=1e-4)
    assert found.unequal == int((r != t).sum())


def test_non_finite_elements_are_counted_and_enter_no_sum():
    r = torch.tensor([1.0, math.inf, math.nan, -math.inf, 2.0, math.nan])
    t = torch.tensor([1.0, math.inf, math.nan, math.inf, 2.5, 7.0])
    found = difference(r, t)
    assert (found.count, found.mismatched, found.unequal, found.largest) == (6, 2, 3, 0.5)
    assert found.relative_l2 == pytest.approx(0.5 / math.sqrt(5))


def test_a_difference_from_nothing_but_zeros_is_infinite():
    assert difference(torch.zeros(4), torch.ones(4)).relative_l2 == math.inf


def test_an_error_beyond_float32_is_still_measured():
    most = torch.finfo(torch.float32).max
    assert difference(torch.tensor([-most]), torch.tensor([most])).largest == 2 * most
