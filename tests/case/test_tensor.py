from __future__ import annotations

import numpy as np
import pytest

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor, contiguous_stride

F32 = DTYPES["f32"]


def view(shape, stride, *, offset=0, size=24):
    return HostTensor(
        dtype=F32, storage=np.arange(size, dtype=np.float32), shape=shape, stride=stride, offset=offset
    )


def test_a_view_reads_its_storage_by_stride_and_offset():
    assert view((2, 2), (3, 2), offset=1).array().tolist() == [[1, 3], [4, 6]]
    assert view((2, 2), (0, 1)).array().tolist() == [[0, 1], [0, 1]]


def test_a_view_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        view((2,), (1,)).array()[0] = 1


@pytest.mark.parametrize(
    "change, text",
    [
        ({"shape": (25,), "stride": (1,)}, "view reaches element 24 of a storage of 24 elements"),
        ({"shape": (2,), "stride": (24,)}, "view reaches element 24 of a storage of 24 elements"),
        ({"shape": (2,), "stride": (1, 1)}, r"shape \(2,\) and stride \(1, 1\) differ in length"),
        ({"shape": (2,), "stride": (-1,)}, r"negative shape, stride or offset: \(2,\), \(-1,\), 0"),
    ],
)
def test_a_view_that_leaves_its_storage_is_refused(change, text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        view(**change)


def test_storage_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"^storage must be flat float32, got 1-d float64$"):
        HostTensor(dtype=F32, storage=np.zeros(2), shape=(2,), stride=(1,))


@pytest.mark.parametrize(
    "shape, stride", [((), ()), ((5,), (1,)), ((2, 3, 4), (12, 4, 1)), ((0, 3), (3, 1)), ((3, 0), (1, 1))]
)
def test_row_major_strides(shape, stride):
    assert contiguous_stride(shape) == stride


def test_two_layouts_of_the_same_values_have_one_digest_and_other_values_another():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = HostTensor.of(values, F32)
    transposed = HostTensor(dtype=F32, storage=values.T.copy().reshape(-1), shape=(2, 3), stride=(1, 2))
    assert transposed.digest() == plain.digest()
    assert not transposed.is_contiguous and transposed.contiguous().is_contiguous
    assert HostTensor.of(values.T.copy(), F32).digest() != plain.digest()
    assert HostTensor.of(values + 1, F32).digest() != plain.digest()


def test_the_sign_of_a_zero_and_the_type_are_in_the_digest():
    zero = np.zeros(2, np.float32)
    assert HostTensor.of(zero, F32).digest() != HostTensor.of(-zero, F32).digest()
    assert HostTensor.of(zero, F32).digest() != HostTensor.of(zero.view(np.int32), DTYPES["i32"]).digest()


def test_bytes_leave_out_the_gaps():
    assert view((2, 2), (6, 2)).nbytes == 16
    assert view((2, 2), (0, 1)).nbytes == 16
