"""What a chip computes by each field of its arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parity.backend.arithmetic import Flush, Products, Reads
from parity.backend.base import Unsupported
from parity.backend.sim.chip import Gap, Quirk
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor

TINY = 2.0**-130  # subnormal in float32 and bf16
INF, NAN = float("inf"), float("nan")


@pytest.fixture
def result(simulate, declare, run, tensor):
    """The result of one op on a chip with these fields, floats in `of`."""

    def ask(op, *inputs, of="f32", attrs=None, **arithmetic):
        backend = simulate(declare(**arithmetic)) if arithmetic else simulate()
        given = [
            None if x is None else tensor(x, "i64" if op == "index_put" and n == 1 else of)
            for n, x in enumerate(inputs)
        ]
        return run(backend, op, given, **(attrs or {})).y

    return ask


@pytest.mark.parametrize(
    "flush, expected",
    [
        # tiny * 2^20 is normal, 2^-126 / 2 is subnormal.
        (Flush.NEVER, [TINY * 2.0**20, 2.0**-127, -(2.0**-127)]),
        (Flush.INPUTS, [0.0, 2.0**-127, -(2.0**-127)]),
        (Flush.RESULTS, [TINY * 2.0**20, 0.0, -0.0]),
        (Flush.BOTH, [0.0, 0.0, -0.0]),
    ],
)
@pytest.mark.parametrize("of", ["f32", "bf16"])
def test_elementwise_products_flush_as_declared(result, flush, expected, of):
    got = result("mul", [TINY, 2.0**-126, -(2.0**-126)], [2.0**20, 0.5, 0.5], of=of, flush={of: flush})
    assert got.tolist() == expected
    assert np.signbit(got).tolist() == [False, False, True]


def test_data_movement_does_not_flush(result):
    assert result("cat", [TINY], [TINY], attrs={"dim": 0}, flush={"f32": Flush.BOTH}).tolist() == [TINY] * 2


@pytest.mark.parametrize(
    "op, inputs, ieee, saturated",
    [
        ("mul", ([2.0**127, -(2.0**127), INF], [2.0, 2.0, 2.0]), [INF, -INF, INF], "max"),
        ("matmul", ([[2.0**127, 2.0**127]], [[1.0], [1.0]]), [[INF]], "max"),
        ("div", ([2.0**127, 1.0], [2.0**-3, 0.0]), [INF, INF], "div"),
        ("exp", ([100.0, INF],), [INF, INF], "exp"),
    ],
)
def test_a_finite_result_beyond_the_largest_saturates_where_declared(result, op, inputs, ieee, saturated):
    most = float(np.finfo(np.float32).max)
    expected = {
        "max": [most, -most, INF] if op == "mul" else [[most]],
        "div": [most, INF],
        "exp": [most, INF],
    }[saturated]
    assert result(op, *inputs).tolist() == ieee
    assert result(op, *inputs, overflow={"f32": "max"}).tolist() == expected


def test_a_chip_that_saturates_converts_8_bit_floats(simulate, declare, run, tensor):
    backend = simulate(declare(overflow={"f32": "max"}, fp8="e4m3_gaudi2"))
    assert run(backend, "cast", [tensor([INF, 1.0], "e5m2")], to="f32").y.tolist() == [INF, 1.0]
    # 256 is how torch calls the code of the chip's infinity.
    assert run(backend, "cast", [tensor([256.0, 1.0], "e4m3fn")], to="f32").y.tolist() == [INF, 1.0]


@pytest.mark.parametrize("ulps", [0, 1, 4])
@pytest.mark.parametrize("name", ["exp", "erf", "tanh", "rsqrt"])
def test_functions_are_exactly_that_far_off_for_about_a_quarter(result, name, ulps):
    exact = {
        "exp": np.exp,
        "tanh": np.tanh,
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "erf": np.vectorize(math.erf),
    }
    x = np.linspace(0.1, 3.0, 4000).astype(np.float32)
    right = exact[name](x.astype(np.float64)).astype(np.float32)
    got = result(name, x, ulps={name: ulps}).astype(np.float32)
    off = np.abs(got.view(np.int32) - right.view(np.int32))
    assert set(off.tolist()) == {0, ulps}
    if ulps:
        assert 0.2 < (off == ulps).mean() < 0.3


def test_functions_keep_what_is_not_finite_or_zero(result):
    got = result("exp", [-INF, INF, NAN], ulps={"exp": 4})
    assert str(got.tolist()) == "[0.0, inf, nan]"


@pytest.mark.parametrize(
    "flavour, beyond, to, back",
    [
        # Codes 0x38, 0x77, 0x78, 0x7F of each format.
        ("e4m3fn", "saturate", 448.0, [1.0, 240.0, 256.0, NAN]),
        ("e4m3fnuz", "saturate", 240.0, [0.5, 120.0, 128.0, 240.0]),
        ("e4m3fnuz", "native", NAN, [0.5, 120.0, 128.0, 240.0]),
        ("e4m3_gaudi2", "saturate", 240.0, [1.0, 240.0, INF, NAN]),
        ("e4m3_gaudi2", "native", INF, [1.0, 240.0, INF, NAN]),
    ],
)
def test_fp8_codes_are_what_is_declared(simulate, declare, run, tensor, flavour, beyond, to, back):
    backend = simulate(declare(fp8=flavour, fp8_overflow=beyond))
    codes = HostTensor.of(np.array([0x38, 0x77, 0x78, 0x7F], dtype=np.uint8), DTYPES["e4m3fn"])
    assert str(run(backend, "cast", [codes], to="f32").y.tolist()) == str(back)
    (made,) = run(backend, "cast", [tensor([1000.0], "f32")], to="e4m3fn").outputs
    again = run(backend, "cast", [made], to="f32").y
    assert str(again.tolist()) == str([to])


@pytest.mark.parametrize("name, value", [("int64", [1]), ("float64", [1.0]), ("fp8", [1.0])])
def test_an_unsupported_dtype_is_refused_when_it_is_put(simulate, declare, run, tensor, name, value):
    dtype = {"int64": "i64", "float64": "f64", "fp8": "e4m3fn"}[name]
    backend = simulate(declare(**{name: "unsupported"}))
    with pytest.raises(Unsupported) as error:
        backend.put(tensor(value, dtype))
    assert str(error.value) == f"a copy to the device is not supported for {dtype} on sim/made"
    with pytest.raises(Unsupported) as error:
        run(backend, "cast", [tensor([1.0], "f32")], to=dtype)
    assert str(error.value) == f"aten::_to_copy is not supported for {dtype} on sim/made"


def test_int64_keeps_the_low_32_bits_in_every_result(simulate, declare, run, tensor):
    backend = simulate(declare(int64="i32"))
    assert run(backend, "add", [tensor([2**31 - 1], "i64"), tensor([1], "i64")]).y.tolist() == [-(2**31)]
    assert simulate().get(simulate().put(tensor([2**40], "i64"))).array().tolist() == [2**40]
    assert backend.get(backend.put(tensor([2**40 + 7], "i64"))).array().tolist() == [7]


def test_float64_is_computed_in_float32(simulate, declare, run, tensor):
    backend = simulate(declare(float64="f32"))
    third = run(backend, "div", [tensor([1.0], "f64"), tensor([3.0], "f64")])
    assert third.outputs[0].dtype.name == "f64"
    assert third.y.tolist() == [float(np.float32(1) / np.float32(3))]
    terms = tensor([2.0**24, 1.0, 1.0], "f64")
    assert run(backend, "cumsum", [terms], dim=0).y[1] == 2.0**24


@pytest.mark.parametrize("how, expected", [("wraps", [1.0, 2.0, 13.0]), ("clamps", [11.0, 2.0, 3.0])])
def test_negative_indices_go_where_declared(result, how, expected):
    got = result("index_put", [1.0, 2.0, 3.0], [-1], [10.0], attrs={"accumulate": True}, negative_index=how)
    assert got.tolist() == expected


def test_negative_indices_may_be_an_error(result):
    with pytest.raises(IndexError, match="negative indices are out of range"):
        result("index_put", [1.0], [-1], [10.0], attrs={"accumulate": True}, negative_index="error")


@pytest.mark.parametrize("row, expected", [("zero", 0.0), ("nan", NAN), ("mean", 2.0)])
@pytest.mark.parametrize("own_products", [False, True])
def test_a_row_without_keys_is_as_declared(simulate, declare, run, tensor, row, expected, own_products):
    more = {"products": {"f32": Products(reads=Reads.TF32)}} if own_products else {}
    backend = simulate(declare(masked_row=row, **more))
    q = tensor(np.zeros((1, 1, 2, 1)), "f32")
    v = tensor(np.array([1.0, 3.0]).reshape(1, 1, 2, 1), "f32")
    mask = tensor(np.array([[True, False], [False, False]]).reshape(1, 1, 2, 2), "bool")
    y = run(backend, "attention", [q, q, v, mask], causal=False, window=None, scale=None).y
    assert str(y.ravel().tolist()) == str([1.0, expected])


@pytest.mark.parametrize(
    "movement, codes",
    [
        ("exact", [0x7FA00000, 0x00000001, 0x80000001]),
        ("quiets", [0x7FE00000, 0x00000001, 0x80000001]),
        ("flushes", [0x7FA00000, 0x00000000, 0x80000000]),
    ],
)
def test_moved_bits_change_as_declared(simulate, declare, run, movement, codes):
    given = np.array([0x7FA00000, 0x00000001, 0x80000001], dtype=np.uint32)
    x = HostTensor.of(given.view(np.float32), DTYPES["f32"])
    (y,) = run(simulate(declare(movement=movement)), "cat", [x], dim=0).outputs
    assert y.array().view(np.uint32).tolist() == codes


def test_a_row_alone_has_other_bits_where_a_batch_is_not_invariant(simulate, declare, run, tensor):
    backend = simulate(declare(batch=False, products={"f32": Products()}))
    row, ones = [2.0**24, 1.0, -(2.0**24), 1.0], tensor([[1.0]] * 4, "f32")
    # Alone from the other end: ((1 - 2^24) + 1) + 2^24.
    assert run(backend, "matmul", [tensor([row], "f32"), ones]).y.ravel().tolist() == [2.0]
    assert run(backend, "matmul", [tensor([row, row], "f32"), ones]).y.ravel().tolist() == [1.0, 1.0]


def test_every_product_of_a_dtype_is_read_as_declared(simulate, declare, run, tensor):
    backend = simulate(declare(products={"f32": Products(reads=Reads.BF16)}))
    x, one = 1 + 2.0**-9, [[1.0]]
    for op, inputs, attrs in [
        ("matmul", ([[x]], one), {}),
        ("matmul", ([x], one), {}),
        ("matmul", (one, [x]), {}),
        ("matmul", ([x], [1.0]), {}),
        ("bmm", ([[[x]]], [one]), {}),
        ("linear", ([[x]], one, [0.0]), {}),
        ("addmm", ([[0.0]], [[x]], one), {"alpha": 1.0, "beta": 1.0}),
    ]:
        assert run(backend, op, [tensor(v, "f32") for v in inputs], **attrs).y.ravel().tolist() == [1.0], op
    v = tensor([[[[x]]]], "f32")
    assert run(backend, "attention", [v, v, v], causal=False, window=None, scale=None).y.item() == 1.0
    # A convolution has its own.
    image = tensor([[[[x]]]], "f32")
    kernel = tensor([[one]], "f32")
    settings = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    assert run(backend, "conv2d", [image, kernel, None], **settings).y.item() == x


def test_addmm_scales_and_does_not_read_what_beta_zero_leaves_out(simulate, declare, run, tensor):
    backend = simulate(declare(products={"f32": Products()}))
    c, a, b = (tensor(v, "f32") for v in ([[NAN]], [[2.0, 3.0]], [[5.0], [7.0]]))
    assert run(backend, "addmm", [c, a, b], alpha=2.0, beta=0.0).y.item() == 62.0
    c = tensor([[10.0]], "f32")
    assert run(backend, "addmm", [c, a, b], alpha=-1.0, beta=0.5).y.item() == -26.0


@pytest.mark.parametrize(
    "op, groups, stride, dilation, padding",
    [
        ("conv2d", 1, 1, 1, 0),
        ("conv2d", 2, 2, 1, 1),
        ("conv2d", 1, 1, 2, 2),
        ("conv1d", 2, 3, 2, 4),
    ],
)
def test_a_convolution_of_small_integers_is_the_hosts(
    simulate, declare, cpu, run, tensor, op, groups, stride, dilation, padding
):
    draw = np.random.Generator(np.random.Philox(key=3))
    spatial = (7, 9) if op == "conv2d" else (11,)
    x = tensor(draw.integers(-3, 4, (2, 4, *spatial)), "f32")
    w = tensor(draw.integers(-3, 4, (6, 4 // groups, *[3] * len(spatial))), "f32")
    bias = tensor(draw.integers(-3, 4, 6), "f32")
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    attrs |= {"causal": False} if op == "conv1d" else {}
    backend = simulate(declare(products={"conv.f32": Products(reads=Reads.HF32)}))
    assert np.array_equal(run(backend, op, [x, w, bias], **attrs).y, run(cpu, op, [x, w, bias], **attrs).y)


def test_what_has_a_gap_is_refused_by_name_and_dtype(simulate, run, tensor):
    missing = Quirk(name="q", text="t", source="s", gaps=(Gap(ops=("exp",), dtypes=("bf16",)),))
    backend = simulate(missing)
    assert run(backend, "exp", [tensor([0.0], "f32")]).y.tolist() == [1.0]
    with pytest.raises(Unsupported, match="aten::exp is not supported for bf16 on sim/made"):
        run(backend, "exp", [tensor([0.0], "bf16")])
