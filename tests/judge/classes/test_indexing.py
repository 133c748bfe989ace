from __future__ import annotations

import itertools

import numpy as np
import pytest

X = [[1.0, -0.0, np.inf], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
PAYLOAD = 0x7FC0BEEF


@pytest.fixture
def x(tensor):
    return tensor(X, "f32")


def test_take_along_dim_broadcasts_and_counts_negative_ones_from_the_end(verdict, x, tensor):
    index = tensor([[-1, 0]], "i64")
    right = [[row[-1], row[0]] for row in X]
    assert verdict("take_along_dim", [x, index], tensor(right, "f32"), dim=1) == "within"
    assert verdict("take_along_dim", [x, index], tensor(right[:1], "f32"), dim=1) == "exceeds"
    clamped = [[row[0], row[0]] for row in X]
    assert verdict("take_along_dim", [x, index], tensor(clamped, "f32"), dim=1) == "exceeds"


@pytest.mark.parametrize("kind", ["i64", "i32"])
def test_index_select_takes_slices_of_one_dimension(verdict, x, tensor, kind):
    index = tensor([2, 2, 0], kind)
    right = [[row[2], row[2], row[0]] for row in X]
    assert verdict("index_select", [x, index], tensor(right, "f32"), dim=-1) == "within"
    assert verdict("index_select", [x, index], tensor([X[2], X[2], X[0]], "f32"), dim=-1) == "exceeds"


@pytest.mark.parametrize("winner", list(itertools.product([0, 1], repeat=3)))
def test_scatter_keeps_any_of_the_values_written_to_an_element(verdict, x, tensor, winner):
    src = [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]
    given = [x, tensor([[1, 1, 1], [1, 1, 1]], "i64"), tensor(src, "f32")]
    right = [X[0], [src[w][j] for j, w in enumerate(winner)], X[2]]
    assert verdict("scatter", given, tensor(right, "f32"), dim=0) == "within"


@pytest.mark.parametrize(
    "row, beside", [([11.0, 22.0, 33.0], None), (X[1], None), ([1.0, 2.0, 30.0], [0.0, 0.0, 0.0])]
)
def test_scatter_that_holds_anything_else_exceeds(verdict, x, tensor, row, beside):
    given = [x, tensor([[1] * 3] * 2, "i64"), tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], "f32")]
    assert verdict("scatter", given, tensor([beside or X[0], row, X[2]], "f32"), dim=0) == "exceeds"


def test_scatter_reads_of_a_larger_src_what_index_covers(verdict, x, tensor):
    given = [x, tensor([[2, 0]], "i64"), tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], "f32")]
    right = [[1.0, 2.0, np.inf], X[1], [1.0, 8.0, 9.0]]
    assert verdict("scatter", given, tensor(right, "f32"), dim=0) == "within"
    dense = [[1.0, 10.0, np.inf], X[1], [1.0, 8.0, 9.0]]
    assert verdict("scatter", given, tensor(dense, "f32"), dim=0) == "exceeds"


@pytest.mark.parametrize(
    "value, kind, wanted",
    [
        ("-inf", "bf16", -np.inf),
        ("min", "f16", -65504.0),
        ("0.1", "bf16", 0.10009765625),
        ("1", "bool", True),
        ("-1099511627777", "i64", -(2**40) - 1),
    ],
)
def test_masked_fill_writes_its_value_in_the_type_of_x(verdict, tensor, value, kind, wanted):
    x = tensor([[0, 1], [1, 0]], kind)
    mask = tensor([[True, False]], "bool")
    right = tensor([[wanted, 1], [wanted, 0]], kind)
    assert verdict("masked_fill", [x, mask], right, value=value) == "within"
    assert verdict("masked_fill", [x, mask], x, value=value) == "exceeds"


def test_masked_fill_lets_nothing_of_an_infinity_through(verdict, x, tensor):
    mask = tensor([[False, False, True]] * 3, "bool")
    assert verdict("masked_fill", [x, mask], tensor([[*r[:2], 0] for r in X], "f32"), value="0") == "within"
    nan = [[1.0, -0.0, np.nan], [*X[1][:2], 0], [*X[2][:2], 0]]
    assert verdict("masked_fill", [x, mask], tensor(nan, "f32"), value="0") == "exceeds"


def test_masked_select_goes_by_rows_and_gives_nothing_else(verdict, x, tensor):
    mask = tensor([[False, True, True], [True, False, False], [False] * 3], "bool")
    assert verdict("masked_select", [x, mask], tensor([-0.0, np.inf, 4.0], "f32")) == "within"
    for wrong in ([4.0, -0.0, np.inf], [0.0, np.inf, 4.0], [-0.0, np.inf, 4.0, 0.0], [-0.0, np.inf]):
        assert verdict("masked_select", [x, mask], tensor(wrong, "f32")) == "exceeds"


