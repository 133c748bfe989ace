"""What functions, divisions, moments and ranges should give; `conftest.py` hands it out with `expected`.

Inputs of the divisions have few bits, so that every quotient beside a whole number is one.
"""

from __future__ import annotations

import math

import numpy as np

RNG = np.random.default_rng(11)
X = RNG.standard_normal((4, 6))
POSITIVE = np.abs(X) + 0.25
A, B = RNG.integers(-40, 41, (4, 6)) / 4, RNG.choice([-1.5, -0.5, 0.5, 0.75, 2.0], (4, 6))
WHOLE_A, WHOLE_B = RNG.integers(-99, 100, (4, 6)), RNG.choice([-7, -2, 3, 5], (4, 6))
CHANNELS = RNG.standard_normal((2, 6, 5))
GAIN, BIAS = RNG.standard_normal(6), RNG.standard_normal(6)
TIES = np.array([[2.0, 1.0, 2.0, 1.0], [0.0, 5.0, 5.0, -5.0]])
LONG = RNG.standard_normal((1, 2, 3, 8))


def one(function, x=X):
    return [([(x, "f64")], {}, [np.vectorize(function)(x)])]


def two(function, a=A, b=B, name="f64"):
    return ([(a, name), (b, name)], {}, [function(a, b)])


def group_norm(x, groups, g, b, eps):
    y = np.empty_like(x)
    size = x.shape[1] // groups
    for n in range(x.shape[0]):
        for first in range(0, x.shape[1], size):
            part = x[n, first : first + size]
            y[n, first : first + size] = (part - part.mean()) / math.sqrt(part.var() + eps)
    return y * g[:, None] + b[:, None]


def rope_partial(x, positions, base, turned):
    """Interleaved pairs of the first dimensions, one angle at a time."""
    y = x.copy()
    for t, position in enumerate(positions):
        for i in range(turned // 2):
            c, s = (f(position * base ** (-2 * i / turned)) for f in (math.cos, math.sin))
            first, second = x[..., t, 2 * i], x[..., t, 2 * i + 1]
            y[..., t, 2 * i], y[..., t, 2 * i + 1] = first * c - second * s, second * c + first * s
    return y


EXPECTED = {
    "sqrt": one(math.sqrt, POSITIVE),
    "reciprocal": one(lambda x: 1 / x, POSITIVE),
    "relu_squared": one(lambda x: max(x, 0.0) ** 2),
    "softplus": one(lambda x: math.log1p(math.exp(x))),
    "expm1": one(math.expm1),
    "log": one(math.log, POSITIVE),
    "log1p": one(math.log1p, POSITIVE),
    "sin": one(math.sin),
    "cos": one(math.cos),
    "pow": [two(np.power, POSITIVE, X[:1]), two(np.power, X, np.array(2.0))],
    "pow_scalar": [([(X, "f64")], {"exponent": n}, [X**n]) for n in (2, 3, -1)]
    + [([(POSITIVE, "f64")], {"exponent": 0.5}, [np.sqrt(POSITIVE)])],
    "sub": [two(np.subtract), two(np.subtract, WHOLE_A, WHOLE_B[:1], "i64")],
    "floor_divide": [two(np.floor_divide), two(np.floor_divide, WHOLE_A, WHOLE_B, "i64")],
    "trunc_divide": [
        two(lambda a, b: np.trunc(a / b)),
        two(lambda a, b: np.trunc(a / b), WHOLE_A, WHOLE_B, "i64"),
    ],
    "remainder": [two(np.mod), two(np.mod, WHOLE_A, WHOLE_B, "i64")],
    "var": [
        ([(X, "f64")], {"dim": 1, "keepdim": False, "correction": 1}, [X.var(1, ddof=1)]),
        ([(X, "f64")], {"dim": 0, "keepdim": True, "correction": 0}, [X.var(0, keepdims=True)]),
    ],
    "norm": [([(X, "f64")], {"dim": -1, "keepdim": True}, [np.linalg.norm(X, axis=-1, keepdims=True)])],
    "group_norm": [
        (
            [(CHANNELS, "f64"), (GAIN, "f64"), (BIAS, "f64")],
            {"groups": 3, "eps": 1e-5},
            [group_norm(CHANNELS, 3, GAIN, BIAS, 1e-5)],
        ),
        (
            [(CHANNELS, "f64")],
            {"groups": 1, "eps": 1e-5},
            [group_norm(CHANNELS, 1, GAIN * 0 + 1, BIAS * 0, 1e-5)],
        ),
    ],
    "cumprod": [([(X, "f64")], {"dim": 1}, [X.cumprod(1)]), ([(X, "f64")], {"dim": 0}, [X.cumprod(0)])],
    "amax": [([(X, "f64")], {"dim": 1, "keepdim": False}, [X.max(1)])],
    "amin": [([(X, "f64")], {"dim": 0, "keepdim": True}, [X.min(0, keepdims=True)])],
    "max": [([(X, "f64")], {"dim": 1, "keepdim": False}, [X.max(1), X.argmax(1)])],
    "min": [([(X, "f64")], {"dim": 0, "keepdim": True}, [X.min(0, keepdims=True), X.argmin(0)[None]])],
    "argsort": [
        (
            [(TIES, "f64")],
            {"dim": -1, "descending": True, "stable": True},
            [np.argsort(-TIES, kind="stable")],
        ),
        ([(X, "f64")], {"dim": 0, "descending": False, "stable": False}, [np.argsort(X, 0)]),
    ],
    "arange": [
        ([], {"start": 3, "end": -9, "step": -2, "out": "i64"}, [np.arange(3, -9, -2)]),
        ([], {"start": 0.5, "end": 3.0, "step": 0.25, "out": "f32"}, [np.arange(0.5, 3.0, 0.25)]),
    ],
    "linspace": [([], {"start": -1.0, "end": 3.0, "steps": 9, "out": "f32"}, [np.linspace(-1, 3, 9)])],
    "one_hot": [([([[1, 0], [3, 3]], "i64")], {"classes": 4}, [np.eye(4)[[[1, 0], [3, 3]]]])],
    "tril_indices": [([], {"rows": 4, "columns": 3, "offset": 1}, [np.stack(np.tril_indices(4, 1, 3))])],
    "meshgrid": [
        (
            [(X[0], "f64"), (X[:, 0], "f64")],
            {"indexing": order},
            list(np.meshgrid(X[0], X[:, 0], indexing=order)),
        )
        for order in ("ij", "xy")
    ],
    "rope_partial": [
        (
            [(LONG, "f64"), ([0, 5, 77], "i64")],
            {"base": 10000.0, "interleaved": True, "turned": 4},
            [rope_partial(LONG, [0, 5, 77], 10000.0, 4)],
        )
    ],
}
