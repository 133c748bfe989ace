"""What every op should give, in a few lines of numpy; `conftest.py` hands it out as `op_case`.

Ops whose definition rounds to float32 have inputs for which every intermediate is exact. As long
as the op table is.
"""

from __future__ import annotations

import math

import numpy as np

RNG = np.random.default_rng(3)
X = RNG.standard_normal((4, 6))
Y = RNG.standard_normal((6, 5))
Z = RNG.standard_normal((4, 6))
ROW = RNG.standard_normal(6)
BATCH_A, BATCH_B = RNG.standard_normal((3, 4, 6)), RNG.standard_normal((3, 6, 5))
SMALL = RNG.integers(-8, 8, (3, 64)).astype(float)
I8_X, I8_W = RNG.integers(-128, 128, (5, 7)), RNG.integers(-128, 128, (3, 7))
POWERS = 2.0 ** RNG.integers(-3, 3, 16)
PAIRS = RNG.integers(0, 256, (16, 32))
GROUPS = 2.0 ** RNG.integers(-3, 3, (16, 2))
Q, K, V = (
    RNG.standard_normal((1, 4, 3, 8)),
    RNG.standard_normal((1, 2, 5, 8)),
    RNG.standard_normal((1, 2, 5, 8)),
)
K_ALL, V_ALL = RNG.standard_normal((1, 4, 5, 8)), RNG.standard_normal((1, 4, 5, 8))


def exp_over_sum(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def erf(x):
    return np.vectorize(math.erf)(x)


def put(x, index, new, *, add=False):
    y = x.copy()
    (np.add.at if add else np.ndarray.__setitem__)(*((y, index, new)))
    return y


def attend(q, k, v, seen, scale):
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, groups, axis=1), np.repeat(v, groups, axis=1)
    scores = np.where(seen, q @ k.swapaxes(-1, -2) * scale, -np.inf)
    return exp_over_sum(scores) @ v


def rotate(x, positions, base, interleaved):
    half = x.shape[-1] // 2
    y = np.empty_like(x)
    for s, p in enumerate(positions):
        for i in range(half):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
            c, d = math.cos(p * base ** (-i / half)), math.sin(p * base ** (-i / half))
            y[..., s, a] = x[..., s, a] * c - x[..., s, b] * d
            y[..., s, b] = x[..., s, b] * c + x[..., s, a] * d
    return y


def nibbles(w):
    return np.stack((w & 15, w >> 4), -1).reshape(w.shape[0], -1) - 8.0


def convolve(x, w, stride, dilation, groups):
    """Every output by its definition; x is padded already."""
    taps, fan = w.shape[2:], w.shape[1]
    sizes = [(n - dilation * (t - 1) - 1) // stride + 1 for n, t in zip(x.shape[2:], taps, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *sizes))
    for out in range(w.shape[0]):
        first = out // (w.shape[0] // groups) * fan
        for at in np.ndindex(*sizes):
            window = tuple(
                slice(stride * i, stride * i + dilation * (t - 1) + 1, dilation)
                for i, t in zip(at, taps, strict=True)
            )
            read = x[(slice(None), slice(first, first + fan), *window)]
            y[(slice(None), out, *at)] = (read * w[out]).reshape(x.shape[0], -1).sum(-1)
    return y


SIGNAL, IMAGE = RNG.standard_normal((2, 4, 9)), RNG.standard_normal((2, 4, 5, 6))
TAPS, PATCH = RNG.standard_normal((6, 2, 3)), RNG.standard_normal((4, 2, 2, 3))
LAST_SEES_LAST = np.tri(3, 5, 2, dtype=bool)
WINDOW_2 = LAST_SEES_LAST & ~np.tri(3, 5, 0, dtype=bool)
NEAR = ~np.tri(3, 5, 0, dtype=bool)
MASK = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 0, 1]], bool)
ADDED = np.where(MASK, 0.0, -np.inf)
INDEX = RNG.integers(0, 4, (2, 6))
TIES = np.array([[2.0, 1, 2, 0], [3, 3, 3, 3]])
NO_WINDOW = {"window": None, "scale": None}
SCALE = 1 / math.sqrt(8)

