from __future__ import annotations

import itertools

import numpy as np
import pytest

NAN, INF = np.nan, np.inf
TOP3 = {"k": 3, "dim": -1, "largest": True}
UP = {"dim": -1, "descending": False, "stable": False}


@pytest.fixture
def ranked(judged, tensor):
    """Whether values and indices together are one of the right answers."""

    def ask(op, x, values, indices, *, dtype="f32", **attrs):
        outputs = [tensor(values, dtype), tensor(indices, "i64")]
        return all(j.verdict.value == "within" for j in judged(op, [tensor(x, dtype)], outputs, **attrs))

    return ask


def test_the_largest_in_order_with_their_places_are_right(ranked):
    assert ranked("topk", [1.0, 9.0, 3.0, 7.0], [9.0, 7.0, 3.0], [1, 3, 2], **TOP3)


@pytest.mark.parametrize("indices", list(itertools.permutations([0, 2, 3], 2)))
def test_any_of_equal_elements_may_be_taken(ranked, indices):
    assert ranked("topk", [5.0, 9.0, 5.0, 5.0], [9.0, 5.0, 5.0], [1, *indices], **TOP3)


FAULTS = {
    "an index one too far": ([9.0, 7.0, 3.0], [2, 0, 3]),
    "an index twice": ([9.0, 7.0, 7.0], [1, 3, 3]),
    "values out of order": ([7.0, 9.0, 3.0], [3, 1, 2]),
    "indices of other values": ([9.0, 7.0, 3.0], [3, 1, 2]),
    "the next one for the last": ([9.0, 7.0, 1.0], [1, 3, 0]),
    "an index beyond the end": ([9.0, 7.0, 3.0], [1, 3, 4]),
    "a negative index": ([9.0, 7.0, 3.0], [1, 3, -2]),
    "a value that is not there": ([9.0, 7.0, 3.5], [1, 3, 2]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_ranking_with_a_planted_fault_exceeds(ranked, fault):
    assert not ranked("topk", [1.0, 9.0, 3.0, 7.0], *FAULTS[fault], **TOP3)


def test_an_index_used_twice_among_ties_exceeds(ranked):
    assert not ranked("topk", [5.0, 9.0, 5.0], [9.0, 5.0, 5.0], [1, 0, 0], **TOP3)


def test_magnitudes_are_not_what_is_ordered(ranked):
    assert ranked("topk", [-9.0, 1.0, 2.0], [2.0, 1.0], [2, 1], **(TOP3 | {"k": 2}))
    assert not ranked("topk", [-9.0, 1.0, 2.0], [-9.0, 2.0], [0, 2], **(TOP3 | {"k": 2}))


def test_the_smallest_are_asked_for_too(ranked):
    smallest = TOP3 | {"k": 2, "largest": False}
    assert ranked("topk", [3.0, 1.0, 2.0], [1.0, 2.0], [1, 2], **smallest)
    assert not ranked("topk", [3.0, 1.0, 2.0], [3.0, 2.0], [0, 2], **smallest)


def test_nan_is_larger_than_infinity(ranked):
    x = [1.0, NAN, INF, 2.0]
    assert ranked("topk", x, [NAN, INF, 2.0], [1, 2, 3], **TOP3)
    assert not ranked("topk", x, [INF, 2.0, 1.0], [2, 3, 0], **TOP3)
    assert ranked("sort", x, [1.0, 2.0, INF, NAN], [0, 3, 2, 1], **UP)
    assert not ranked("sort", x, [NAN, 1.0, 2.0, INF], [1, 0, 3, 2], **UP)


def test_zeros_of_both_signs_are_equal(ranked):
    assert ranked("sort", [0.0, -0.0], [0.0, -0.0], [0, 1], **UP)
    assert ranked("sort", [0.0, -0.0], [-0.0, 0.0], [1, 0], **UP)


@pytest.mark.parametrize("descending", [False, True])
def test_a_stable_sort_keeps_the_order_of_equal_elements(ranked, descending):
    attrs = {"dim": -1, "descending": descending, "stable": True}
    x = [2.0, 1.0, 2.0, 1.0]
    ties = [0, 2, 1, 3] if descending else [1, 3, 0, 2]
    values = [x[i] for i in ties]
    swapped = [ties[1], ties[0], *ties[2:]]
    assert ranked("sort", x, values, ties, **attrs)
    assert not ranked("sort", x, values, swapped, **attrs)
    assert ranked("sort", x, values, swapped, **(attrs | {"stable": False}))


def test_other_dimensions_and_integers_are_ordered(ranked):
    x = [[3, 1], [2, 5]]
    assert ranked("sort", x, [[2, 1], [3, 5]], [[1, 0], [0, 1]], dtype="i64", **(UP | {"dim": 0}))
    assert not ranked("sort", x, [[1, 3], [2, 5]], [[1, 0], [0, 1]], dtype="i64", **(UP | {"dim": 0}))


def test_a_scalar_and_nothing_at_all_can_be_sorted(ranked):
    assert ranked("sort", 4.0, 4.0, 0, **UP)
    assert not ranked("sort", 4.0, 4.0, 1, **UP)
    assert ranked("sort", np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3)), **UP)


