from __future__ import annotations

import numpy as np
import pytest

from parity.judge.compare import compare
from parity.judge.oracle import answers
from parity.judge.verdict import Verdict

EVERY, SUM = "every intermediate stored", "the sum stored before its norm"
INF, NAN = np.inf, np.nan


def normal(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


@pytest.fixture
def rounded(tensor, values):
    """Numbers as they are after they were stored in a type."""
    return lambda x, dtype: values(tensor(x, dtype))


def normed(x, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


# x + residual and its norm.


@pytest.fixture
def added(held, tensor, values, rounded):
    def ask(dtype, make, *, total=None):
        """The reading that explains a sum and the norm that `make` forms of operands and what stores."""
        given = [tensor(normal(n, 9, 65), dtype) for n in (1, 2)] + [tensor(normal(3, 65), dtype)]
        x, residual, g = (values(t) for t in given)
        y = make(x, residual, g, lambda t: rounded(t, dtype))
        s = x + residual if total is None else total(x, residual)
        return held("add_rms_norm", given, tensor(s, dtype), tensor(y, dtype), eps=1e-3)

    return ask


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_the_norm_of_the_stored_sum_and_that_of_the_wide_one_are_two_readings(added, dtype):
    assert added(dtype, lambda x, r, g, _: normed(x + r, 1e-3) * g) == ""
    assert added(dtype, lambda x, r, g, kept: normed(kept(x + r), 1e-3) * g) == SUM


def test_in_float32_a_sum_that_is_rounded_and_one_that_is_not_are_one_reading(added):
    assert added("f32", lambda x, r, g, _: normed(x + r, 1e-3) * g) == ""
    assert added("f32", lambda x, r, g, kept: normed(kept(x + r), 1e-3) * g) == ""


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, r, g, _: normed(x, 1e-3) * g,
        lambda x, r, g, _: normed(x + 2 * r, 1e-3) * g,
        lambda x, r, g, _: normed(x + r, 0) * g,
        lambda x, r, g, _: (x + r) / (np.sqrt(((x + r) ** 2).mean(-1, keepdims=True)) + 1e-3) * g,
        lambda x, r, g, _: normed(x + r, 1e-3) * np.roll(g, 1),
    ],
    ids=["without residual", "residual twice", "no epsilon", "epsilon outside", "next gain"],
)
def test_another_norm_is_no_reading(added, dtype, wrong):
    assert added(dtype, wrong) is None


@pytest.mark.parametrize("total", [lambda x, r: x, lambda x, r: (x + r) * (1 + 2**-7)], ids=["stale", "off"])
def test_a_sum_that_is_not_the_sum_exceeds_whatever_the_norm_is(added, total):
    assert added("bf16", lambda x, r, g, _: normed(x + r, 1e-3) * g, total=total) is None


def test_a_normal_that_is_rounded_before_the_weight_needs_a_declaration(added):
    assert added("bf16", lambda x, r, g, kept: kept(normed(kept(x + r), 1e-3)) * g) is None


def test_and_is_one_where_it_is_declared(declaring, tensor, values, rounded):
    profile = declaring("normalized_rounded", "add_rms_norm", "bf16", "bf16")
    given = [tensor(normal(n, 9, 65), "bf16") for n in (1, 2)] + [tensor(normal(3, 65), "bf16")]
    x, residual, g = (values(t) for t in given)
    n = rounded(normed(rounded(x + residual, "bf16"), 1e-3), "bf16")
    outputs = (tensor(x + residual, "bf16"), tensor(n * g, "bf16"))
    found = [
        answer.reading
        for answer in answers("add_rms_norm", given, {"eps": 1e-3}, profile)
        if all(o.verdict is Verdict.WITHIN for o in compare(outputs, ("sum", "y"), answer.expected))
    ]
    assert found == [f"{SUM}; rounded before the weight"]


# Heads that are normalised and turned.


