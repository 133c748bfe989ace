"""A guess gains where it is likelier than the right answer, and pays for saying where it holds."""

from __future__ import annotations

import pytest
import torch

from parity.case.dtype import DTYPES
from parity.judge.budget import Budget, Exact
from parity.localize.hypotheses_base import host
from parity.localize.hypotheses_fit import Observed, best_place, fit, tile_place

pytestmark = pytest.mark.needs_torch

U = DTYPES["f32"].unit_roundoff


def _budget(value, *, hard=4 * U, sigma=U, dtype="f32"):
    size = value.abs()
    return Budget(dtype=DTYPES[dtype], value=value, hard=hard * size, sigma=sigma * size)


def _given(values, dtype="f32"):
    tensor = host(values, DTYPES[dtype])
    return Observed.of(tensor), (tensor,)


def _values(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3


def test_the_right_answer_is_likelier_than_one_a_thousandth_off():
    value = _values(200)
    observed, outputs = _given(value)
    right = fit(observed, _budget(value), outputs, strictness=0)
    other = fit(observed, _budget(value * 1.001), outputs, strictness=0)
    assert bool(right.allowed.all()) and not bool(other.allowed.any())
    assert float((right.likelihood - other.likelihood).sum()) > 200 * 10


def test_a_wider_answer_is_less_likely_where_the_narrow_one_holds():
    value = _values(200)
    observed, outputs = _given(value)
    narrow = fit(observed, _budget(value), outputs, strictness=0)
    wide = fit(observed, _budget(value, hard=2e-3, sigma=1e-3), outputs, strictness=0)
    assert bool(wide.allowed.all())
    assert float(narrow.likelihood.sum()) > float(wide.likelihood.sum()) + 200


def test_a_shift_below_the_last_place_of_bf16_shows_in_how_often_it_rounds_over():
    value = _values(4000)
    observed, outputs = _given(value * 1.001, "bf16")
    right = fit(observed, _budget(value, dtype="bf16"), outputs, strictness=0)
    shifted = fit(observed, _budget(value * 1.001, dtype="bf16"), outputs, strictness=0)
    assert bool(shifted.allowed.all()) and not bool(right.allowed.all())
    assert float((shifted.likelihood - right.likelihood).sum()) > 1000


def test_a_nan_is_allowed_only_where_it_is_expected():
    value = _values(4)
    given = value.clone()
    given[1] = torch.nan
    observed, outputs = _given(given)
    assert fit(observed, _budget(value), outputs, strictness=0).allowed.tolist() == [True, False, True, True]
    value[1] = torch.nan
    assert bool(fit(observed, _budget(value), outputs, strictness=0).allowed.all())


def test_an_exact_answer_counts_each_bit():
    value = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    observed, outputs = _given(torch.nextafter(value.float(), torch.tensor([0.0, 2.0, 3.0])).double())
    exact = Exact(bits=host(value, DTYPES["f32"]))
    assert fit(observed, exact, outputs, strictness=0).allowed.tolist() == [False, True, True]


def _gain(*, rows=None, columns=None):
    gain = torch.full((40, 60), -3.0, dtype=torch.float64)
    gain[rows or slice(None), columns or slice(None)] = 5.0
    return gain


def test_a_guess_that_holds_for_some_rows_is_placed_there():
    gain = _gain(rows=slice(7, 9))
    place = best_place(gain, gain > 0, scattered=True, origin=(0, 0))
    assert place.text == "rows 7 to 8"
    assert torch.equal(place.mask, gain > 0)
    assert 0 < place.gain < float(gain[gain > 0].sum())


def test_a_place_is_narrowed_in_every_dimension_and_counted_from_the_origin():
    gain = _gain(rows=slice(7, 9), columns=slice(10, 30))
    place = best_place(gain, gain > 0, scattered=True, origin=(100, 0))
    assert sorted(place.text.split(", ")) == ["columns 10 to 29", "rows 107 to 108"]


def test_a_guess_that_gains_nothing_holds_nowhere():
    gain = torch.full((5, 5), -1.0, dtype=torch.float64)
    place = best_place(gain, gain > 0, scattered=True, origin=(0, 0))
    assert (place.gain, int(place.mask.sum())) == (0.0, 0)


def test_scattered_elements_are_dear_and_may_be_forbidden():
    gain = torch.full((40, 60), -50.0, dtype=torch.float64)
    failing = torch.zeros(40, 60, dtype=torch.bool)
    failing.view(-1)[torch.randperm(2400, generator=torch.Generator().manual_seed(2))[:20]] = True
    gain[failing] = 20.0
    place = best_place(gain, failing, scattered=True, origin=(0, 0))
    assert place.text == "20 scattered elements"
    assert place.gain < 20 * 20.0 - 20
    assert best_place(gain, failing, scattered=False, origin=(0, 0)).gain == 0.0


@pytest.mark.parametrize(
    "wrong, text",
    [
        (slice(96, 100), "columns 96 to 99, the ragged end"),
        (slice(32, 48), "columns 32 to 47"),
        (slice(33, 48), ""),
        (slice(None), ""),
    ],
)
def test_a_tile_is_named_only_where_it_begins_and_ends_as_tiles_do(wrong, text):
    value = _values(20, 100)
    given = value.clone()
    given[:, wrong] = _values(100, 20).T[:, : given[:, wrong].shape[1]] * 7
    observed, outputs = _given(given)
    place = tile_place(fit(observed, _budget(value), outputs, strictness=0), observed, origin=(0, 0))
    assert place.text == text
    assert (place.gain > 0) == bool(text)
