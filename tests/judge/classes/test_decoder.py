from __future__ import annotations

import math

import numpy as np
import pytest

STORED = "every intermediate stored"
INF, NAN = np.inf, np.nan


def normal(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


@pytest.fixture
def stored(tensor, values):
    """Numbers as they are after they were stored in a type."""
    return lambda x, dtype: values(tensor(x, dtype))


def turned(a, b, cos, sin, kept=lambda x: x):
    return kept(a * cos) - kept(b * sin), kept(b * cos) + kept(a * sin)


@pytest.fixture
def rotation(tensor, values):
    """x of 4 heads, of which the first 8 of 10 dimensions turn, cos and sin; and their exact values."""

    def make(dtype):
        angles = 6 * np.random.Generator(np.random.PCG64(2)).random((7, 4))
        given = [tensor(t, dtype) for t in (normal(1, 7, 4, 10), np.cos(angles), np.sin(angles))]
        return given, [values(t) for t in given]

    return make


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_rotation_is_held_with_its_products_stored_or_not(
    held, tensor, stored, rotation, dtype, interleaved
):
    given, (x, cos, sin) = rotation(dtype)
    cos, sin = cos[:, None], sin[:, None]
    a, b = (x[..., 0:8:2], x[..., 1:8:2]) if interleaved else (x[..., :4], x[..., 4:8])

    def made(kept=lambda t: t, *, sign=1.0):
        first, second = turned(a, b, cos, sign * sin, kept)
        y = x.copy()
        if interleaved:
            y[..., 0:8:2], y[..., 1:8:2] = first, second
        else:
            y[..., :4], y[..., 4:8] = first, second
        return tensor(y, dtype)

    assert held("rotate", given, made(), interleaved=interleaved) == ""
    if dtype != "f32":
        chain = made(lambda t: stored(t, dtype))
        assert held("rotate", given, chain, interleaved=interleaved) == STORED
    assert held("rotate", given, made(sign=-1.0), interleaved=interleaved) is None
    assert held("rotate", given, made(), interleaved=not interleaved) is None


def test_dimensions_that_do_not_turn_are_kept(held, tensor, rotation):
    given, (x, cos, sin) = rotation("bf16")
    y = x.copy()
    y[..., :4], y[..., 4:8] = turned(x[..., :4], x[..., 4:8], cos[:, None], sin[:, None])
    assert held("rotate", given, tensor(y, "bf16"), interleaved=False) == ""
    y[3, 2, 9] *= 1 + 2**-7
    assert held("rotate", given, tensor(y, "bf16"), interleaved=False) is None


def gelu(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


FORMS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": gelu,
    "gelu_pytorch_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("activation", FORMS)
def test_a_gate_is_held_with_its_activation_stored_or_not(held, tensor, values, stored, activation, dtype):
    x = tensor(normal(3, 33, 64), dtype)
    gate, up = np.split(values(x), 2, -1)
    f = FORMS[activation](gate)
    attrs = {"activation": activation}
    assert held("gated", [x], tensor(f * up, dtype), **attrs) == ""
    if dtype != "f32":
        assert held("gated", [x], tensor(stored(f, dtype) * up, dtype), **attrs) == STORED
    others = [FORMS[name](gate) * up for name in FORMS if name != activation]
    for wrong in (FORMS[activation](up) * gate, f, *others):
        assert held("gated", [x], tensor(wrong, dtype), **attrs) is None


def test_a_result_that_was_truncated_fits_neither_reading(held, tensor, bits, values):
    x = tensor(normal(3, 33, 64), "bf16")
    gate, up = np.split(values(x), 2, -1)
    exact = (FORMS["silu"](gate) * up).astype(np.float32)
    cut = bits((exact.view(np.uint32) >> 16).astype(np.uint16), "bf16")
    assert held("gated", [x], cut, activation="silu") is None


def test_a_gate_at_minus_infinity_is_0_or_nan(held, tensor):
    x = tensor([[-INF, 1.0, 2.0, 3.0]], "f32")
    exact = 3 / (1 + math.exp(-1))
    for first, wanted in ((0.0, ""), (-0.0, ""), (NAN, ""), (-INF, None), (1.0, None)):
        assert held("gated", [x], tensor([[first, exact]], "f32"), activation="silu") == wanted


def test_an_unknown_activation_is_refused_by_name(expected, tensor):
    with pytest.raises(Exception, match="activation 'swish' is none of silu, gelu and gelu_pytorch_tanh"):
        expected("gated", tensor([[1.0, 2.0]], "f32"), activation="swish")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_cap_is_held_with_its_steps_stored_or_not(held, tensor, values, stored, dtype):
    x = tensor(20 * normal(4, 9, 65), dtype)
    exact = values(x)
    assert held("softcap", [x], tensor(30 * np.tanh(exact / 30), dtype), cap=30.0) == ""
    if dtype != "f32":
        chain = stored(np.tanh(stored(exact / 30, dtype)), dtype) * 30
        assert held("softcap", [x], tensor(chain, dtype), cap=30.0) == STORED
    for wrong in (exact, exact.clip(-30, 30), np.tanh(exact / 30), 50 * np.tanh(exact / 50)):
        assert held("softcap", [x], tensor(wrong, dtype), cap=30.0) is None


def test_infinity_is_capped(held, tensor):
    x = tensor([INF, -INF, NAN], "f32")
    assert held("softcap", [x], tensor([30.0, -30.0, NAN], "f32"), cap=30.0) == ""
    assert held("softcap", [x], tensor([INF, -30.0, NAN], "f32"), cap=30.0) is None


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_an_embedding_is_scaled_by_the_rounded_scale_to_the_bit(held, tensor, values, stored, dtype):
    table, ids = tensor(normal(5, 9, 33), dtype), tensor([8, 0, 3, 3], "i64")
    rows, scale = values(table)[[8, 0, 3, 3]], math.sqrt(2047)
    assert (
        held("scaled_embedding", [table, ids], tensor(rows * stored(scale, dtype), dtype), scale=scale) == ""
    )
    unrounded = tensor(rows * scale, dtype)
    assert held("scaled_embedding", [table, ids], unrounded, scale=scale) is None
    assert held("scaled_embedding", [table, ids], tensor(rows, dtype), scale=1.0) == ""
    assert held("scaled_embedding", [table, ids], tensor(rows[::-1], dtype), scale=1.0) is None


def test_a_scale_of_1_moves_bits(held, tensor, bits):
    table, ids = bits([[0x7F81, 0x8000], [0x0001, 0x3F80]], "bf16"), tensor([1, 0], "i64")
    right, quieted = ([[0x0001, 0x3F80], [nan, 0x8000]] for nan in (0x7F81, 0x7FC1))
    assert held("scaled_embedding", [table, ids], bits(right, "bf16"), scale=1.0) == ""
    assert held("scaled_embedding", [table, ids], bits(quieted, "bf16"), scale=1.0) is None
