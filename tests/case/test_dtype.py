from __future__ import annotations

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

from parity.case.dtype import DTYPES, Overflow, decode, dtype, encode, nearest
from parity.errors import UsageError

FLOATS = [d for d in DTYPES.values() if d.is_float]
SMALL = [d for d in FLOATS if d.bits <= 16]
FP8 = [d for d in FLOATS if d.bits == 8]


def all_codes(of):
    return np.arange(1 << of.bits, dtype=np.uint64).astype(f"u{of.bits // 8}")


def nearest_even(value, of):
    """The code of a finite value rounded to nearest even, by exact fractions and search."""
    codes = np.arange(of.max_code + 1, dtype=np.uint64)
    grid = [Fraction(v) for v in decode(codes, of).tolist()]
    size = abs(Fraction(value))
    above = next((i for i, v in enumerate(grid) if v >= size), None)
    if above is None:
        return None
    if above == 0 or grid[above] == size:
        return above
    low, high = size - grid[above - 1], grid[above] - size
    return above - 1 if low < high or (low == high and above % 2 == 1) else above


@pytest.mark.parametrize("of", SMALL, ids=str)
def test_every_finite_code_survives_decoding_and_encoding(of):
    codes = all_codes(of)
    value = decode(codes, of)
    finite = np.isfinite(value)
    assert (encode(value[finite], of) == codes[finite]).all()


@pytest.mark.parametrize("of", FP8, ids=str)
def test_encoding_rounds_to_nearest_even(of):
    value = decode(np.arange(of.max_code + 1, dtype=np.uint64), of)
    middle = (value[1:] + value[:-1]) / 2
    probes = np.concatenate([value, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)])
    expected = [nearest_even(v, of) for v in probes.tolist()]
    assert encode(probes, of).tolist() == expected


def test_a_tie_rounded_away_from_zero_is_not_what_encoding_gives():
    of = DTYPES["e4m3fn"]
    middle = (decode(np.array([8], np.uint8), of) + decode(np.array([9], np.uint8), of)) / 2
    assert encode(middle, of).tolist() == [8]


def test_encoding_agrees_with_numpy_for_the_types_that_numpy_has():
    rng = np.random.Generator(np.random.Philox(7))
    bits = rng.integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64)
    near = rng.normal(size=20_000) * 2.0 ** rng.integers(-30, 20, 20_000)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for value in (bits[~np.isnan(bits)], near):
            for name in ("f16", "f32"):
                of = DTYPES[name]
                assert (encode(value, of) == value.astype(of.storage).view(f"u{of.itemsize}")).all()


def test_decoding_agrees_with_numpy_for_every_float16():
    of = DTYPES["f16"]
    with np.errstate(invalid="ignore"):
        expected = all_codes(of).view(np.float16).astype(np.float64)
    got = decode(all_codes(of), of)
    assert (np.isnan(got) == np.isnan(expected)).all()
    assert (got[~np.isnan(got)].view(np.uint64) == expected[~np.isnan(got)].view(np.uint64)).all()


