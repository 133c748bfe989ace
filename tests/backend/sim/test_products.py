from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.backend.arithmetic import Order, Products, Reads
from parity.backend.profile import Accumulator, Rounding
from parity.backend.sim.products import product
from parity.backend.sim.rounding import bits_kept, rounded, stored, two_sum
from parity.case.dtype import DTYPES, decode, encode

BIG = 2.0**24


def how(*, dtype="f32", block=1, rounding=Rounding.NEAREST, **more):
    return Products(accumulator=Accumulator(dtype=DTYPES[dtype], block=block, rounding=rounding), **more)


def total(terms, given, *, dtype=torch.float32, call=0):
    a = torch.tensor([terms], dtype=torch.float64).to(dtype)
    return float(product(a, torch.ones(len(terms), 1, dtype=dtype), given, call=call))


@pytest.mark.parametrize(
    "given, expected",
    [
        # (((2^24 + 1) + 1) - 2^24): each 1 is half a unit of the sum and is lost to even.
        (how(order=Order.SEQUENTIAL), 0.0),
        # (2^24 + 1) + (1 - 2^24): the second pair is exact.
        (how(order=Order.PAIRWISE), 1.0),
        # (2^24 + 1 + 1) is exact in its block of three, then the last one.
        (how(block=3), 2.0),
        (how(block=2), 1.0),
        (how(block=4), 2.0),
        (how(splits=2), 1.0),
        (how(splits=4), 0.0),
        # Runs of ceil(4 / 3) = 2 terms, so that there are two.
        (how(splits=3), 1.0),
        (how(dtype="f64"), 2.0),
        (Products(reads=Reads.BF16), 0.0),
    ],
    ids=str,
)
def test_a_sum_meets_as_declared(given, expected):
    assert total([BIG, 1.0, 1.0, -BIG], given) == expected


def test_three_terms_go_up_a_pair_at_a_time_and_the_odd_one_as_it_is():
    assert total([BIG, 1.0, 1.0], how(order=Order.PAIRWISE)) == BIG
    assert total([1.0, 1.0, BIG], how(order=Order.PAIRWISE)) == BIG + 2


def test_an_accumulator_rounds_to_nearest_or_to_zero():
    # 2^24 + 3 lies between 2^24 + 2 and 2^24 + 4.
    assert total([BIG, 3.0, -BIG], how()) == 4.0
    assert total([BIG, 3.0, -BIG], how(rounding=Rounding.TO_ZERO)) == 2.0
    assert total([-BIG, -3.0, BIG], how(rounding=Rounding.TO_ZERO)) == -2.0


def test_rounding_to_zero_sees_what_float64_cannot_hold():
    assert total([1.0, -(2.0**-80)], how(rounding=Rounding.TO_ZERO)) == 1 - 2.0**-24
    assert total([1.0, 2.0**-80], how(rounding=Rounding.TO_ZERO)) == 1.0
    assert total([1.0, -(2.0**-80)], how(dtype="f64", rounding=Rounding.TO_ZERO)) == 1 - 2.0**-53


def test_a_block_is_exact_though_its_terms_lie_far_apart():
    assert total([2.0**100, 1.0, -(2.0**100)], how(block=3)) == 1.0
    assert total([2.0**100, 1.0, -(2.0**100)], how(block=2)) == 0.0


@pytest.mark.parametrize(
    "dtype, expected", [("bf16", 256.0), ("f16", 2048.0), ("f32", 4096.0)], ids=["bf16", "f16", "f32"]
)
def test_a_narrow_accumulator_stops_where_one_more_is_lost(dtype, expected):
    assert total([1.0] * 4096, how(dtype=dtype)) == expected


def test_a_sum_beyond_the_accumulator_is_infinite_and_to_zero_its_largest():
    assert total([60000.0, 60000.0], how(dtype="f16")) == torch.inf
    assert total([60000.0, 60000.0], how(dtype="f16", rounding=Rounding.TO_ZERO)) == 65504.0


X = 1 + 2.0**-9 + 2.0**-17 + 2.0**-23
READ = {
    Reads.IEEE: X,
    Reads.TF32: 1 + 2.0**-9,
    Reads.HF32: 1 + 2.0**-9,
    Reads.BF16: 1.0,
    Reads.BF16X2: 1 + 2.0**-9 + 2.0**-16,  # hi is 1, lo is rounded up
    Reads.BF16X3: X,
}


