from __future__ import annotations

import math

import numpy as np
import pytest

U = 2.0**-24
PLAIN = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
SIGNAL = {**PLAIN, "causal": False}
INF, NAN = np.inf, np.nan


def slid(x, w, *, stride=1, before=0, after=0, dilation=1, groups=1):
    """A convolution of one signal [C, L] with taps [O, C / groups, K], by its definition."""
    x = np.pad(np.asarray(x, float), ((0, 0), (before, after)))
    w = np.asarray(w, float)
    fan, share = w.shape[1], w.shape[0] // groups
    size = (x.shape[1] - dilation * (w.shape[2] - 1) - 1) // stride + 1
    return [
        [
            sum(
                w[out, c, k] * x[out // share * fan + c, stride * i + dilation * k]
                for c in range(fan)
                for k in range(w.shape[2])
            )
            for i in range(size)
        ]
        for out in range(w.shape[0])
    ]


def test_one_output_is_the_sum_of_its_products_and_its_bound_that_of_them(expected, tensor):
    x, w = tensor([[[1.0, -2.0, 4.0]]], "f32"), tensor([[[0.5, 3.0]]], "f32")
    (budget,) = expected("conv1d", x, w, None, **SIGNAL)
    assert budget.value.tolist() == [[[0.5 - 6.0, -1.0 + 12.0]]]
    # K = 2: c(2) + 1 for products that are rounded, 2 + 2 + 1; S = 6.5 and 13.
    assert budget.hard.reshape(-1).tolist() == pytest.approx([5 * U * 6.5, 5 * U * 13])
    # q = 0.25 + 36 and 1 + 144, s = -5.5 and 11.
    for sigma, q, s in zip(budget.sigma.reshape(-1).tolist(), (36.25, 145.0), (-5.5, 11.0), strict=True):
        assert sigma == pytest.approx(0.42 * U * math.sqrt(2 * (q / 6 + s**2 / 3) + s**2 + q))


def test_a_bias_costs_one_addition_more(expected, tensor):
    x, w, bias = tensor([[[1.0, -2.0]]], "f32"), tensor([[[0.5, 3.0]]], "f32"), tensor([8.0], "f32")
    plain, added = (expected("conv1d", x, w, b, **SIGNAL)[0] for b in (None, bias))
    assert added.value.tolist() == [[[2.5]]]
    assert float(added.hard - plain.hard) == pytest.approx(U * (3 * 8 + 5.5 + 2.5))


def test_products_of_16_bits_are_exact_in_float32(expected, tensor):
    f32, bf16 = (
        expected("conv1d", tensor([[[1.0, -2.0]]], d), tensor([[[0.5, 3.0]]], d), None, **SIGNAL)[0].hard
        for d in ("f32", "bf16")
    )
    assert float(f32 / bf16) == pytest.approx(5 / 4)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("stride, padding, dilation, groups", [(1, 0, 1, 1), (2, 1, 1, 2), (3, 2, 2, 4)])
def test_stride_padding_dilation_and_groups_are_those_of_the_definition(
    verdict, tensor, dtype, stride, padding, dilation, groups
):
    x = np.arange(4 * 11).reshape(4, 11) % 7 - 3.0
    w = np.arange(8 * (4 // groups) * 3).reshape(8, 4 // groups, 3) % 5 - 2.0
    y = slid(x, w, stride=stride, before=padding, after=padding, dilation=dilation, groups=groups)
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "causal": False}
    given = [tensor([x], dtype), tensor(w, dtype)]
    assert verdict("conv1d", given, tensor([y], dtype), **attrs) == "within"
    wrong = np.array([y])
    wrong[0, -1, -1] += 1
    assert verdict("conv1d", given, tensor(wrong, dtype), **attrs) == "exceeds"


def test_a_causal_convolution_sees_nothing_later_and_the_faults_of_one_exceed(verdict, tensor):
    rng = np.random.Generator(np.random.PCG64(1))
    x, w = rng.integers(-9, 9, (6, 17)).astype(float), rng.integers(-9, 9, (6, 1, 4)).astype(float)
    attrs = {**PLAIN, "groups": 6, "causal": True}
    given = [tensor([x], "f32"), tensor(w, "f32")]

    def ask(y):
        return verdict("conv1d", given, tensor([y], "f32"), **attrs)

    assert ask(slid(x, w, before=3, groups=6)) == "within"
    assert ask(slid(x, w, before=2, after=1, groups=6)) == "exceeds", "the next element is seen"
    assert ask(slid(x, w[..., ::-1], before=3, groups=6)) == "exceeds", "taps in reverse"
    assert ask(slid(np.roll(x, 1, axis=0), w, before=3, groups=6)) == "exceeds", "the neighbour's channel"


def test_a_causal_convolution_with_stride_and_dilation_starts_at_the_first_element(expected, tensor):
    x, w = tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]], "f32"), tensor([[[10.0, 1.0]]], "f32")
    attrs = {**PLAIN, "stride": 2, "dilation": 2, "causal": True}
    # y_i = x_i + 10 x_(i-2), every second i.
    assert expected("conv1d", x, w, None, **attrs)[0].value.tolist() == [[[1.0, 13.0, 35.0]]]


