from __future__ import annotations

import numpy as np
import pytest

from parity.case.dtype import DTYPES
from parity.case.layout import LAYOUTS, fits, place

SHAPES = [(), (1,), (7,), (0,), (3, 0), (0, 3), (1, 1), (5, 6), (1, 8), (2, 3, 4), (1, 3, 1, 5), (2, 0, 3)]
SAME_VALUES = [name for name in LAYOUTS if name != "expanded"]


def values(shape, dtype="f32"):
    of = DTYPES[dtype]
    if dtype == "bool":
        return (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3 == 0).astype(of.storage)
    return (np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(of.storage)


@pytest.mark.parametrize("layout", SAME_VALUES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "e4m3fn", "i64", "u8", "bool"])
def test_a_layout_changes_no_value(layout, shape, dtype):
    if fits(layout, shape):
        placed = place(values(shape, dtype), DTYPES[dtype], layout)
        assert placed.shape == shape
        assert placed.array().tobytes() == values(shape, dtype).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_which_layouts_fit_a_shape(shape):
    rank, size = len(shape), int(np.prod(shape, dtype=int))
    assert fits("contiguous", shape) and fits("offset", shape)
    assert fits("strided", shape) == (rank >= 1)
    assert fits("transposed", shape) == (rank >= 2)
    assert fits("heads", shape) == (rank >= 3)
    assert fits("expanded", shape) == (size > 1)


@pytest.mark.parametrize(
    "layout, stride, offset, size",
    [
        ("contiguous", (12, 4, 1), 0, 24),
        ("transposed", (12, 1, 3), 0, 24),
        ("heads", (4, 8, 1), 0, 24),
        ("strided", (24, 8, 2), 0, 48),
        ("offset", (12, 4, 1), 7, 38),
        ("expanded", (0, 4, 1), 0, 12),
    ],
)
def test_a_layout_has_its_strides_offset_and_storage(layout, stride, offset, size):
    placed = place(values((2, 3, 4)), DTYPES["f32"], layout)
    assert (placed.stride, placed.offset, placed.storage.size) == (stride, offset, size)


def test_expanded_repeats_the_first_entry_of_the_first_dimension_that_has_more_than_one():
    placed = place(values((1, 3, 4)), DTYPES["f32"], "expanded")
    assert placed.stride == (4, 0, 1)
    assert placed.array().tolist() == [[[0, 1, 2, 3]] * 3]


def gaps(placed):
    """What lies in the storage outside the view."""
    seen = np.zeros(placed.storage.size, dtype=bool)
    flat = np.arange(placed.storage.size)[placed.offset :]
    strides = tuple(s * flat.itemsize for s in placed.stride)
    seen[np.lib.stride_tricks.as_strided(flat, placed.shape, strides)] = True
    return placed.storage[~seen]


@pytest.mark.parametrize("layout", ["strided", "offset"])
def test_what_is_not_in_the_view_is_poison(layout):
    floats = gaps(place(values((3, 5)), DTYPES["f32"], layout))
    assert floats.size and np.isnan(floats).all()
    codes = gaps(place(values((3, 5), "e4m3fn"), DTYPES["e4m3fn"], layout))
    assert set(codes.tolist()) == {0x7F}
    assert set(gaps(place(values((3, 5), "i64"), DTYPES["i64"], layout)).tolist()) == {-(2**63)}
    assert set(gaps(place(values((3, 5), "u8"), DTYPES["u8"], layout)).tolist()) == {255}


def test_a_boolean_has_its_opposite_beside_it():
    flags = np.array([True, False, True])
    assert place(flags, DTYPES["bool"], "strided").storage.tolist() == [True, False, False, True, True, False]
    assert (
        place(flags, DTYPES["bool"], "offset").storage.tolist()
        == [False] * 7 + [True, False, True] + [False] * 7
    )


def test_reading_a_strided_view_as_dense_gives_other_values():
    placed = place(values((3, 5)), DTYPES["f32"], "strided")
    dense = placed.storage[:15].reshape(3, 5)
    assert dense.tobytes() != values((3, 5)).tobytes()