ARGMAX = {"dim": -1, "keepdim": False}


def test_argmax_may_name_any_largest_element(verdict, tensor):
    x = tensor([[1.0, 7.0, 7.0], [-3.0, -1.0, -2.0]], "bf16")
    for index, wanted in (([1, 1], "within"), ([2, 1], "within"), ([0, 1], "exceeds"), ([1, 3], "exceeds")):
        assert verdict("argmax", [x], tensor(index, "i64"), **ARGMAX) == wanted
    assert verdict("argmax", [x], tensor([-1, 1], "i64"), **ARGMAX) == "exceeds"


def test_argmax_finds_a_nan(verdict, tensor):
    x = tensor([1.0, NAN, INF], "f32")
    assert verdict("argmax", [x], tensor(1, "i64"), **ARGMAX) == "within"
    assert verdict("argmax", [x], tensor(2, "i64"), **ARGMAX) == "exceeds"


def test_argmax_keeps_its_dimension_where_asked(verdict, tensor):
    x = tensor([[1.0, 7.0]], "f32")
    assert verdict("argmax", [x], tensor([[1]], "i64"), dim=1, keepdim=True) == "within"
    assert verdict("argmax", [x], tensor([1], "i64"), dim=1, keepdim=True) == "exceeds"
    assert verdict("argmax", [tensor(3.0, "f32")], tensor(0, "i64"), dim=-1, keepdim=False) == "within"


BEYOND = [2**53 + 1, 2**53, 2**53 + 2, -(2**63)]
DOWN = {"dim": -1, "descending": True, "stable": True}


def test_integers_that_are_one_float64_are_told_apart(ranked, verdict, tensor):
    assert float(BEYOND[0]) == float(BEYOND[1])
    right = [2**53 + 2, 2**53 + 1, 2**53, -(2**63)]
    assert ranked("sort", BEYOND, right, [2, 0, 1, 3], dtype="i64", **DOWN)
    assert not ranked(
        "sort", BEYOND, [right[0], right[2], right[1], right[3]], [2, 1, 0, 3], dtype="i64", **DOWN
    )
    x = tensor([2**53, 2**53 + 1], "i64")
    assert verdict("argmax", [x], tensor(1, "i64"), dim=-1, keepdim=False) == "within"
    assert verdict("argmax", [x], tensor(0, "i64"), dim=-1, keepdim=False) == "exceeds"


def test_integers_ordered_by_their_low_32_bits_exceed(ranked):
    x = [2**32, 7, -(2**32) + 9]
    assert ranked("topk", x, [2**32, 7], [0, 1], dtype="i64", k=2, dim=-1, largest=True)
    assert not ranked("topk", x, [-(2**32) + 9, 7], [2, 1], dtype="i64", k=2, dim=-1, largest=True)
