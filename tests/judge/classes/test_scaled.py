from __future__ import annotations

import numpy as np
import pytest

from parity.case.dtype import decode, dtype, encode
from parity.judge.oracle import answers
from parity.selftest.criteria import PLAIN_PROFILE, derived

FLAVOURS = ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"]
OTHER = {"e4m3fn": "e4m3fnuz", "e4m3fnuz": "e4m3fn", "e5m2": "e5m2fnuz", "e5m2fnuz": "e5m2"}


def drawn(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def scales(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).uniform(0.01, 0.1, shape)


def f32(x):
    return x.astype(np.float32).astype(np.float64)


@pytest.fixture
def operands(tensor):
    """x [9, 64], w [7, 64] of a flavour and their scales, by row or one for all."""

    def given(flavour="e4m3fn", *, rows=True, spread=1.0):
        return [
            tensor(drawn(1, 9, 64) * spread, flavour),
            tensor(drawn(2, 7, 64) * spread, flavour),
            tensor(scales(3, 9, 1) if rows else 0.03, "f32"),
            tensor(scales(4, 7, 1) if rows else 0.07, "f32"),
        ]

    return given


def y_of(x, w, by_row, by_column):
    return (x @ w.T) * by_row * np.reshape(by_column, (1, -1))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("out", ["f32", "bf16", "f16"])
def test_codes_read_in_the_other_variant_exceed(verdict, operands, tensor, values, flavour, out):
    given = operands(flavour)
    x, w, row, column = (values(t) for t in given)
    assert verdict("scaled_mm", given, tensor(y_of(x, w, row, column), out), out=out) == "within"
    codes = encode(x, dtype(flavour))
    wrong = y_of(decode(codes, dtype(OTHER[flavour])), w, row, column)
    assert verdict("scaled_mm", given, tensor(wrong, out), out=out) == "exceeds"


FAULTS = {
    "the next row's": lambda row: np.roll(row, 1, 0),
    "inverted": lambda row: 1 / row,
    "applied twice": lambda row: row * row,
    "left out": np.ones_like,
    "that of the first row": lambda row: np.broadcast_to(row[:1], row.shape),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("out", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("op", ["scaled_mm", "dequantised_mm"])
def test_a_scale_that_is_another_exceeds(verdict, operands, tensor, values, op, fault, out):
    given = operands()
    x, w, row, column = (values(t) for t in given)

    def made(row):
        if op == "scaled_mm":
            return tensor(y_of(x, w, row, column), out)
        left, right = (values(tensor(f32(t), out)) for t in (x * row, w * column))
        return tensor(left @ right.T, out)

    assert verdict(op, given, made(row), out=out) == "within"
    assert verdict(op, given, made(FAULTS[fault](row)), out=out) == "exceeds"


def test_a_sum_that_no_order_can_round_is_granted_nothing_but_its_scales(expected, operands, tensor):
    """Products of e4m3fn are multiples of 2^-18 here, and a half of 2^24 of them is 2^5."""
    given = [tensor(drawn(1, 9, 32), "e4m3fn"), tensor(drawn(2, 7, 32), "e4m3fn"), *operands(rows=False)[2:]]
    exact = expected("scaled_mm", *given, out="f32")[0]
    u = 2.0**-24
    assert (exact.hard <= 2.001 * u * exact.value.abs() + 2.0**-148).all()
    # e5m2 spreads over 2^32: there sums are rounded, and the matmul rule holds.
    wide = expected("scaled_mm", *operands("e5m2", rows=False, spread=2000.0), out="f32")[0]
    assert (wide.hard > 10 * u * wide.value.abs()).any()
    assert np.isfinite(wide.hard.numpy()).all()


@pytest.mark.parametrize("out", ["f32", "bf16", "f16"])
def test_a_sum_kept_in_16_bits_exceeds(verdict, operands, tensor, values, out):
    given = operands()
    x, w, row, column = (values(t) for t in given)
    total = np.zeros((9, 7))
    for k in range(64):
        total = values(tensor(total + x[:, k, None] * w[None, :, k], "bf16"))
    y = tensor(total * row * column.T, out)
    assert verdict("scaled_mm", given, y, out=out) == "exceeds"


def test_operands_scaled_in_float32_first_are_another_reading_of_the_same(operands, tensor, values):
    given = operands()
    x, w, row, column = (values(t) for t in given)
    readings = list(answers("scaled_mm", given, {"out": "f32"}, PLAIN_PROFILE))
    assert [each.reading for each in readings] == ["", "operands scaled in float32 before the product"]

    def accepted(y):
        return [derived((tensor(y, "f32"),), [each.expected]) for each in readings]

    assert accepted(f32(x * row) @ f32(w * column).T) == [False, True]
    assert accepted(y_of(x, w, row, column)) == [True, True]
    low = values(tensor(x * row, "bf16")) @ values(tensor(w * column, "bf16")).T
    assert accepted(low) == [False, False]


@pytest.mark.parametrize("out", ["bf16", "f16"])
def test_operands_that_are_never_rounded_are_not_dequantised(verdict, operands, tensor, values, out):
    given = operands()
    x, w, row, column = (values(t) for t in given)
    rounded = [values(tensor(f32(t), out)) for t in (x * row, w * column)]
    assert verdict("dequantised_mm", given, tensor(rounded[0] @ rounded[1].T, out), out=out) == "within"
    assert verdict("dequantised_mm", given, tensor(y_of(x, w, row, column), out), out=out) == "exceeds"


def test_nan_and_infinity_are_where_they_belong(verdict, operands, tensor, values):
    given = operands("e5m2", rows=False)
    x = values(given[0]).copy()
    x[2, 5], x[4, 1] = np.nan, np.inf
    given[0] = tensor(x, "e5m2")
    w = values(given[1])
    y = x @ w.T * values(given[2]) * values(given[3])
    assert verdict("scaled_mm", given, tensor(y, "f32"), out="f32") == "within"
    clean = np.where(np.isnan(y), 0.0, y)
    assert verdict("scaled_mm", given, tensor(clean, "f32"), out="f32") == "exceeds"


@pytest.fixture
def blocks(tensor):
    """x [5, 64], w [9, 64] with scales for blocks of 16 along K and of 4 rows of w."""
    return [
        tensor(drawn(5, 5, 64), "e4m3fn"),
        tensor(drawn(6, 9, 64), "e4m3fn"),
        tensor(scales(7, 5, 4), "f32"),
        tensor(scales(8, 3, 4), "f32"),
    ]


BLOCK_FAULTS = {
    "the next block's": lambda row, column: (np.roll(row, 1, 1), column),
    "the next rows' block": lambda row, column: (row, np.roll(column, 1, 0)),
    "read by column": lambda row, column: (row, column.T.reshape(column.shape)),
    "that of the first block": lambda row, column: (np.repeat(row[:, :1], 4, 1), column),
}


def by_blocks(x, w, row, column):
    return (x * row.repeat(16, 1)) @ (w * column.repeat(4, 0)[:9].repeat(16, 1)).T


@pytest.mark.parametrize("out", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fault", BLOCK_FAULTS)
def test_a_scale_of_another_block_exceeds(verdict, blocks, tensor, values, fault, out):
    x, w, row, column = (values(t) for t in blocks)
    how = {"block": 16, "block_rows": 4, "out": out}
    right, wrong = by_blocks(x, w, row, column), by_blocks(x, w, *BLOCK_FAULTS[fault](row, column))
    assert verdict("block_scaled_mm", blocks, tensor(right, out), **how) == "within"
    assert verdict("block_scaled_mm", blocks, tensor(wrong, out), **how) == "exceeds"


def test_the_last_block_of_columns_is_scaled_by_its_own_scale(verdict, blocks, tensor, values):
    x, w, row, column = (values(t) for t in blocks)
    y = by_blocks(x, w, row, column)
    y[:, 8] = by_blocks(x, w, row, np.roll(column, 1, 0))[:, 8]
    how = {"block": 16, "block_rows": 4, "out": "f32"}
    assert verdict("block_scaled_mm", blocks, tensor(y, "f32"), **how) == "exceeds"


def test_powers_of_two_have_a_bias_of_127_round_nothing_and_255_is_nan(
    expected, verdict, blocks, tensor, values
):
    x, w = (values(t) for t in blocks[:2])
    codes = np.array([[120, 127, 130, 125]] * 5), np.array([[126, 128, 127, 121]] * 9)
    row, column = (2.0 ** (c - 127.0) for c in codes)
    given = [*blocks[:2], *(tensor(c, "u8") for c in codes)]
    how = {"block": 16, "block_rows": 1, "out": "f32"}
    y = (x * row.repeat(16, 1)) @ (w * column.repeat(16, 1)).T
    assert verdict("block_scaled_mm", given, tensor(y, "f32"), **how) == "within"
    assert verdict("block_scaled_mm", given, tensor(y / 2, "f32"), **how) == "exceeds"
    one = expected("block_scaled_mm", *given, block=16, block_rows=1, out="f32")[0]
    u = 2.0**-24
    assert (
        one.hard.numpy() <= 8 * u * (np.abs(x * row.repeat(16, 1)) @ np.abs(w * column.repeat(16, 1)).T)
    ).all()
    codes[0][2, 1] = 255
    given[2] = tensor(codes[0], "u8")
    assert verdict("block_scaled_mm", given, tensor(y, "f32"), **how) == "exceeds"
    y[2] = np.nan
    assert verdict("block_scaled_mm", given, tensor(y, "f32"), **how) == "within"