def test_nonzero_counts_nan_and_subnormals_and_no_minus_zero(verdict, tensor, bits):
    x = bits([[0x80000000, 1], [0x7FC00000, 0]], "f32")
    assert verdict("nonzero", [x], tensor([[0, 1], [1, 0]], "i64")) == "within"
    for wrong in ([[0, 0], [0, 1], [1, 0]], [[0, 1]], [[1, 0]], [[1, 0], [0, 1]]):
        assert verdict("nonzero", [x], tensor(wrong, "i64")) == "exceeds"
    assert verdict("nonzero", [x], tensor([[0, 1], [1, 0]], "i32")) == "exceeds"


UNIQUE = [[-1.0, 0.0, 2.0], [2, 0, 1, 1, 2], [1, 2, 2]]


def unique(judged, tensor, values, inverse, counts, x=(2.0, -1.0, 0.0, -0.0, 2.0)):
    made = [tensor(values, "f32"), tensor(inverse, "i64"), tensor(counts, "i64")]
    return all_of(judged("unique", [tensor(x, "f32")], made))


def all_of(found):
    return "within" if {each.verdict.value for each in found} == {"within"} else "exceeds"


def test_unique_gives_values_in_order_places_and_counts(judged, tensor):
    assert unique(judged, tensor, *UNIQUE) == "within"
    assert unique(judged, tensor, [-1.0, -0.0, 2.0], *UNIQUE[1:]) == "within"


@pytest.mark.parametrize(
    "values, inverse, counts",
    [
        ([2.0, 0.0, -1.0], [0, 2, 1, 1, 0], [2, 2, 1]),
        (UNIQUE[0], [2, 0, 1, 1, 0], [1, 2, 2]),
        (UNIQUE[0], UNIQUE[1], [1, 3, 5]),
        ([-1.0, 0.0, 0.0, 2.0], [3, 0, 1, 2, 3], [1, 1, 1, 2]),
    ],
)
def test_unique_that_gives_anything_else_exceeds(judged, tensor, values, inverse, counts):
    assert unique(judged, tensor, values, inverse, counts) == "exceeds"


def test_each_nan_is_unique_and_last_in_any_order(judged, tensor):
    x, nan = (np.nan, 1.0, np.nan), np.nan
    for inverse in ([1, 0, 2], [2, 0, 1]):
        assert unique(judged, tensor, [1.0, nan, nan], inverse, [1, 1, 1], x) == "within"
    assert unique(judged, tensor, [1.0, nan, nan], [1, 0, 1], [1, 1, 1], x) == "exceeds"
    assert unique(judged, tensor, [1.0, nan, nan], [0, 0, 2], [1, 1, 1], x) == "exceeds"
    assert unique(judged, tensor, [nan, nan, 1.0], [0, 2, 1], [1, 1, 1], x) == "exceeds"
    assert unique(judged, tensor, [1.0, nan], [1, 0, 1], [1, 2], x) == "exceeds"


def test_unique_tells_neighbours_apart_that_float64_does_not(judged, tensor):
    x = tensor([2**53 + 1, 2**53], "i64")
    right = [tensor(t, "i64") for t in ([2**53, 2**53 + 1], [1, 0], [1, 1])]
    assert all_of(judged("unique", [x], right)) == "within"
    one = [tensor(t, "i64") for t in ([2**53], [0, 0], [2])]
    assert all_of(judged("unique", [x], one)) == "exceeds"


@pytest.mark.parametrize("right, wanted", [(False, [1, 3, 4, 4, 0]), (True, [3, 4, 4, 4, 0])])
def test_searchsorted_counts_what_is_below_and_nan_is_above_all(verdict, tensor, right, wanted):
    given = [tensor([-1.0, 0.0, 0.0, 2.5], "bf16"), tensor([-0.0, 2.5, np.inf, np.nan, -5.0], "bf16")]
    assert verdict("searchsorted", given, tensor(wanted, "i64"), right=right) == "within"
    assert verdict("searchsorted", given, tensor(wanted, "i64"), right=not right) == "exceeds"
    for at, other in ((2, 3), (3, 0), (4, 1)):
        wrong = [*wanted[:at], other, *wanted[at + 1 :]]
        assert verdict("searchsorted", given, tensor(wrong, "i64"), right=right) == "exceeds"


def test_searchsorted_has_a_sequence_for_each_row(verdict, tensor):
    given = [tensor([[1, 2], [3, 4]], "i64"), tensor([[2], [2]], "i64")]
    assert verdict("searchsorted", given, tensor([[1], [0]], "i64"), right=False) == "within"
    assert verdict("searchsorted", given, tensor([[1], [1]], "i64"), right=False) == "exceeds"