IMAGE = np.arange(2 * 4 * 5).reshape(2, 4, 5) % 7 - 3.0
KERNEL = np.arange(3 * 2 * 2 * 3).reshape(3, 2, 2, 3) % 5 - 2.0


def image(x, w):
    """A plain convolution of an image [C, H, W] with [O, C, R, S]."""
    (_, height, width), (out, _, r, s) = x.shape, w.shape
    return [
        [
            [float((x[:, i : i + r, j : j + s] * w[o]).sum()) for j in range(width - s + 1)]
            for i in range(height - r + 1)
        ]
        for o in range(out)
    ]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_an_image_is_convolved_over_height_and_width(verdict, tensor, dtype):
    given = [tensor([IMAGE], dtype), tensor(KERNEL, dtype)]

    def ask(y):
        return verdict("conv2d", given, tensor([y], dtype), **PLAIN)

    assert ask(image(IMAGE, KERNEL)) == "within"
    assert ask(image(IMAGE, KERNEL[..., ::-1, ::-1])) == "exceeds", "a true convolution flips its taps"
    assert ask(image(IMAGE[::-1], KERNEL)) == "exceeds", "channels exchanged"


def test_patches_of_an_image_do_not_overlap(expected, tensor):
    x, w = tensor(np.arange(16.0).reshape(1, 1, 4, 4), "f32"), tensor(np.ones((1, 1, 2, 2)), "f32")
    value = expected("conv2d", x, w, None, **{**PLAIN, "stride": 2})[0].value
    assert value.tolist() == [[[[10.0, 18.0], [42.0, 50.0]]]]


def test_padding_of_an_image_is_zero_on_all_four_sides(expected, tensor):
    x, w = tensor([[[[1.0]]]], "f32"), tensor(np.arange(9.0).reshape(1, 1, 3, 3), "f32")
    value = expected("conv2d", x, w, None, **{**PLAIN, "padding": 2})[0].value
    assert value[0, 0].tolist() == np.arange(9.0)[::-1].reshape(3, 3).tolist()


def test_a_nan_reaches_what_reads_it_and_nothing_else(verdict, tensor):
    given = [tensor([[[NAN, 1.0, 2.0, 3.0]]], "f32"), tensor([[[1.0, 1.0]]], "f32")]
    assert verdict("conv1d", given, tensor([[[NAN, 3.0, 5.0]]], "f32"), **SIGNAL) == "within"
    assert verdict("conv1d", given, tensor([[[NAN, NAN, 5.0]]], "f32"), **SIGNAL) == "exceeds"
    assert verdict("conv1d", given, tensor([[[1.0, 3.0, 5.0]]], "f32"), **SIGNAL) == "exceeds"


def test_an_infinite_weight_that_meets_padding_alone_may_or_may_not_make_nan(judged, tensor):
    given = [tensor([[[1.0, 2.0]]], "f32"), tensor([[[INF, 1.0]]], "f32")]
    attrs = {**PLAIN, "causal": True}
    for first in (NAN, 1.0):
        (judgement,) = judged("conv1d", given, [tensor([[[first, INF]]], "f32")], **attrs)
        assert (judgement.verdict.value, judgement.free, judgement.elements) == ("within", 1, 1)
    (judgement,) = judged("conv1d", given, [tensor([[[1.0, 2.0]]], "f32")], **attrs)
    assert judgement.verdict.value == "exceeds"


def test_a_low_precision_accumulator_exceeds_unless_it_is_declared(verdict, declaring, tensor, values):
    rng = np.random.Generator(np.random.PCG64(2))
    x, w = (tensor(np.abs(rng.standard_normal(shape)), "bf16") for shape in ((1, 64, 9), (8, 64, 3)))
    a, b = values(x)[0], values(w)
    sums = np.zeros((8, 7), np.float32)
    for c in range(64):
        for k in range(3):
            partial = sums + b[:, c, k, None] * a[c, k : k + 7]
            sums = values(tensor(partial, "bf16")).astype(np.float32)
    got = tensor([sums], "bf16")
    assert verdict("conv1d", [x, w], got, **SIGNAL) == "exceeds"
    declared = declaring("accumulates_in", "conv1d", "bf16", "bf16")
    assert verdict("conv1d", [x, w], got, profile=declared, **SIGNAL) == "within"


def test_a_product_stored_before_the_bias_exceeds_unless_it_is_declared(verdict, declaring, tensor, values):
    rng = np.random.Generator(np.random.PCG64(3))
    x, w, bias = (tensor(rng.standard_normal(s), "bf16") for s in ((1, 40, 33), (40, 40, 1), (40,)))
    product = values(tensor(values(w)[..., 0] @ values(x)[0], "bf16"))
    got = tensor([product + values(bias)[:, None]], "bf16")
    assert verdict("conv1d", [x, w, bias], got, **SIGNAL) == "exceeds"
    declared = declaring("product_stored", "conv1d", "bf16", "bf16")
    assert verdict("conv1d", [x, w, bias], got, profile=declared, **SIGNAL) == "within"


def test_a_batch_of_nothing_has_an_empty_result(expected, tensor):
    given = [tensor(np.empty((0, 2, 5)), "f32"), tensor(np.ones((4, 2, 3)), "f32"), None]
    assert expected("conv1d", *given, **SIGNAL)[0].shape == (0, 4, 3)
