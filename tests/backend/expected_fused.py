"""What every fused op should give, by loops; `conftest.py` hands it out with `expected`."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(9)
X, RESIDUAL, ROW = RNG.standard_normal((4, 6)), RNG.standard_normal((4, 6)), RNG.standard_normal(6)
# 3 tokens; 4 heads of q, 2 of k and of v, of 6 elements.
QKV, ANGLES = RNG.standard_normal((3, 8 * 6)), RNG.uniform(0, 6, (3, 3))
Q_WEIGHT, K_WEIGHT = RNG.standard_normal(6), RNG.standard_normal(6)
Q, K, V, BIAS = (RNG.standard_normal(shape) for shape in ((5, 2, 4), (5, 2, 4), (5, 2, 3), (2, 5, 5)))


def normed(row, weight):
    return row / np.sqrt((row**2).mean() + 0.1) * weight


def turned(row, angles):
    y, half = row.copy(), len(angles)
    for i, angle in enumerate(angles):
        y[i] = row[i] * np.cos(angle) - row[i + half] * np.sin(angle)
        y[i + half] = row[i + half] * np.cos(angle) + row[i] * np.sin(angle)
    return y


def heads(first, count, weight):
    """Heads of QKV from `first` on, one at a time; without a weight as they are."""
    y = np.zeros((3, count, 6))
    for t in range(3):
        for h in range(count):
            row = QKV[t, (first + h) * 6 : (first + h + 1) * 6]
            y[t, h] = row if weight is None else turned(normed(row, weight), ANGLES[t])
    return y


def attended(bias):
    y = np.zeros((5, 2, 3))
    for i in range(5):
        for h in range(2):
            for j in range(i + 1):
                s = 0.5 * Q[i, h] @ K[j, h] + (0 if bias is None else bias[h, i, j])
                y[i, h] += s / (1 + np.exp(-s)) / 7 * V[j, h]
    return y


EXPECTED = {
    "add_rms_norm": [
        (
            [(X, "f64"), (RESIDUAL, "f64"), (ROW, "f64")],
            {"eps": 0.1},
            [X + RESIDUAL, np.stack([normed(row, ROW) for row in X + RESIDUAL])],
        )
    ],
    "norm_rotate": [
        (
            [
                *((QKV, "f64"), (Q_WEIGHT, "f64"), (K_WEIGHT, "f64")),
                *((np.cos(ANGLES), "f64"), (np.sin(ANGLES), "f64")),
            ],
            {"heads": 4, "kv_heads": 2, "eps": 0.1},
            [heads(0, 4, Q_WEIGHT), heads(4, 2, K_WEIGHT), heads(6, 2, None)],
        )
    ],
    "hstu_attention": [
        (
            [(Q, "f64"), (K, "f64"), (V, "f64"), None if bias is None else (bias, "f64")],
            {"scale": 0.5, "length": 7},
            [attended(bias)],
        )
        for bias in (None, BIAS)
    ],
}
