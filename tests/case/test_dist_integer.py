from __future__ import annotations

import numpy as np
import pytest

from parity.case.dist_integer import INTEGER_DISTRIBUTIONS
from parity.case.draw import Draw
from parity.case.dtype import DTYPES, decode, encode
from parity.errors import UsageError


def make(dist, shape=(8, 16), *, dtype="i64", **options):
    draw = Draw(key=f"ops/x:#{dist}", dtype=DTYPES[dtype], shape=shape, options=options)
    return np.asarray(INTEGER_DISTRIBUTIONS[dist].make(draw))


def test_index_stays_in_range_and_holds_both_ends():
    value = make("index", low=-3, high=4)
    assert value.min() == -3 and value.max() == 3
    assert value[0, 0] == 3 and value[-1, -1] == -3


def test_index_of_one_element_is_the_last_index():
    assert make("index", (1,), high=7).tolist() == [6]
    assert make("index", (), high=7).tolist() == 6


def test_index_below_nothing_is_an_error_unless_there_is_no_element():
    with pytest.raises(UsageError, match=r"^dist 'index' needs low < high, got 0 and 0$"):
        make("index", high=0)
    assert make("index", (0,), high=0).shape == (0,)


def test_a_permutation_row_holds_every_integer_once():
    value = make("permutation", (5, 31))
    assert (np.sort(value, axis=1) == np.arange(31)).all()
    assert len({tuple(row) for row in value.tolist()}) == 5


def test_a_permutation_of_more_than_it_holds_has_distinct_integers():
    value = make("permutation", (9,), high=100)
    assert len(set(value.tolist())) == 9
    assert value.max() < 100
    assert make("permutation", (0,), high=7).shape == (0,)


def test_a_permutation_of_fewer_than_it_holds_is_an_error():
    with pytest.raises(UsageError, match=r"^dist 'permutation' cannot draw 16 distinct values below 3$"):
        make("permutation", high=3)


def test_range_counts_along_the_last_dimension():
    assert make("range", (2, 3), start=5, step=-2).tolist() == [[5, 3, 1], [5, 3, 1]]


def test_ties_hold_few_values_around_zero_for_floats_and_signed_integers():
    assert set(make("ties", dtype="f16").reshape(-1).tolist()) == {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert set(make("ties", dtype="i8", distinct=3).reshape(-1).tolist()) == {-1, 0, 1}
    assert set(make("ties", dtype="u8", distinct=3).reshape(-1).tolist()) == {0, 1, 2}


def test_int8_holds_both_of_its_ends():
    assert (make("int8", dtype="i8").min(), make("int8", dtype="i8").max()) == (-128, 127)
    symmetric = make("int8", (4, 4000), dtype="i8", low=-127)
    assert set(symmetric.reshape(-1).tolist()) == set(range(-127, 128))


@pytest.mark.parametrize("probability, low, high", [(0, 0, 0), (0.25, 0.2, 0.3), (1, 1, 1)])
def test_bool_is_true_with_its_probability(probability, low, high):
    mean = make("bool", (2000,), dtype="bool", probability=probability).mean()
    assert low <= mean <= high


@pytest.mark.parametrize("dtype", ["bool", "u8", "i8", "e5m2", "bf16", "f16", "i32", "f32", "i64", "f64"])
def test_bits_fill_the_width_of_the_element(dtype):
    width = 1 if dtype == "bool" else DTYPES[dtype].bits
    codes = make("bits", (4096,), dtype=dtype)
    assert codes.dtype == np.uint64
    assert int(np.bitwise_or.reduce(codes)) == 2**width - 1
    assert int(np.bitwise_and.reduce(codes)) == 0


def test_codes_count_through_a_small_type_and_start_again():
    assert make("codes", (2, 256), dtype="e4m3fn").tolist() == [list(range(256))] * 2
    with pytest.raises(UsageError, match=r"^dist 'codes' is for types of 8 and 16 bits, not f32$"):
        make("codes", dtype="f32")


@pytest.mark.parametrize("source", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("of", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_boundaries_hold_every_value_and_midpoint_and_their_neighbours(source, of):
    source, of_type = DTYPES[source], DTYPES[of]
    codes = set(make("boundaries", (4096,), dtype=source.name, of=of).tolist())
    value = decode(np.arange(of_type.max_code + 1, dtype=np.uint8), of_type)
    middle = (value[1:] + value[:-1]) / 2
    wanted = encode(np.concatenate([value, middle]), source).astype(int)
    sign = 1 << (source.bits - 1)
    for step in (-1, 0, 1):
        assert {int(code) + step for code in wanted if code + step >= 0} <= codes
        assert {(int(code) + step) | sign for code in wanted if code + step >= 0} <= codes


@pytest.mark.parametrize("of", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_boundaries_catch_rounding_that_truncates(of):
    codes = make("boundaries", (4096,), dtype="f32", of=of)
    value = decode(codes, DTYPES["f32"])
    lost = np.uint64(23 - DTYPES[of].mantissa_bits)
    truncated = decode((codes >> lost) << lost, DTYPES["f32"])
    assert (encode(value, DTYPES[of]) != encode(truncated, DTYPES[of])).mean() > 0.2


def test_boundaries_of_a_large_type_are_sampled():
    value = decode(make("boundaries", (512,), dtype="f32", of="bf16"), DTYPES["f32"])
    assert len(np.unique(value)) > 450


def test_boundaries_of_a_type_that_is_not_narrower_are_an_error():
    text = r"^dist 'boundaries' needs a float type narrower than bf16, got f16$"
    with pytest.raises(UsageError, match=text):
        make("boundaries", dtype="bf16", of="f16")


def test_a_constant_is_one_value_of_the_type():
    assert make("constant", (2,), dtype="f16", value="min").tolist() == [-65504.0] * 2
    assert make("constant", (2,), dtype="i8", value=-128).tolist() == [-128] * 2


def test_exponents_are_around_127_and_every_third_row_has_one_nan_where_asked():
    value = make("exponents", (9, 16), dtype="u8", reach=3)
    assert set(value.reshape(-1).tolist()) == set(range(124, 131))
    with_nan = make("exponents", (9, 16), dtype="u8", reach=3, nan=True)
    assert (with_nan == 255).sum(-1).tolist() == [0, 1, 0] * 3
    assert np.array_equal(value[with_nan != 255], with_nan[with_nan != 255])
