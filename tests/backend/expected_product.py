"""What scaled, grouped, routed and split products should give, by loops; `conftest.py` hands it out."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(17)
# Quarters up to 2: every 8-bit float of 2 bits of mantissa holds them, and float32 every sum of products.
X, W = RNG.integers(-8, 9, (3, 8)) / 4, RNG.integers(-8, 9, (5, 8)) / 4
POWERS = 2.0 ** RNG.integers(-2, 3, 8)
ROWS, COLUMNS = POWERS[:3, None], POWERS[3:, None]
BY_ROW, BY_COLUMN = 2.0 ** RNG.integers(-2, 3, (3, 2)), 2.0 ** RNG.integers(-2, 3, (2, 2))
CODES = RNG.integers(124, 131, (8, 2))
GROUPED, MATRICES = RNG.integers(-8, 9, (6, 4)) / 4, RNG.integers(-8, 9, (4, 4, 3)) / 4
ENDS = [2, 2, 3, 5]
ROUTED, EXPERTS = RNG.integers(-8, 9, (4, 6)) / 4, RNG.integers(-8, 9, (3, 5, 6)) / 4
CHOSEN = np.array([[0, 2], [1, 0], [2, 1], [0, 1]])
Q, K, V = (RNG.standard_normal((1, 4, 3, 8)), *RNG.standard_normal((2, 1, 2, 5, 8)))


def scaled(x, w, by_row, by_column):
    """Every element by its definition, scales as functions of a row and a place in it."""
    y = np.zeros((len(x), len(w)))
    for (t, n), _ in np.ndenumerate(y):
        y[t, n] = sum(x[t, i] * by_row(t, i) * w[n, i] * by_column(n, i) for i in range(x.shape[1]))
    return y


def power(row, i):
    return 2.0 ** (CODES[row, i // 4] - 127.0)


def grouped():
    y, start = np.zeros((6, 3)), 0
    for end, matrix in zip(ENDS, MATRICES, strict=True):
        y[start:end] = GROUPED[start:end] @ matrix
        start = end
    return y


def attended(seen):
    y = np.zeros(Q.shape)
    for head, query in np.ndindex(4, 3):
        own = head // 2
        weights = np.exp(K[0, own] @ Q[0, head, query] / np.sqrt(8)) * seen[query]
        y[0, head, query] = weights @ V[0, own] / weights.sum()
    return y


SEEN = np.tri(3, 5, 2, dtype=bool)
PARTS = [("heads", 3), ("queries", 2), ("keys", 2), ("keys", 7)]

# op: [(inputs as (values, dtype), attributes, expected outputs)]
EXPECTED = {
    **{
        op: [
            (
                [(X, "e5m2"), (W, "e4m3fn"), (ROWS, "f32"), (COLUMNS, "f32")],
                {"out": "f32"},
                [scaled(X, W, lambda t, _: ROWS[t, 0], lambda n, _: COLUMNS[n, 0])],
            ),
            (
                [(X, "e4m3fn"), (W, "e4m3fn"), (np.array(0.5), "f32"), (COLUMNS, "f32")],
                {"out": "f32"},
                [scaled(X, W, lambda *_: 0.5, lambda n, _: COLUMNS[n, 0])],
            ),
        ]
        for op in ("scaled_mm", "dequantised_mm")
    },
    "block_scaled_mm": [
        (
            [(X, "e4m3fn"), (W, "e4m3fn"), (BY_ROW, "f32"), (BY_COLUMN, "f32")],
            {"block": 4, "block_rows": 3, "out": "f32"},
            [scaled(X, W, lambda t, i: BY_ROW[t, i // 4], lambda n, i: BY_COLUMN[n // 3, i // 4])],
        ),
        (
            [(X, "e5m2"), (W, "e4m3fn"), (CODES[:3], "u8"), (CODES[3:], "u8")],
            {"block": 4, "block_rows": 1, "out": "f32"},
            [scaled(X, W, power, lambda n, i: power(3 + n, i))],
        ),
    ],
    "grouped_mm": [([(GROUPED, "f64"), (MATRICES, "f64"), (np.array(ENDS), "i32")], {}, [grouped()])],
    "routed_mm": [
        (
            [(ROUTED, "f64"), (CHOSEN, "i64"), (EXPERTS, "f64")],
            {},
            [np.array([[EXPERTS[e] @ x for e in row] for x, row in zip(ROUTED, CHOSEN, strict=True)])],
        )
    ],
    "split_attention": [
        (
            [(Q, "f64"), (K, "f64"), (V, "f64")],
            {"causal": causal, "window": None, "scale": None, "along": along, "parts": parts},
            [attended(SEEN if causal else np.ones((3, 5)))],
        )
        for along, parts in PARTS
        for causal in (False, True)
    ],
}