def test_a_bfloat16_is_the_upper_half_of_a_float32():
    codes = all_codes(DTYPES["bf16"])
    with np.errstate(invalid="ignore"):
        expected = (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    np.testing.assert_array_equal(decode(codes, DTYPES["bf16"]), expected)


@pytest.mark.parametrize(
    "name, largest, smallest, codes_of_nan, has_inf",
    [
        ("e4m3fn", 448.0, 2.0**-9, 2, False),
        ("e5m2", 57344.0, 2.0**-16, 6, True),
        ("e4m3fnuz", 240.0, 2.0**-10, 1, False),
        ("e5m2fnuz", 57344.0, 2.0**-17, 1, False),
        ("e4m3_gaudi2", 240.0, 2.0**-9, 14, True),
    ],
)
def test_each_8_bit_float_has_its_range_nans_and_infinities(name, largest, smallest, codes_of_nan, has_inf):
    of = DTYPES[name]
    value = decode(all_codes(of), of)
    assert np.nanmax(value[np.isfinite(value)]) == largest == of.max_finite
    assert np.min(value[value > 0]) == smallest == of.min_subnormal
    assert np.isnan(value).sum() == codes_of_nan
    assert np.isinf(value).sum() == (2 if has_inf else 0)


@pytest.mark.parametrize(
    "name, native, saturated",
    [
        (
            "f32",
            [0x7F800000, 0xFF800000, 0x7F800000, 0x7FC00000],
            [0x7F7FFFFF, 0xFF7FFFFF, 0x7F7FFFFF, 0x7FC00000],
        ),
        ("e4m3fn", [0x7F, 0xFF, 0x7F, 0x7F], [0x7E, 0xFE, 0x7E, 0x7F]),
        ("e5m2", [0x7C, 0xFC, 0x7C, 0x7E], [0x7B, 0xFB, 0x7B, 0x7E]),
        ("e4m3fnuz", [0x80, 0x80, 0x80, 0x80], [0x7F, 0xFF, 0x7F, 0x80]),
    ],
)
def test_what_is_beyond_the_largest_value_becomes_infinity_nan_or_saturates(name, native, saturated):
    value = np.array([1e300, -1e300, np.inf, -np.nan])
    assert encode(value, DTYPES[name]).tolist() == native
    assert encode(value, DTYPES[name], overflow=Overflow.SATURATE).tolist() == saturated


@pytest.mark.parametrize("of", FLOATS, ids=str)
def test_minus_zero_keeps_its_sign_where_the_format_has_one(of):
    code = int(encode(np.array([-0.0]), of)[0])
    assert code == (0 if of.fnuz else 1 << (of.bits - 1))
    tiny = int(encode(np.array([-1e-320]), of)[0])
    assert tiny == code or of.bits == 64


def test_a_double_rounding_through_float32_is_not_what_encoding_gives():
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    once = encode(value, DTYPES["bf16"])
    twice = encode(value.astype(np.float32).astype(np.float64), DTYPES["bf16"])
    assert (once.tolist(), twice.tolist()) == ([0x3F81], [0x3F80])


def test_dtypes_are_found_by_name_and_by_tag_and_a_slip_has_its_near_miss():
    assert dtype("bf16") is dtype("bfloat16") is DTYPES["bf16"]
    assert dtype("float8_e4m3fn") is DTYPES["e4m3fn"]
    with pytest.raises(UsageError, match=r"^unknown dtype 'bfloat15'; did you mean 'bfloat16'\?$"):
        dtype("bfloat15")


@pytest.mark.parametrize(
    "name, storage",
    [("f16", "float16"), ("bf16", "uint16"), ("e5m2", "uint8"), ("i64", "int64"), ("bool", "bool")],
)
def test_storage_holds_raw_bits_where_numpy_has_no_such_type(name, storage):
    assert DTYPES[name].storage == np.dtype(storage)


@pytest.mark.parametrize("of", FLOATS)
def test_rounding_in_place_is_encoding_and_decoding(of):
    draw = np.random.default_rng(0)
    low, high = math.log2(of.min_subnormal) - 3, min(math.log2(of.max_finite) + 3, 1023.9)
    drawn = np.exp2(draw.uniform(low, high, 20_000)) * draw.choice([-1.0, 1.0], 20_000)
    codes = np.arange(2 ** min(of.bits, 16), dtype=np.uint64) << np.uint64(max(of.bits - 16, 0))
    held = decode(codes.astype(f"u{of.bits // 8}"), of)
    held = np.sort(held[np.isfinite(held)])
    ties = held[:-1] + np.diff(held) / 2
    values = np.concatenate([drawn, held, ties, [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324]])
    found, expected = nearest(values, of), decode(encode(values, of), of)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    there = ~np.isnan(found)
    assert np.array_equal(found[there].view(np.uint64), expected[there].view(np.uint64))


@pytest.mark.parametrize("of", DTYPES.values(), ids=str)
def test_a_type_stays_the_same_object_between_processes(of):
    assert pickle.loads(pickle.dumps(of)) is of
