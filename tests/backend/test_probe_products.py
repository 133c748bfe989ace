"""The probe of products against a model of its own, written apart from the simulated chips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from parity.backend.arithmetic import Order
from parity.backend.probe_ask import Unsure
from parity.backend.probe_order import trial
from parity.backend.probe_products import products
from parity.backend.probe_tree import Tree, meeting
from parity.case.dtype import DTYPES, decode, encode


def stored(exact, name, *, to_zero=False):
    """Values rounded once to a dtype."""
    to = DTYPES[name]
    near = decode(encode(exact, to), to)
    if not to_zero:
        return near
    below = decode(encode(near, to) - np.abs(near).astype(bool).astype("u1"), to)
    return np.where(np.abs(near) > np.abs(exact), below, near)


class Device:
    """Multiplies as a `Products` says; float64 sums a block, which is exact for the probe's vectors."""

    def __init__(self, *, of="f32", kept="f32", block=1, rounding="nearest", order="sequential", runs=1):
        self.of, self.kept, self.block, self.runs, self.order = of, kept, block, runs, order
        self.to_zero = rounding == "to_zero"
        self.turn = 0

    def round(self, exact):
        return stored(exact, self.kept, to_zero=self.to_zero)

    def values(self, op, a, b, *, of):
        assert (op, of) == ("matmul", self.of)
        a, b = self.read(stored(a, of)), self.read(stored(b, of))
        size = self.run_length(a.shape[1])
        sums = [self.run_sum(a[:, at : at + size], b[at : at + size]) for at in range(0, a.shape[1], size)]
        total = self.meet(self.arranged(sums))
        return stored(total, of)

    def run_length(self, terms):
        return -(-terms // self.runs)

    def read(self, operands):
        return operands

    def arranged(self, sums):
        return sums

    def meet(self, sums):
        total, *rest = sums
        for each in rest:
            total = self.round(total + each)
        return total

    def run_sum(self, a, b):
        cuts = range(0, a.shape[1], self.block)
        sums = [self.round(a[:, at : at + self.block] @ b[at : at + self.block]) for at in cuts]
        if self.order == "sequential":
            return self.meet(sums)
        while len(sums) > 1:
            pairs = [self.round(x + y) for x, y in zip(sums[::2], sums[1::2], strict=False)]
            sums = pairs + sums[2 * len(pairs) :]
        return sums[0]


def found(device):
    """What the probe says of a device; where it is unsure, the reason in brackets."""
    answers = {}
    try:
        for fact, value in products(device, of=device.of):
            answers[fact] = f"({value})" if isinstance(value, Unsure) else value
    except Unsure as error:
        answers["reason"] = str(error)
    return answers


@pytest.mark.parametrize("rounding", ["nearest", "to_zero"])
@pytest.mark.parametrize(
    "of,kept", [("f32", "f32"), ("bf16", "f32"), ("bf16", "bf16"), ("f16", "f16"), ("f16", "f32")]
)
def test_every_fact_of_a_product_is_found(of, kept, rounding):
    device = Device(of=of, kept=kept, rounding=rounding, block=4, order="pairwise", runs=3)
    assert found(device) == {
        "accumulator": kept,
        "rounding": rounding,
        "reads": "ieee",
        "block": "4",
        "order": "pairwise",
        "splits": "3",
        "ordered": "yes",
    }


@pytest.mark.parametrize(
    "block,order,runs", [(1, "sequential", 1), (32, "pairwise", 5), (7, "sequential", 8), (17, "pairwise", 1)]
)
def test_trees_are_told_apart(block, order, runs):
    answers = found(Device(of="bf16", block=block, order=order, runs=runs))
    assert (answers["block"], answers["order"], answers["splits"]) == (str(block), order, str(runs))


class Unordered(Device):
    def arranged(self, sums):
        self.turn += 1
        return sums[self.turn % len(sums) :] + sums[: self.turn % len(sums)]


def test_runs_that_meet_in_another_order_each_time_are_noticed_and_counted():
    answers = found(Unordered(of="bf16", block=4, order="pairwise", runs=4))
    assert {name: answers[name] for name in ("block", "order", "splits", "ordered")} == {
        "block": "4",
        "order": "pairwise",
        "splits": "4",
        "ordered": "no",
    }


def test_two_runs_give_one_sum_in_either_order_so_nothing_is_said_of_it():
    assert found(Unordered(runs=2, block=4))["ordered"] == "(two runs give one sum in either order)"


class Reading(Device):
    """Operands of which only some bits are read."""

    bits = 10

    def read(self, operands):
        mantissa, exponent = np.frexp(operands)
        return np.ldexp(np.rint(mantissa * 2.0 ** (self.bits + 1)), exponent - self.bits - 1)


class Truncating(Reading):
    def read(self, operands):
        mantissa, exponent = np.frexp(operands)
        return np.ldexp(np.trunc(mantissa * 2.0 ** (self.bits + 1)), exponent - self.bits - 1)


@pytest.mark.parametrize("bits,name", [(7, "bf16"), (10, "tf32"), (11, "hf32"), (23, "ieee")])
def test_the_bits_of_an_operand_that_are_read_have_a_name(bits, name):
    device = Reading(block=8)
    device.bits = bits
    assert found(device)["reads"] == name


def test_operands_that_lose_their_last_bits_without_rounding_are_no_reading_that_is_known():
    answers = found(Truncating(block=8))
    assert answers["reads"] == "(products fit no reading of their operands)"
    # What does not depend on it is found all the same.
    assert (answers["accumulator"], answers["block"]) == ("f32", "8")


class Parts(Device):
    """The sum of products of bf16 parts whose orders add up to less than `parts`."""

    parts = 2

    def run_sum(self, a, b):
        return sum(
            super(Parts, self).run_sum(self.part(a, i), self.part(b, j))
            for i, j in itertools.product(range(self.parts), repeat=2)
            if i + j < self.parts
        )

    def part(self, operands, number):
        for _ in range(number):
            operands = operands - stored(operands, "bf16")
        return stored(operands, "bf16")


def test_two_bf16_parts_are_told_from_one_and_from_three():
    # A single product has no other order than its own, so one block holds all of its parts.
    device = Parts(kept="f64", block=2000)
    assert found(device)["reads"] == "bf16x2"
    device.parts = 3
    assert found(device)["reads"] == "bf16x3"


@pytest.mark.parametrize("together", [True, False])
def test_no_two_trees_lose_the_same_terms_but_pairs_in_blocks_of_one_and_two(together):
    asked = trial(1093, together=together)
    seen = {}
    for block, order, splits in itertools.product(range(1, 41), Order, range(1, 9)):
        tree = Tree(block=block, order=order, splits=splits)
        lost = asked.count(*meeting(tree, asked.first, asked.second, 1093))
        seen.setdefault(lost.tobytes(), []).append((block, order, splits))
    alike = [trees for trees in seen.values() if len(trees) > 1]
    assert alike == [[(1, Order.PAIRWISE, n), (2, Order.PAIRWISE, n)] for n in range(1, 9)]


def test_pairs_of_exact_products_in_blocks_of_one_or_two_are_the_same():
    assert found(Device(of="bf16", order="pairwise"))["block"] == "(may be 1 or 2)"


@pytest.mark.parametrize("block", [1, 2])
def test_pairs_of_inexact_products_show_their_block(block):
    assert found(Device(of="f32", order="pairwise", block=block))["block"] == str(block)


class Lanes(Device):
    """Four sums of every fourth term, as vector code keeps them."""

    def run_sum(self, a, b):
        return self.meet([super(Lanes, self).run_sum(a[:, lane::4], b[lane::4]) for lane in range(4)])


def test_an_order_that_is_no_tree_of_the_model_is_unknown_and_what_is_known_stays():
    answers = found(Lanes(of="bf16"))
    assert (answers["accumulator"], answers["rounding"], answers["reads"]) == ("f32", "nearest", "ieee")
    assert answers["reason"].startswith("no order of blocks and runs explains what is lost: nearest is ")
    assert not {"block", "order", "splits", "ordered"} & answers.keys()


@pytest.mark.parametrize("length", [64, 128, 192, 256, 512])
def test_runs_of_a_fixed_length_are_not_taken_for_a_number_of_runs(length):
    class Fixed(Device):
        def run_length(self, terms):
            return length

    answers = found(Fixed(of="bf16", block=16))
    assert answers["reason"].startswith("no order of blocks and runs explains what is lost: ")


class Rounded(Device):
    """Sums rounded by a rule of its own, in 24 bits."""

    rule = staticmethod(np.floor)

    def round(self, exact):
        _, exponent = np.frexp(exact)
        return np.ldexp(self.rule(np.ldexp(exact, 24 - exponent)), exponent - 24)


def test_sums_rounded_down_are_neither_to_nearest_nor_to_zero():
    answers = found(Rounded(block=8))
    assert answers["accumulator"] == "f32"
    assert answers["reason"] == (
        "sums are rounded neither to nearest nor to zero: 3/4, 1/2, -1/4, -3/4 became 0, 0, -0.5, -1"
    )


def test_ties_away_from_zero_are_not_taken_for_ties_to_even():
    device = Rounded(block=8)
    device.rule = lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x)
    assert found(device)["reason"] == "1 + 2^-k - 1 is 2^-k for k up to 23 and then not 0"


