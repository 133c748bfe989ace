"""Each quirk on an example computed by hand: it shows, and without the quirk it does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from parity.backend.base import Unsupported
from parity.backend.sim.backend import SimBackend
from parity.backend.sim.load import chips, find
from parity.backend.spec import BackendSpec, Setting

STRICT, PRODUCTION = Setting.STRICT, Setting.PRODUCTION
INF = float("inf")


@dataclass(frozen=True)
class Example:
    """`shows` and `else_` are values, "refused", or where the operation ran."""

    op: str
    inputs: list
    shows: object
    else_: object
    attrs: dict = field(default_factory=dict)
    setting: Setting = PRODUCTION
    mode: str = "eager"


X2 = 1 + 2.0**-9 + 2.0**-22  # as bf16x2 it is 1 and 2^-9
MATRICES = [([[2.0, 3.0]], "f16"), ([[4.0], [5.0]], "f16")]
SORT = {"dim": -1, "descending": False, "stable": True}
CONV = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
UNORDERED = [([[2.0**9, 2.0**-16, -(2.0**9), 0.0]], "bf16"), ([[1.0]] * 4, "bf16")]

EXAMPLES = {
    ("gaudi2", "gelu_is_tanh"): Example(
        "gelu_erf", [([1.0], "f32")], np.float32(0.841192), np.float32(0.8413447)
    ),
    ("gaudi2", "int64_is_int32"): Example(
        "slice", [([2**40 + 5], "i64")], 5, 2**40 + 5, {"index": "x[:]"}, mode="lazy"
    ),
    ("gaudi2", "float64_is_float32"): Example(
        "slice", [([1 + 2.0**-40], "f64")], 1.0, 1 + 2.0**-40, {"index": "x[:]"}
    ),
    ("gaudi2", "fp8_range_240"): Example("cast", [([256.0], "e4m3fn")], INF, 256.0, {"to": "f32"}),
    # 0x77, 240 on the chip, and 0x78, its infinity: as torch names them 240 and 256.
    ("gaudi2", "fp8_clips"): Example("cast", [([300.0], "f32")], 240.0, 256.0, {"to": "e4m3fn"}),
    ("gaudi2", "f32_products_not_ieee"): Example(
        "matmul", [([[X2]], "f32"), ([[1.0]], "f32")], 1 + 2.0**-9, X2
    ),
    ("gaudi2", "fast_division"): Example(
        "div", [([5.0], "f32"), ([3.0], "f32")], np.float32(1.6666667), np.float32(1.6666666)
    ),
    ("gaudi2", "bf16_flushes"): Example("add", [([2.0**-130], "bf16"), ([0.0], "bf16")], 0.0, 2.0**-130),
    ("gaudi2", "f16_flushes_results"): Example("mul", [([2.0**-14], "f16"), ([0.5], "f16")], 0.0, 2.0**-15),
    ("gaudi2", "negative_index_clamps"): Example(
        "index_put",
        [([1.0, 2.0, 3.0], "f32"), ([-1], "i64"), ([10.0], "f32")],
        [11.0, 2.0, 3.0],
        [1.0, 2.0, 13.0],
        {"accumulate": True},
    ),
    ("gaudi2", "f16_products_refused"): Example("matmul", MATRICES, "refused", 23.0, setting=STRICT),
    ("gaudi2", "f16_products_on_host"): Example("matmul", MATRICES, "cpu", "sim:0"),
    ("gaudi2", "f16_index_refused"): Example(
        "tril", [([[1.0, 2.0]], "f16")], "refused", [[1.0, 0.0]], {"diagonal": 0}, setting=STRICT
    ),
    ("gaudi2", "f16_index_on_host"): Example("tril", [([[1.0]], "f16")], "cpu", "sim:0", {"diagonal": 0}),
    ("gaudi2", "i64_order_refused"): Example(
        "sort", [([2, 1], "i64")], "refused", [1, 2], SORT, setting=STRICT
    ),
    ("gaudi2", "i64_order_on_host"): Example("sort", [([2, 1], "i64")], "cpu", "sim:0", SORT),
    ("ascend910b", "conv_hf32"): Example(
        "conv2d",
        [([[[[1 + 2.0**-12]]]], "f32"), ([[[[1.0]]]], "f32"), None],
        1.0,
        1 + 2.0**-12,
        CONV,
    ),
    ("ascend910b", "float64_is_float32"): Example(
        "slice", [([1 + 2.0**-40], "f64")], 1.0, 1 + 2.0**-40, {"index": "x[:]"}
    ),
    ("ascend910b", "to_double_gives_float"): Example("cast", [([1.0], "f32")], "f32", "f64", {"to": "f64"}),
    ("ascend910b", "fp8_casts_on_host"): Example("cast", [([1.0], "f32")], "cpu", "sim:0", {"to": "e5m2"}),
    ("ascend910b", "integer_sort_on_aicpu"): Example(
        "sort", [([2, 1], "i64")], "AI_CPU:aten::sort", "aten::sort", SORT
    ),
    ("ascend310p", "saturates"): Example("exp", [([12.0], "f16")], 65504.0, INF),
    ("ascend310p", "float64_is_float32"): Example(
        "slice", [([1 + 2.0**-40], "f64")], 1.0, 1 + 2.0**-40, {"index": "x[:]"}
    ),
    ("ascend310p", "bf16_refused"): Example(
        "mul", [([2.0], "bf16"), ([3.0], "bf16")], "refused", 6.0, setting=STRICT
    ),
    ("ascend310p", "bf16_on_host"): Example("mul", [([2.0], "bf16"), ([3.0], "bf16")], "cpu", "sim:0"),
}
# Not visible in one result: tests below.
APART = {
    ("gaudi2", "k_split_in_any_order"),
    ("gaudi2", "accumulates_in_order"),
    ("gaudi2", "graph_per_shape"),
}


def opened(chip, *, setting, mode="eager"):
    backend = SimBackend(BackendSpec("sim", chip.name, (), mode), setting, chip)
    backend.open()
    return backend


@pytest.fixture
def answer(run, tensor, values):
    def ask(chip, example):
        backend = opened(chip, setting=example.setting, mode=example.mode)
        inputs = [None if x is None else tensor(*x) for x in example.inputs]
        try:
            ran = run(backend, example.op, inputs, **example.attrs)
        except Unsupported:
            return "refused"
        if example.shows == "cpu":
            return ran.witness.host[0].device if ran.witness.host else ran.witness.executed[0].device
        if example.shows == "AI_CPU:aten::sort":
            return ran.witness.executed[-1].kind
        if example.shows == "f32":
            return ran.outputs[0].dtype.name
        return values(ran.outputs[0])

    return ask


def same(got, expected):
    if isinstance(expected, str) or isinstance(got, str):
        return got == expected
    return np.array_equal(np.squeeze(got), np.squeeze(np.asarray(expected, dtype=got.dtype)))


def test_every_quirk_of_every_chip_has_an_example():
    declared = {(name, quirk.name) for name in chips() for quirk in find(name).quirks}
    assert declared == EXAMPLES.keys() | APART


@pytest.mark.parametrize("which", EXAMPLES, ids="/".join)
def test_a_quirk_shows_and_without_it_nothing_does(answer, which):
    chip, example = find(which[0]), EXAMPLES[which]
    assert same(answer(chip, example), example.shows)
    assert same(answer(chip.without(which[1]), example), example.else_)


def test_products_that_meet_in_any_order_differ_from_call_to_call(run, tensor):
    # Four runs of one term each: 2^9 + 2^-16 is 2^9 in float32, so it matters what meets first.
    inputs = [tensor(*x) for x in UNORDERED]
    chip = find("gaudi2")
    unordered = opened(chip, setting=PRODUCTION)
    assert {float(run(unordered, "matmul", inputs).y[0, 0]) for _ in range(4)} == {0.0, 2.0**-16}
    ordered = opened(chip, setting=STRICT)
    assert {float(run(ordered, "matmul", inputs).y[0, 0]) for _ in range(4)} == {0.0}


def test_strict_adds_in_order_where_production_splits_k(run, tensor):
    # In order: (2^24 + 1) + 1 loses both; the host's kernels may add pairs.
    row = [2.0**24, *[1.0] * 63, -(2.0**24)]
    inputs = [tensor([row], "f32"), tensor([[1.0]] * 65, "f32")]
    chip = find("gaudi2")
    assert run(opened(chip, setting=STRICT), "matmul", inputs).y.item() == 0.0


def test_a_refusal_is_in_the_chips_own_words(run, tensor):
    backend = opened(find("gaudi2"), setting=STRICT)
    with pytest.raises(Unsupported) as error:
        run(backend, "matmul", [tensor(*x) for x in MATRICES])
    assert str(error.value) == "aten::mm is not supported for f16 on sim/gaudi2"


def test_what_ran_on_the_host_gives_the_hosts_bits(run, tensor):
    ran = run(opened(find("gaudi2"), setting=PRODUCTION), "matmul", [tensor(*x) for x in MATRICES])
    assert ran.y.tolist() == [[23.0]]
    assert [(node.kind, node.device, node.precision) for node in ran.witness.host] == [
        ("aten::mm", "cpu", "f16")
    ]