@pytest.fixture
def turned(held, tensor, values, rounded):
    H, G, D = 3, 2, 32

    def ask(dtype, *, kept=("norm", "product"), swap=False, first=False, weights=(1, 2), move=lambda v: v):
        given = [tensor(normal(1, 7, (H + 2 * G) * D), dtype), *(tensor(normal(n, D), dtype) for n in (2, 3))]
        angles = 6 * np.random.Generator(np.random.PCG64(4)).random((7, D // 2))
        given += [tensor(np.cos(angles), dtype), tensor(np.sin(angles), dtype)]
        exact = [values(t) for t in given]
        x = exact[0].reshape(7, H + 2 * G, D)
        cos, sin = exact[3][:, None], exact[4][:, None]

        def stored(t, point):
            return rounded(t, dtype) if point in kept else t

        def turn(w):
            a, b = np.split(w, 2, -1)
            a, b = (b, a) if swap else (a, b)
            parts = [stored(t, "product") for t in (a * cos, b * sin, b * cos, a * sin)]
            return np.concatenate((parts[0] - parts[1], parts[2] + parts[3]), -1)

        def made(t, g):
            return normed(turn(t), 1e-3) * g if first else turn(stored(normed(t, 1e-3) * g, "norm"))

        q, k = made(x[:, :H], exact[weights[0]]), made(x[:, H : H + G], exact[weights[1]])
        outputs = [tensor(t, dtype) for t in (q, k, move(x[:, H + G :]))]
        return held("norm_rotate", given, *outputs, heads=H, kv_heads=G, eps=1e-3)

    return ask


def test_norms_and_products_are_stored_or_not(turned):
    assert turned("bf16", kept=()) == ""
    assert turned("bf16") == EVERY
    assert turned("bf16", kept=("norm",)) == "norms stored"
    assert turned("f32") == ""


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "wrong",
    [{"swap": True}, {"first": True}, {"weights": (2, 1)}, {"weights": (1, 1)}],
    ids=["halves swapped", "rotated before the norm", "weights swapped", "one weight for both"],
)
def test_another_way_round_is_no_reading(turned, dtype, wrong):
    assert turned(dtype, **wrong) is None


def test_values_are_moved_to_the_bit(turned):
    assert turned("bf16", move=lambda v: np.roll(v, 1, 1)) is None
    assert turned("f32", move=lambda v: v * (1 + 2**-23)) is None


# Attention without a softmax.


@pytest.fixture
def attended(held, tensor, values, rounded):
    def ask(
        dtype, *, kept=(), diagonal=0, length=50, scale=0.3, act=None, hidden=None, shift=0, y=lambda t: t
    ):
        """Ask about tokens of which `hidden` may change the values, once those are given."""
        shapes = ((21, 2, 16), (21, 2, 16), (21, 2, 8), (2, 21, 21))
        plain = [normal(n, *shape) for n, shape in enumerate(shapes, 5)]
        given = [tensor(t, dtype) for t in plain]
        q, k, v = (values(t).transpose(1, 0, 2) for t in given[:3])

        def stored(t, point):
            return rounded(t, dtype) if point in kept else t

        s = stored(stored(q @ k.transpose(0, 2, 1), "product") * scale, "scaled")
        s = stored(s + np.roll(values(given[3]), shift, 0), "score")
        a = stored(act(s) if act else s / (1 + np.exp(-s)), "activation")
        a = np.tril(stored(a / length, "weights"), diagonal)
        made = y((a @ v).transpose(1, 0, 2))
        if hidden is not None:
            changed = values(given[2]).copy()
            changed[-1, 0, 0] = hidden
            given[2] = tensor(changed, dtype)
            made[-1, 0, 0] = hidden * np.sign(a[0, -1, -1])
        return held("hstu_attention", given, tensor(made, dtype), scale=0.3, length=50)

    return ask


def test_intermediates_are_stored_or_not(attended):
    assert attended("bf16") == ""
    assert attended("bf16", kept=("product", "scaled", "score", "activation", "weights")) == EVERY
    assert attended("bf16", kept=("product", "weights")) == "products stored"
    assert attended("bf16", kept=("weights",)) == "weights stored"
    assert attended("bf16", kept=("activation",)) == "activations stored"
    assert attended("f32") == ""


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"diagonal": 1},
        {"diagonal": -1},
        {"length": 1},
        {"length": 21},
        {"scale": 0.25},
        {"shift": 1},
        {"act": lambda s: 1 / (1 + np.exp(-s))},
        {"act": lambda s: np.maximum(s, 0)},
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else None,
)
def test_another_mask_length_scale_bias_or_activation_is_no_reading(attended, dtype, wrong):
    assert attended(dtype, **wrong) is None


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_what_only_the_last_token_sees_reaches_no_other(attended, value):
    assert attended("f32", hidden=value) == ""


def test_a_nan_in_a_row_that_saw_none_exceeds(attended):
    def spread(t):
        return np.where(np.arange(21)[:, None, None] == 3, NAN, t)

    assert attended("f32", y=spread) is None


def test_a_kernel_may_multiply_what_is_hidden_by_zero(attended):
    def spread(t):
        t = t.copy()
        t[:, 0, 0] = NAN
        return t

    assert attended("f32", y=spread, hidden=NAN) == ""
    assert attended("f32", y=spread) is None
