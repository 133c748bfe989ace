from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from parity.backend import probe_functions
from parity.backend.arithmetic import Arithmetic, Flush, Order, Products, Reads, differences
from parity.backend.base import Node, Unsupported, Witness, unplaced
from parity.backend.probe import PROBES, Evidence, declaration, evidence, probe
from parity.backend.profile import Accumulator, Rounding
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor


class Altered:
    """The CPU, but for one op whose result is changed on its way out."""

    def __init__(self, backend, op, change):
        self._backend, self._op, self._change = backend, op, change

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def run(self, step, inputs):
        self._last = step.op
        return self._backend.run(step, inputs)

    def get(self, handle):
        host = self._backend.get(handle)
        if self._last != self._op:
            return host
        return HostTensor.of(self._change(host.array().copy()), host.dtype)


def reason(backend, name):
    found = evidence(backend, name)
    assert not found.known
    return found.unknown[name]


def test_every_fact_is_found_or_has_a_reason_and_no_two_probes_claim_one(cpu):
    claimed = list(itertools.chain.from_iterable(each.facts for each in PROBES.values()))
    assert len(set(claimed)) == len(claimed)
    for name, each in PROBES.items():
        found = evidence(cpu, name)
        assert sorted([*found.known, *found.unknown]) == sorted(each.facts)
        assert all(found.unknown.values()) and not found.failed


def test_the_cpu_is_found_to_be_what_is_known_of_it(cpu):
    found = dict(probe(cpu).facts())
    # IEEE 754 in float32; ATen computes 16-bit elements in float32 and rounds once.
    assert {name: found[name] for name in ("flush.f32", "flush.bf16", "flush.f16")} == {
        "flush.f32": "never",
        "flush.bf16": "never",
        "flush.f16": "never",
    }
    assert {found["overflow.f32"], found["overflow.bf16"], found["overflow.f16"]} == {"inf"}
    assert found["division"] == "ieee"
    # The types of torch are the types of C.
    assert (found["int64"], found["float64"], found["fp8"]) == ("i64", "f64", "e4m3fn")
    # Documented formulas and Python's meaning of an index.
    assert (found["gelu"], found["negative_index"]) == ("erf", "wraps")
    # SLEEF and MKL state 1 ulp for what torch takes from them; Cephes-like kernels stay below 3.
    assert all(float(found[f"ulps.{name}"]) <= 3 for name in ("exp", "erf", "tanh", "rsqrt"))
    # One thread, and strict pins deterministic algorithms.
    assert found["run_to_run"] == "yes"
    # 16-bit products are summed in float32, whatever the order.
    for of in ("f32", "bf16", "f16"):
        assert found[f"products.{of}.reads"] == "ieee"


@pytest.mark.parametrize("setting", list(Setting))
def test_nothing_that_the_cpu_declares_is_contradicted(opened, setting):
    backend = opened("cpu", setting)
    said = declaration(backend).known
    assert len(said) >= 13
    assert differences(said, dict(probe(backend).facts())) == []


def test_a_lying_declaration_is_found(cpu):
    said = dict(cpu.arithmetic().facts()) | {"gelu": "tanh", "int64": "i32", "products.f32.reads": "tf32"}
    assert differences(said, dict(probe(cpu).facts())) == [
        ("products.f32.reads", "tf32", "ieee"),
        ("int64", "i32", "i64"),
        ("gelu", "tanh", "erf"),
    ]


def test_a_fact_that_one_side_does_not_know_is_no_difference():
    assert differences({"gelu": "erf"}, {"int64": "i64"}) == []