# op: [(inputs as (values, dtype), attributes, expected outputs)]
EXPECTED = {
    "matmul": [([(X, "f64"), (Y, "f64")], {}, [X @ Y])],
    "bmm": [([(BATCH_A, "f64"), (BATCH_B, "f64")], {}, [BATCH_A @ BATCH_B])],
    "linear": [
        ([(X, "f64"), (Z, "f64")], {}, [X @ Z.T]),
        ([(X, "f64"), (Z, "f64"), (ROW[:4], "f64")], {}, [X @ Z.T + ROW[:4]]),
    ],
    "addmm": [([(Y[0], "f64"), (X, "f64"), (Y, "f64")], {"alpha": 2.0, "beta": 0.5}, [Y[0] / 2 + 2 * X @ Y])],
    "conv1d": [
        (
            [(SIGNAL, "f64"), (TAPS, "f64"), (ROW, "f64")],
            {"stride": 2, "padding": 1, "dilation": 1, "groups": 2, "causal": False},
            [convolve(np.pad(SIGNAL, ((0, 0), (0, 0), (1, 1))), TAPS, 2, 1, 2) + ROW[:, None]],
        ),
        *(
            (
                [(SIGNAL, "f64"), (TAPS, "f64")],
                {"stride": stride, "padding": 0, "dilation": 2, "groups": 2, "causal": True},
                [convolve(np.pad(SIGNAL, ((0, 0), (0, 0), (4, 0))), TAPS, stride, 2, 2)],
            )
            for stride in (1, 2)
        ),
    ],
    "conv2d": [
        (
            [(IMAGE, "f64"), (PATCH, "f64"), (ROW[:4], "f64")],
            {"stride": 1, "padding": 1, "dilation": 2, "groups": 2},
            [convolve(np.pad(IMAGE, ((0, 0), (0, 0), (1, 1), (1, 1))), PATCH, 1, 2, 2) + ROW[:4, None, None]],
        )
    ],
    "sum": [([(X, "f64")], {"dim": 0, "keepdim": True}, [X.sum(0, keepdims=True)])],
    "mean": [([(X, "f64")], {"dim": -1, "keepdim": False}, [X.mean(-1)])],
    "cumsum": [([(X, "f64")], {"dim": 1}, [X.cumsum(1)])],
    "logsumexp": [([(X, "f64")], {"dim": 1, "keepdim": False}, [np.log(np.exp(X).sum(1))])],
    "softmax": [([(X, "f64")], {"dim": 0}, [exp_over_sum(X, 0)])],
    "log_softmax": [([(X, "f64")], {"dim": -1}, [np.log(exp_over_sum(X))])],
    "rms_norm": [
        ([(X, "f64"), (ROW, "f64")], {"eps": 0.1}, [X / np.sqrt((X**2).mean(-1, keepdims=True) + 0.1) * ROW]),
        ([(X, "f64"), None], {"eps": 0.1}, [X / np.sqrt((X**2).mean(-1, keepdims=True) + 0.1)]),
    ],
    "layer_norm": [
        (
            [(X, "f64"), (ROW, "f64"), (Z[0], "f64")],
            {"eps": 0.1},
            [(X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 0.1) * ROW + Z[0]],
        ),
        (
            [(X, "f64"), None, None],
            {"eps": 0.1},
            [(X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 0.1)],
        ),
    ],
    "add": [([(X, "f64"), (ROW, "f64")], {}, [X + ROW])],
    "mul": [([(X, "f64"), (ROW, "f64")], {}, [X * ROW])],
    "div": [([(X, "f64"), (ROW, "f64")], {}, [X / ROW])],
    "erf": [([(X, "f64")], {}, [erf(X)])],
    "rsqrt": [([(X**2, "f64")], {}, [1 / np.abs(X)])],
    "exp": [([(X, "f64")], {}, [np.exp(X)])],
    "sigmoid": [([(X, "f64")], {}, [1 / (1 + np.exp(-X))])],
    "tanh": [([(X, "f64")], {}, [np.tanh(X)])],
    "silu": [([(X, "f64")], {}, [X / (1 + np.exp(-X))])],
    "gelu_erf": [([(X, "f64")], {}, [X / 2 * (1 + erf(X / math.sqrt(2)))])],
    "gelu_tanh": [
        ([(X, "f64")], {}, [X / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))])
    ],
    "swiglu": [([(X, "f64"), (Z, "f64")], {}, [X / (1 + np.exp(-X)) * Z])],
    "attention": [
        (
            [(Q, "f64"), (K, "f64"), (V, "f64")],
            {"causal": False, **NO_WINDOW},
            [attend(Q, K, V, True, SCALE)],
        ),
        (
            [(Q, "f64"), (K, "f64"), (V, "f64")],
            {"causal": True, "window": None, "scale": 0.7},
            [attend(Q, K, V, LAST_SEES_LAST, 0.7)],
        ),
        (
            [(Q, "f64"), (K[..., :3, :], "f64"), (V[..., :3, :], "f64")],
            {"causal": True, **NO_WINDOW},
            [attend(Q, K[..., :3, :], V[..., :3, :], np.tri(3, dtype=bool), SCALE)],
        ),
        (
            [(Q, "f64"), (K, "f64"), (V, "f64")],
            {"causal": True, "window": 2, "scale": None},
            [attend(Q, K, V, WINDOW_2, SCALE)],
        ),
        (
            [(Q, "f64"), (K_ALL, "f64"), (V_ALL, "f64")],
            {"causal": True, **NO_WINDOW},
            [attend(Q, K_ALL, V_ALL, LAST_SEES_LAST, SCALE)],
        ),
        (
            [(Q, "f64"), (K_ALL, "f64"), (V_ALL, "f64"), (MASK, "bool")],
            {"causal": False, "window": 2, "scale": None},
            [attend(Q, K_ALL, V_ALL, NEAR & MASK, SCALE)],
        ),
        (
            [(Q, "f64"), (K, "f64"), (V, "f64"), (MASK, "bool")],
            {"causal": True, **NO_WINDOW},
            [attend(Q, K, V, LAST_SEES_LAST & MASK, SCALE)],
        ),
        (
            [(Q, "f64"), (K, "f64"), (V, "f64"), (ADDED, "f64")],
            {"causal": True, **NO_WINDOW},
            [attend(Q, K, V, LAST_SEES_LAST & MASK, SCALE)],
        ),
    ],
    "rope": [
        (
            [(Q, "f64"), ([0, 5, 9], "i64")],
            {"base": 100.0, "interleaved": interleaved},
            [rotate(Q, [0, 5, 9], 100.0, interleaved)],
        )
        for interleaved in (False, True)
    ]
    + [
        (
            [(np.stack((Q[0], Q[0])), "f64"), ([[0, 5, 9], [1, 2, 3]], "i64")],
            {"base": 100.0, "interleaved": False},
            [np.stack((rotate(Q[0], [0, 5, 9], 100.0, False), rotate(Q[0], [1, 2, 3], 100.0, False)))],
        )
    ],
    "embedding": [([(X, "f64"), ([[3, 0], [1, 1]], "i64")], {}, [X[np.array([[3, 0], [1, 1]])]])],
    "gather": [([(X, "f64"), (INDEX, "i64")], {"dim": 0}, [np.take_along_axis(X, INDEX, 0)])],
    "index": [([(X, "f64"), ([[3, -1], [-4, 1]], "i64")], {}, [X[np.array([[3, 3], [0, 1]])]])],
    "index_put": [
        (
            [(X, "f64"), ([1, 3], "i64"), (Z[:2], "f64")],
            {"accumulate": False},
            [put(X, [1, 3], Z[:2])],
        ),
        (
            [(X, "f64"), ([1, 1], "i64"), (Z[:2], "f64")],
            {"accumulate": True},
            [put(X, [1, 1], Z[:2], add=True)],
        ),
    ],
    "scatter_add": [
        (
            [(X, "f64"), (INDEX, "i64"), (Z[:2], "f64")],
            {"dim": 0},
            [put(X, (INDEX, np.arange(6)[None]), Z[:2], add=True)],
        )
    ],
    "where": [
        ([(MASK, "bool"), (X[:3, :5], "f64"), (Z[:3, :5], "f64")], {}, [np.where(MASK, X[:3, :5], Z[:3, :5])])
    ],
    "cat": [([(X, "f64"), (Z, "f64"), (X, "f64")], {"dim": -1}, [np.concatenate((X, Z, X), -1)])],
    "slice": [
        ([(X, "f64")], {"index": "x[..., ::2]"}, [X[..., ::2]]),
        ([(X, "f64")], {"index": "x[1:, None, -2]"}, [X[1:, None, -2]]),
        ([(X, "f64")], {"index": "x[[0, -1]]"}, [X[[0, -1]]]),
    ],
    "slice_assign": [
        (
            [(X, "f64"), (Z[:, :3], "f64")],
            {"index": "x[..., ::2]"},
            [put(X, (..., slice(None, None, 2)), Z[:, :3])],
        )
    ],
    "tril": [([(X, "f64")], {"diagonal": -1}, [np.tril(X, -1)])],
    "triu": [([(X, "f64")], {"diagonal": 2}, [np.triu(X, 2)])],
    "triu_indices": [([], {"rows": 3, "columns": 4, "offset": 1}, [np.stack(np.triu_indices(3, 1, 4))])],
    "topk": [
        ([(X, "f64")], {"k": 2, "dim": 0, "largest": False}, [np.sort(X, 0)[:2], np.argsort(X, 0)[:2]]),
        ([(X, "f64")], {"k": 3, "dim": 1, "largest": True}, [-np.sort(-X)[:, :3], np.argsort(-X)[:, :3]]),
    ],
    "argmax": [([(X, "f64")], {"dim": 1, "keepdim": True}, [X.argmax(1)[:, None]])],
    "sort": [
        (
            [(TIES, "f64")],
            {"dim": -1, "descending": True, "stable": True},
            [-np.sort(-TIES), np.argsort(-TIES, kind="stable")],
        ),
        ([(X, "f64")], {"dim": 0, "descending": False, "stable": False}, [np.sort(X, 0), np.argsort(X, 0)]),
    ],
    "cast": [([(X, "f64")], {"to": "f32"}, [X.astype(np.float32)]), ([(TIES, "f64")], {"to": "i8"}, [TIES])],
    "int8_linear": [
        (
            [(I8_X, "i8"), (I8_W, "i8"), (POWERS[:5], "f32"), (POWERS[:3], "f32")],
            {"out": "f32"},
            [(I8_X @ I8_W.T) * POWERS[:5, None] * POWERS[:3]],
        ),
        (
            [(I8_X, "i8"), (I8_W, "i8"), (POWERS[:1], "f32"), (POWERS[:1], "f32")],
            {"out": "f32"},
            [(I8_X @ I8_W.T) * POWERS[0] ** 2],
        ),
    ],
    # The packed kernel takes 16-wide f32; a row of 7 is dequantised.
    "int8_weight_linear": [
        (
            [(SMALL[:, :n], "f32"), (np.tile(I8_W, (4, 10))[:, :n], "i8"), (POWERS[:12], "f32")],
            {},
            [SMALL[:, :n] @ (np.tile(I8_W, (4, 10))[:, :n] * POWERS[:12, None]).T],
        )
        for n in (64, 7)
    ],
    # The packed kernel takes 16 rows; 3 are dequantised.
    "int4_weight_linear": [
        (
            [(SMALL, "f32"), (PAIRS[:rows], "u8"), (GROUPS[:rows], "f32")],
            {"group": 32},
            [SMALL @ (nibbles(PAIRS[:rows]) * GROUPS[:rows].repeat(32, -1)).T],
        )
        for rows in (16, 3)
    ],
}