@pytest.mark.parametrize("reads", Reads)
def test_operands_are_read_as_declared(reads):
    assert total([X], Products(reads=reads)) == READ[reads]


def test_a_bit_tells_tf32_from_hf32():
    assert total([1 + 2.0**-11], Products(reads=Reads.HF32)) == 1 + 2.0**-11
    assert total([1 + 2.0**-11], Products(reads=Reads.TF32)) == 1.0
    assert total([1 + 3 * 2.0**-11], Products(reads=Reads.TF32)) == 1 + 2.0**-9


def test_bf16x2_leaves_out_the_product_of_the_low_parts():
    # (1 + 2^-9)^2 = 1 + 2^-8 + 2^-18, of which lo lo is the last.
    a = torch.tensor([[1 + 2.0**-9]])
    assert product(a, a, Products(reads=Reads.BF16X2), call=0).item() == 1 + 2.0**-8
    assert product(a, a, Products(reads=Reads.BF16X3), call=0).item() == 1 + 2.0**-8 + 2.0**-18


def test_an_infinite_operand_in_parts_gives_nan():
    assert total([torch.inf], Products(reads=Reads.BF16)) == torch.inf
    assert str(total([torch.inf], Products(reads=Reads.BF16X3))) == "nan"


def test_runs_without_an_order_meet_in_another_one_each_call():
    # (2^24 + 1) - 2^24, (1 - 2^24) + 2^24, (-2^24 + 2^24) + 1
    given = how(splits=3, ordered=False)
    assert [total([BIG, 1.0, -BIG], given, call=n) for n in range(4)] == [0.0, 1.0, 1.0, 0.0]


def test_batches_broadcast_and_nothing_adds_up_to_zero():
    a, b = torch.ones(2, 1, 3, 4), torch.ones(5, 4, 6)
    assert product(a, b, how(), call=0).shape == (2, 5, 3, 6)
    assert product(torch.ones(3, 0), torch.ones(0, 2), how(), call=0).tolist() == [[0.0, 0.0]] * 3


def test_a_plain_declaration_is_the_rounded_exact_product_of_short_rows():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(s, generator=generator) for s in ((7, 1), (1, 5)))
    assert torch.equal(product(a, b, how(), call=0).float(), a @ b)


@pytest.mark.parametrize("name", ["f32", "bf16", "f16", "e4m3_gaudi2"])
def test_rounding_is_that_of_our_own_codec(name):
    draw = np.random.Generator(np.random.Philox(key=5))
    x = draw.standard_normal(20000) * 2.0 ** draw.integers(-30, 20, 20000)
    got = rounded(torch.from_numpy(x), None, DTYPES[name], Rounding.NEAREST)
    assert np.array_equal(got.numpy(), decode(encode(x, DTYPES[name]), DTYPES[name]))


def test_special_values_pass_a_rounding():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0], dtype=torch.float64)
    got = rounded(x, None, DTYPES["bf16"], Rounding.NEAREST)
    assert str(got.tolist()) == "[inf, -inf, nan, 0.0]"


def test_storing_in_16_bits_rounds_once():
    # Just above a tie of bf16; by way of float32 it would become the tie, and go to even.
    x = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert stored(x, torch.bfloat16, DTYPES["bf16"]).item() == 1 + 2.0**-7
    assert x.to(torch.bfloat16).item() == 1.0


def test_kept_bits_round_ties_to_even_and_keep_nan():
    x = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, torch.nan])
    assert str(bits_kept(x, 7).tolist()) == f"[1.0, {1 + 2.0**-6}, nan]"


def test_two_sum_keeps_what_an_addition_drops():
    one, tiny = (torch.tensor([v], dtype=torch.float64) for v in (1.0, 2.0**-80))
    assert [t.item() for t in two_sum(one, tiny)] == [1.0, 2.0**-80]
    infinite = torch.full_like(one, torch.inf)
    assert [t.item() for t in two_sum(infinite, one)] == [torch.inf, 0.0]
