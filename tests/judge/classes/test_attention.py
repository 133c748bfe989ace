from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

INF, NAN = np.inf, np.nan
PLAIN = {"causal": False, "window": None, "scale": None}


def normal(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def by_loops(q, k, v, *, causal=False, window=None, scale=None, mask=None):
    """Attention, one query and one key at a time, as the op table words it."""
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    y = np.zeros((B, H, T, v.shape[-1]))
    for b in range(B):
        for h in range(H):
            for i in range(T):
                at, scores = S - T + i, {}
                for j in range(S):
                    seen = (not causal or j <= at) and (window is None or j > at - window)
                    seen = seen and (mask is None or mask.dtype != bool or mask[b, h, i, j])
                    if seen:
                        dot = math.fsum(q[b, h, i] * k[b, h // (H // G), j])
                        scores[j] = dot * (1 / math.sqrt(D) if scale is None else scale)
                        scores[j] += mask[b, h, i, j] if mask is not None and mask.dtype != bool else 0
                top = max(scores.values(), default=0)
                total = math.fsum(math.exp(s - top) for s in scores.values())
                for j, s in scores.items():
                    y[b, h, i] += math.exp(s - top) / total * v[b, h // (H // G), j]
    return y


@pytest.fixture
def operands(tensor, values):
    """q of 4 heads, k and v of 2, for 5 queries at the end of 9 keys; and their exact values."""

    def make(dtype="f32", *, T=5, S=9):
        given = [tensor(normal(i, 2, h, n, 8), dtype) for i, (h, n) in enumerate(((4, T), (2, S), (2, S)))]
        return given, [values(t) for t in given]

    return make


SETTINGS = [
    PLAIN,
    PLAIN | {"causal": True},
    PLAIN | {"causal": True, "window": 3},
    PLAIN | {"window": 1},
    PLAIN | {"scale": 0.5},
]


@pytest.mark.parametrize("attrs", SETTINGS)
def test_value_is_that_of_loops_over_queries_and_keys(expected, operands, attrs):
    given, (q, k, v) = operands()
    assert expected("attention", *given, **attrs)[0].value.numpy() == pytest.approx(
        by_loops(q, k, v, **attrs), rel=1e-12, abs=1e-14
    )


@pytest.mark.parametrize("kind", ["bool", "added"])
def test_masks_are_read_as_the_op_table_says(expected, operands, tensor, kind):
    given, (q, k, v) = operands()
    kept = normal(9, 2, 4, 5, 9) > 0
    kept[..., 0] = True
    mask = kept if kind == "bool" else np.where(kept, normal(8, 2, 4, 5, 9).round(2), -INF)
    host = tensor(mask, "bool" if kind == "bool" else "f32")
    exact = kept if kind == "bool" else np.array(host.array()).astype(np.float64)
    value = expected("attention", *given, host, **PLAIN)[0].value.numpy()
    assert value == pytest.approx(by_loops(q, k, v, mask=exact), rel=1e-12, abs=1e-14)


FAULTS = {
    "another scale": {"scale": 1 / 8},
    "no causal mask": {"causal": False},
    "a window of one more": {"causal": True, "window": 4},
    "a window of one less": {"causal": True, "window": 2},
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_exceeds(verdict, operands, tensor, fault, dtype):
    given, (q, k, v) = operands(dtype)
    attrs = PLAIN | {"causal": True, "window": 3}
    assert verdict("attention", given, tensor(by_loops(q, k, v, **attrs), dtype), **attrs) == "within"
    wrong = tensor(by_loops(q, k, v, **(attrs | FAULTS[fault])), dtype)
    assert verdict("attention", given, wrong, **attrs) == "exceeds"


def test_tiled_instead_of_repeated_key_heads_exceed(verdict, operands, tensor):
    given, (q, k, v) = operands("bf16")
    tiled = [np.tile(t, (1, 2, 1, 1)) for t in (k, v)]
    assert verdict("attention", given, tensor(by_loops(q, *tiled), "bf16"), **PLAIN) == "exceeds"


def test_a_stale_last_key_exceeds(verdict, operands, tensor):
    given, (q, k, v) = operands("bf16")
    stale = [np.concatenate((t[:, :, :-1], t[:, :, -2:-1]), 2) for t in (k, v)]
    assert verdict("attention", given, tensor(by_loops(q, *stale), "bf16"), **PLAIN) == "exceeds"


def test_a_row_that_sees_no_key_is_0_or_nan_and_nothing_else(verdict, operands, tensor):
    given, (q, k, v) = operands()
    kept = np.ones((2, 4, 5, 9), bool)
    kept[:, :, 2] = False
    given = [*given, tensor(kept, "bool")]
    y = by_loops(q, k, v, mask=kept)
    for fill, wanted in ((0.0, "within"), (NAN, "within"), (0.125, "exceeds"), (INF, "exceeds")):
        y[:, :, 2] = fill
        assert verdict("attention", given, tensor(y, "f32"), **PLAIN) == wanted


def test_rounded_weights_are_granted_where_declared(verdict, declaring, operands, tensor, values):
    given, (q, k, v) = operands("bf16", T=64, S=64)
    scores = np.exp(np.einsum("bhid,bhjd->bhij", q, k.repeat(2, 1)) / math.sqrt(8))
    weights = values(tensor(scores, "bf16"))
    y = np.einsum("bhij,bhjd->bhid", weights, v.repeat(2, 1)) / scores.sum(-1, keepdims=True)
    declared = declaring("p_rounded", "attention", "bf16", "bf16")
    assert verdict("attention", given, tensor(y, "bf16"), **PLAIN) == "exceeds"
    assert verdict("attention", given, tensor(y, "bf16"), profile=declared, **PLAIN) == "within"


def test_no_error_exceeds_what_weights_that_sum_to_1_can_make(expected, tensor):
    q = tensor(np.full((1, 1, 1, 8), 1e18), "f32")
    k, v = tensor(normal(1, 1, 1, 4, 8), "f32"), tensor(normal(2, 1, 1, 4, 8), "f32")
    hard = expected("attention", q, k, v, **PLAIN)[0].hard.numpy()
    assert (hard <= 2 * np.abs(np.array(v.array())).max(2, keepdims=True)).all()


def rotated(x, positions, exact, *, base, interleaved):
    """Rotary embedding of one head [T, D], pair by pair, in fifty digits."""
    T, D = x.shape
    y = np.zeros((T, D))
    for t in range(T):
        for i in range(D // 2):
            first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + D // 2)
            of = exact.of
            angle = of(positions[t]) * of(base) ** (of(-2 * i) / of(D))
            c, s = exact.cos(angle), exact.sin(angle)
            a, b = of(x[t, first]), of(x[t, second])
            y[t, first], y[t, second] = float(a * c - b * s), float(b * c + a * s)
    return y


ROPE = {"base": 10000.0, "interleaved": False}


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_is_that_of_fifty_digits(expected, tensor, values, exact, interleaved):
    x, positions = tensor(normal(4, 1, 1, 5, 8), "f32"), tensor([0, 1, 7, 30, 40], "i64")
    attrs = ROPE | {"interleaved": interleaved}
    value = expected("rope", x, positions, **attrs)[0].value.numpy()[0, 0]
    wanted = rotated(values(x)[0, 0], [0, 1, 7, 30, 40], exact, **attrs)
    assert value == pytest.approx(wanted, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "fault",
    [{"interleaved": True}, {"base": 500000.0}, {"positions": [4, 5, 6, 7]}],
    ids=lambda f: next(iter(f)),
)
def test_a_rope_with_a_planted_fault_exceeds(verdict, tensor, values, exact, fault, dtype):
    x, positions = tensor(normal(4, 1, 2, 4, 16), dtype), tensor([3, 4, 5, 6], "i64")

    def made(positions=(3, 4, 5, 6), **changed):
        heads = [rotated(h, positions, exact, **(ROPE | changed)) for h in values(x)[0]]
        return tensor(np.stack(heads)[None], dtype)

    assert verdict("rope", [x, positions], made(), **ROPE) == "within"
    assert verdict("rope", [x, positions], made(**fault), **ROPE) == "exceeds"


def test_the_angle_of_a_late_position_has_the_error_of_its_product(expected, tensor):
    x = tensor(np.ones((1, 1, 2, 4)), "f32")
    hard = expected("rope", x, tensor([1, 100_000], "i64"), **ROPE)[0].hard[0, 0]
    assert float(hard[1, 1]) > 100 * float(hard[0, 1])


def test_what_a_query_does_not_see_may_be_skipped_or_multiplied_by_0(verdict, tensor):
    q, v = np.zeros((1, 1, 2, 4)), np.ones((1, 1, 2, 4))
    v[0, 0, 1] = NAN
    given = [tensor(q, "f32"), tensor(q, "f32"), tensor(v, "f32")]
    for first, wanted in ((1.0, "within"), (NAN, "within"), (0.5, "exceeds")):
        y = np.full((1, 1, 2, 4), NAN)
        y[0, 0, 0] = first
        assert verdict("attention", given, tensor(y, "f32"), **(PLAIN | {"causal": True})) == wanted
    y[0, 0] = 1.0
    assert verdict("attention", given, tensor(y, "f32"), **(PLAIN | {"causal": True})) == "exceeds"


def test_the_first_pair_of_a_late_position_turns_by_the_position_itself(verdict, tensor):
    x, position = tensor([[[[1.0, 0.0]]]], "f32"), tensor([131071], "i64")
    turned = np.array([[[[math.cos(131071), math.sin(131071)]]]])
    assert verdict("rope", [x, position], tensor(turned, "f32"), **ROPE) == "within"
    assert verdict("rope", [x, position], tensor(turned * 1.001, "f32"), **ROPE) == "exceeds"


def in_parts(q, k, v, ends, *, rescale=True, last=True):
    """Parts of the keys, each with a maximum and sums of its own, merged."""
    k, v = k.repeat(2, 1), v.repeat(2, 1)
    made = []
    for a, b in pairwise(ends):
        s = q @ k[:, :, a:b].swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        top = s.max(-1, keepdims=True)
        e = np.exp(s - top)
        made.append((top, e.sum(-1, keepdims=True), e @ v[:, :, a:b]))
    made = made if last else made[:-1]
    top = np.max([t for t, _, _ in made], 0)
    scales = [np.exp(t - top) if rescale else 1.0 for t, _, _ in made]
    total, y = (sum(part[i] * s for part, s in zip(made, scales, strict=True)) for i in (1, 2))
    return y / total


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_parts_of_keys_that_are_merged_wrongly_exceed(verdict, operands, tensor, dtype):
    given, (q, k, v) = operands(dtype)
    how = {**PLAIN, "along": "keys", "parts": 2}

    def judged(**what):
        return verdict("split_attention", given, tensor(in_parts(q, k, v, (0, 5, 9), **what), dtype), **how)

    assert judged() == "within"
    assert judged(rescale=False) == "exceeds"
    assert judged(last=False) == "exceeds"


def test_a_merge_is_granted_its_roundings_and_parts_of_heads_nothing(expected, operands):
    given, _ = operands()
    whole = expected("attention", *given, **PLAIN)[0]
    heads, keys = (
        expected("split_attention", *given, **PLAIN, along=along, parts=3)[0] for along in ("heads", "keys")
    )
    assert (heads.hard == whole.hard).all() and (heads.sigma == whole.sigma).all()
    assert (keys.value == whole.value).all()
    assert (keys.hard > whole.hard).all() and (keys.hard < 3 * whole.hard).all()


def test_weights_that_almost_vanish_leave_the_budget_of_a_merge_finite(expected, tensor):
    """A weight of e^-740 is 0 in no type of 64 bits, and its quotient with another in none finite."""
    q, k = np.full((1, 1, 1, 1), 740.0), np.array([[[[1.0], [0.0]]]])
    budget = expected(
        "split_attention", *(tensor(t, "f32") for t in (q, k, k)), **PLAIN, along="keys", parts=2
    )[0]
    assert budget.hard.isfinite().all() and budget.sigma.isfinite().all()
