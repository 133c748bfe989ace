from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from parity.judge.classes.quantized import unpack_int4


def drawn(seed, low, high, shape):
    return np.random.Generator(np.random.PCG64(seed)).integers(low, high, shape)


def scales(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).uniform(0.01, 0.1, shape)


@pytest.fixture
def int8(tensor):
    return [
        tensor(drawn(1, -128, 128, (3, 40)), "i8"),
        tensor(drawn(2, -128, 128, (4, 40)), "i8"),
        tensor(scales(3, 3, 1), "f32"),
        tensor(scales(4, 4), "f32"),
    ]


def test_int8_linear_is_the_exact_integer_sum_times_its_scales(expected, int8, values):
    x, w, row, column = (values(t).tolist() for t in int8)
    value = expected("int8_linear", *int8, out="f32")[0].value
    for i, j in ((0, 0), (2, 3), (1, 2)):
        total = sum(a * b for a, b in zip(x[i], w[j], strict=True))
        exact = Fraction(total) * Fraction(row[i][0]) * Fraction(column[j])
        assert float(value[i, j]) == pytest.approx(float(exact), rel=1e-15)


def test_the_largest_int8_sum_there_is_needs_more_than_16_bits(verdict, tensor):
    lowest = tensor(np.full((1, 2048), -128), "i8")
    one = tensor([[1.0]], "f32"), tensor([1.0], "f32")
    given = [lowest, lowest, *one]
    assert verdict("int8_linear", given, tensor([[2048.0 * 128 * 128]], "f32"), out="f32") == "within"
    wrapped = (2048 * 128 * 128 + 2**15) % 2**16 - 2**15
    assert verdict("int8_linear", given, tensor([[wrapped]], "f32"), out="f32") == "exceeds"
    assert verdict("int8_linear", given, tensor([[2048.0 * 127 * 127]], "f32"), out="f32") == "exceeds"


def test_the_scale_of_the_neighbouring_channel_exceeds(verdict, int8, tensor, values):
    x, w, row, column = (values(t).astype(np.float64) for t in int8)
    right = tensor(x @ w.T * row * column, "bf16")
    wrong = tensor(x @ w.T * row * np.roll(column, 1), "bf16")
    assert verdict("int8_linear", int8, right, out="bf16") == "within"
    assert verdict("int8_linear", int8, wrong, out="bf16") == "exceeds"


def test_the_output_dtype_is_the_attributes(verdict, int8, tensor, values):
    x, w, row, column = (values(t).astype(np.float64) for t in int8)
    assert verdict("int8_linear", int8, tensor(x @ w.T * row * column, "f32"), out="f16") == "exceeds"


def test_int4_weights_are_read_low_nibble_first_with_8_for_0(tensor):
    assert unpack_int4(tensor([[0x80, 0x1F]], "u8")).tolist() == [[-8, 0, 7, -7]]


@pytest.fixture
def int4(tensor):
    """x, packed weights and scales for K = 64 in groups of 16, with what they stand for."""
    codes = drawn(5, 0, 16, (6, 64))
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    scale = scales(6, 6, 4)

    def given(dtype):
        return [
            tensor(np.random.Generator(np.random.PCG64(7)).standard_normal((3, 64)), dtype),
            tensor(packed, "u8"),
            tensor(scale, dtype),
        ]

    return codes, given


INT4_FAULTS = {
    "nibbles swapped": lambda codes, scale: (codes.reshape(6, 32, 2)[..., ::-1].reshape(6, 64) - 8) * scale,
    "another zero point": lambda codes, scale: (codes - 7) * scale,
    "two's complement": lambda codes, scale: np.where(codes > 7, codes - 16, codes) * scale,
    "the next group's scale": lambda codes, scale: (codes - 8) * np.roll(scale, 16, 1),
    "the next channel's scale": lambda codes, scale: (codes - 8) * np.roll(scale, 1, 0),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fault", INT4_FAULTS)
def test_int4_weights_with_a_planted_fault_exceed(verdict, tensor, values, int4, fault, dtype):
    codes, given = int4
    given = given(dtype)
    x, scale = values(given[0]), values(given[2]).repeat(16, 1)
    right = tensor(x @ ((codes - 8) * scale).T, dtype)
    wrong = tensor(x @ INT4_FAULTS[fault](codes, scale).T, dtype)
    assert verdict("int4_weight_linear", given, right, group=16) == "within"
    assert verdict("int4_weight_linear", given, wrong, group=16) == "exceeds"


def test_weights_dequantised_to_bf16_are_granted_where_declared(verdict, declaring, tensor, values, int4):
    codes, given = int4
    given = given("f32")
    x, scale = values(given[0]), values(given[2]).repeat(16, 1)
    rounded = values(tensor((codes - 8) * scale, "bf16"))
    y = tensor(x @ rounded.T, "f32")
    declared = declaring("weights_dequantised", "int4_weight_linear", "f32", "bf16")
    assert verdict("int4_weight_linear", given, y, group=16) == "exceeds"
    assert verdict("int4_weight_linear", given, y, group=16, profile=declared) == "within"


def test_int8_weights_have_one_scale_a_row(expected, tensor, values):
    given = [
        tensor(np.ones((2, 8)), "f32"),
        tensor(drawn(8, -128, 128, (3, 8)), "i8"),
        tensor(scales(9, 3, 1), "f32"),
    ]
    w, scale = values(given[1]), values(given[2])
    value = expected("int8_weight_linear", *given)[0].value
    assert torch.allclose(value[0], torch.from_numpy((w * scale).sum(1)), rtol=1e-14)


def test_a_sum_that_overflows_before_it_is_scaled_is_free(judged, tensor):
    given = [tensor([[3e38, 2.9e38]], "f32"), tensor([[100, -100]], "i8"), tensor([[1e-3]], "f32")]
    for y in (1e36, np.nan, np.inf):
        assert judged("int8_weight_linear", given, [tensor([[y]], "f32")])[0].free == 1