@pytest.mark.parametrize(
    "name,op,change,expected",
    [
        ("flush.f32", "mul", lambda y: y * np.float32(2), "4.70198e-38 and others became"),
        ("overflow.f32", "mul", np.zeros_like, "twice the largest f32 became 0 and 0"),
        ("int64", "add", lambda y: y + 1, "2^40 + 5 became 1099511627782"),
        ("float64", "mul", lambda y: y + 2.0**-30, "products of float64 are neither float64 nor float32"),
        ("fp8", "cast", lambda y: y + 1, "the codes fit none of e4m3fn, e4m3fnuz, e4m3_gaudi2"),
        ("movement", "cat", lambda y: y[::-1].copy(), "cat changes 512 of 512 patterns of f32"),
        ("gelu", "gelu_erf", lambda y: y + np.float32(0.001), "gelu is off by 1.0e-03 from erf"),
        ("masked_row", "attention", lambda y: y + 7, "a row without keys starts with 7, 7, 7"),
        ("negative_index", "index_put", lambda y: y * 2, "100 added at -1 of 0..7 gave 0, 2, 4"),
        ("ulps.exp", "exp", lambda y: y * np.float32("nan"), "exp of "),
    ],
)
def test_an_answer_that_no_known_arithmetic_gives_is_unknown(cpu, name, op, change, expected):
    assert expected in reason(Altered(cpu, op, change), name)


def test_a_quotient_that_is_off_is_neither_kind_of_division(cpu):
    off = Altered(cpu, "div", lambda y: np.nextafter(y, np.float32(np.inf)))
    assert reason(off, "division").endswith("are not correctly rounded, nor products with a reciprocal")


def test_a_conversion_that_saturates_only_finite_values_has_no_name(cpu):
    def change(codes):
        return np.array([0x7E, 0xFE, 0x7F, 0xFF], dtype=np.uint8) if codes.size == 4 else codes

    assert reason(Altered(cpu, "cast", change), "fp8_overflow") == "±896 and ±inf became 448, -448, nan, nan"


@pytest.mark.parametrize("off", [1, 3])
def test_ulps_count_from_the_correctly_rounded_result(cpu, off):
    exact = evidence(Altered(cpu, "rsqrt", _correct_rsqrt), "ulps.rsqrt").known
    moved = evidence(
        Altered(cpu, "rsqrt", lambda y: (_correct_rsqrt(y).view(np.int32) + off).view(np.float32)),
        "ulps.rsqrt",
    ).known
    assert (exact, moved) == ({"ulps.rsqrt": "0"}, {"ulps.rsqrt": str(off)})


def _correct_rsqrt(y):
    low, high = 2.0**-60, 2.0**60
    return (1.0 / np.sqrt(probe_functions._grid(low, high))).astype(np.float32)


def test_sums_that_change_from_call_to_call_are_noticed(cpu):
    calls = itertools.count()
    noisy = Altered(cpu, "sum", lambda y: y + np.array(next(calls)).astype(y.dtype))
    assert evidence(noisy, "run_to_run").known == {"run_to_run": "no"}


def test_torch_shares_a_long_sum_out_to_threads_and_then_rounds_differently(cpu):
    before = cpu.threads
    assert evidence(cpu, "threads").known == {"threads": "no"}
    assert cpu.threads == before


def test_threads_that_change_nothing_are_found_to_change_nothing(cpu):
    class Deaf(Altered):
        threads = 1

    assert evidence(Deaf(cpu, "", None), "threads").known == {"threads": "yes"}


def test_a_backend_without_threads_of_the_host_is_not_asked_for_them(cpu):
    class Device:
        put, run, get = cpu.put, cpu.run, cpu.get
        synchronize, witness = cpu.synchronize, cpu.witness

    assert reason(Device(), "threads") == "this backend cannot be asked for another number of threads"


def test_what_ran_on_the_host_says_nothing_of_the_device(cpu):
    class Fallback(Altered):
        def witness(self):
            return Witness(host=(Node(kind="aten::gelu", device="cpu", precision="f32"),))

    found = evidence(Fallback(cpu, "", None), "gelu")
    assert found == Evidence(unknown={"gelu": "gelu_erf ran elsewhere: aten::gelu on cpu"})