class Twelve(Rounded):
    def round(self, exact):
        _, exponent = np.frexp(exact)
        return np.ldexp(np.rint(np.ldexp(exact, 12 - exponent)), exponent - 12)


def test_a_precision_that_no_format_has_is_unknown():
    assert found(Twelve(block=8))["reason"] == "sums keep 12 bits, which is no format's precision"


def test_eleven_bits_with_a_wide_exponent_are_not_called_f16():
    class Eleven(Twelve):
        def round(self, exact):
            _, exponent = np.frexp(exact)
            return np.ldexp(np.rint(np.ldexp(exact, 11 - exponent)), exponent - 11)

    assert found(Eleven(block=8))["reason"] == "sums keep 11 bits and reach beyond the largest f16"


def test_an_exact_sum_has_no_accumulator_that_could_be_named():
    answers = found(Device(of="f16", block=2000))
    assert answers["reason"] == "1 + 2^-k - 1 loses nothing up to k = 24: sums are wider, or exact"
    assert answers["reads"] == "ieee"


def test_equal_columns_with_different_sums_are_no_evidence():
    class Uneven(Device):
        def values(self, op, a, b, *, of):
            y = super().values(op, a, b, of=of)
            y[:, -1] += 1.0
            return y

    assert found(Uneven())["reason"] == "equal columns of a product have different sums"