@pytest.mark.parametrize(
    "executed, said",
    [
        ((), "nothing says that gelu_erf ran on the device"),
        (
            (unplaced(Node(kind="aten::gelu", device="xpu:0", precision="f32")),),
            "gelu_erf may have run elsewhere: aten::gelu",
        ),
    ],
)
def test_what_nobody_saw_run_on_the_device_says_nothing_of_it(cpu, executed, said):
    class Hidden(Altered):
        def witness(self):
            return Witness(executed=executed)

    assert evidence(Hidden(cpu, "", None), "gelu") == Evidence(unknown={"gelu": said})


def test_a_precision_that_a_switch_does_not_say_is_what_a_probe_is_for(cpu):
    class Unsaid(Altered):
        def witness(self):
            return Witness(executed=(Node(kind="aten::gelu", device="xpu:0", precision="?"),))

    assert evidence(Unsaid(cpu, "", None), "gelu").known == {"gelu": "erf"}


def test_what_is_unsupported_is_unknown_in_the_backends_words_or_a_fact_of_its_own(cpu):
    class Without(Altered):
        def run(self, step, inputs):
            raise Unsupported(f"no kernel for {step.op}")

    lacking = Without(cpu, "", None)
    assert evidence(lacking, "gelu").unknown == {"gelu": "unsupported: no kernel for gelu_erf"}
    assert evidence(lacking, "int64").known == {"int64": "unsupported"}
    assert reason(lacking, "run_to_run") == "unsupported: none of the sums that this looks at"
    assert (
        evidence(lacking, "products.f32").unknown["products.f32.block"] == "unsupported: no kernel for matmul"
    )


def test_an_error_is_the_reason_for_its_facts_alone_and_is_no_answer(cpu):
    class Broken(Altered):
        def run(self, step, inputs):
            if step.op == "div":
                raise ZeroDivisionError("card on fire\nmore")
            return super().run(step, inputs)

    found = evidence(Broken(cpu, "", None), "division")
    assert (found.unknown, found.failed) == ({"division": "ZeroDivisionError: card on fire"}, True)
    assert evidence(Broken(cpu, "", None), "gelu").known == {"gelu": "erf"}


def test_an_index_error_is_an_answer_of_negative_index(cpu):
    class Refuses(Altered):
        def run(self, step, inputs):
            raise IndexError("out of range")

    assert evidence(Refuses(cpu, "", None), "negative_index").known == {"negative_index": "error"}


def test_a_backend_that_declares_nothing_or_fails_to_is_asked_all_the_same(cpu):
    class Silent:
        pass

    class Failing:
        def arithmetic(self):
            raise RuntimeError("no manual")

    assert declaration(Silent()) == Evidence()
    assert declaration(Failing()).unknown == {"declared": "RuntimeError: no manual"}


WHOLE = Arithmetic(
    products={
        "f32": Products(
            reads=Reads.BF16X3,
            accumulator=Accumulator(dtype=DTYPES["f32"], block=8, rounding=Rounding.TO_ZERO),
            order=Order.PAIRWISE,
            splits=4,
            ordered=False,
        ),
        "conv.f32": Products(reads=Reads.HF32),
    },
    flush={"bf16": Flush.BOTH},
    overflow={"f16": "max"},
    ulps={"exp": 2.0},
    int64="i32",
    run_to_run=False,
    batch=True,
)


def test_facts_and_arithmetic_are_two_spellings_of_one_thing():
    facts = dict(WHOLE.facts())
    assert facts["products.f32.ordered"] == "no" and facts["ulps.exp"] == "2"
    assert Arithmetic.of(facts) == WHOLE


def test_a_product_without_its_reads_and_an_accumulator_without_its_block_are_left_out():
    facts = dict(WHOLE.facts())
    del facts["products.f32.block"], facts["products.conv.f32.reads"]
    found = Arithmetic.of(facts).products
    assert found == {"f32": dataclasses.replace(WHOLE.products["f32"], accumulator=None)}


@pytest.mark.parametrize("facts", [{"colour": "red"}, {"flush.f32": "sometimes"}, {"batch": "maybe"}])
def test_facts_that_there_are_not_are_refused(facts):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Arithmetic.of(facts)
