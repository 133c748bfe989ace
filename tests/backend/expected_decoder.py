"""What every op of a decoder should give, by loops; `conftest.py` hands it out with `expected`."""

from __future__ import annotations

import math

import numpy as np

RNG = np.random.default_rng(5)
X = RNG.standard_normal((4, 6))
ROW = RNG.standard_normal(6)
HEADS = RNG.standard_normal((3, 2, 6))
ANGLES = RNG.uniform(0, 6, (3, 2))
# Two requests: two tokens behind one cached, and one alone; seven slots, of which two are nobody's.
SLOTS, SEGMENTS = [5, 0, 3, 6], [[0, 2, 1], [2, 1, 0]]
Q, KEYS, VALUES = (
    RNG.standard_normal((3, 4, 5)),
    RNG.standard_normal((7, 2, 5)),
    RNG.standard_normal((7, 2, 3)),
)
KEYS[[1, 2, 4]], VALUES[[1, 2, 4]] = np.nan, np.nan
LATENT_Q, LATENTS, MADE = (
    RNG.standard_normal((3, 2, 5)),
    RNG.standard_normal((7, 6)),
    RNG.standard_normal((12, 4)),
)
LATENTS[[1, 2, 4]] = np.nan
W, BIAS = RNG.standard_normal((8, 6)), RNG.standard_normal(8)
UP, DOWN = RNG.standard_normal((3, 8, 6)), RNG.standard_normal((3, 6, 4))
WEIGHTS, CHOSEN = RNG.uniform(0, 1, (4, 2)), np.array([[0, 2], [2, 1], [1, 0], [2, 0]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def activate(x, kind):
    if kind == "silu":
        return x * sigmoid(x)
    if kind == "gelu":
        return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def normed(x, g, eps, offset):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (g + offset)


def turned(x, angles, interleaved):
    y = x.copy()
    half = angles.shape[1]
    for t in range(len(x)):
        for i in range(half):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
            c, s = math.cos(angles[t, i]), math.sin(angles[t, i])
            y[t, :, a] = x[t, :, a] * c - x[t, :, b] * s
            y[t, :, b] = x[t, :, b] * c + x[t, :, a] * s
    return y


def attended(q, keys, values, *, scale, window=None, softcap=None, slots=SLOTS, segments=SEGMENTS):
    """One query, head and key at a time; keys and values [slots, heads, …]."""
    y, first = np.zeros((*q.shape[:2], values.shape[-1])), 0
    for start, length, context in segments:
        for t in range(length):
            place = context + t
            seen = [j for j in range(place + 1) if window is None or j > place - window]
            for h in range(q.shape[1]):
                g = h * keys.shape[1] // q.shape[1]
                held = [slots[first + j] for j in seen]
                s = np.array([scale * q[start + t, h] @ keys[slot, g] for slot in held])
                s = s if softcap is None else softcap * np.tanh(s / softcap)
                p = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
                y[start + t, h] = sum(w * values[slot, g] for w, slot in zip(p, held, strict=True))
        first += context + length
    return y


def of_latents(q, latents, w, *, nope, scale):
    heads, latent = q.shape[1], w.shape[1]
    made = (latents[:, :latent] @ w.T).reshape(len(latents), heads, -1)
    shared = np.repeat(latents[:, None, latent:], heads, 1)
    return attended(q, np.concatenate((made[..., :nope], shared), -1), made[..., nope:], scale=scale)


def routed(x, w, bias, *, top, scores, groups, top_groups, group_best, normalise, scale, wide):
    logits = x @ w.T
    s = sigmoid(logits) if scores == "sigmoid" else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weights, chosen = [], []
    for row in s:
        rank = row if bias is None else row + bias
        parts = np.split(np.arange(len(rank)), groups)
        best = sorted(parts, key=lambda part: -np.sort(rank[part])[-group_best:].sum())[:top_groups]
        ids = sorted(np.concatenate(best), key=lambda e: -rank[e])[:top]
        weights.append(row[ids] / (row[ids].sum() if normalise else 1) * scale)
        chosen.append(ids)
    return [np.array(weights), np.array(chosen)]


def mixed(x, weights, chosen, up, down, activation):
    y = np.zeros_like(x)
    for t in range(len(x)):
        for w, e in zip(weights[t], chosen[t], strict=True):
            gate, high = np.split(up[e] @ x[t], 2)
            y[t] += w * (down[e] @ (activate(gate, activation) * high))
    return y


ATTEND = {"scale": 0.7, "window": None, "softcap": None}
ROUTE = {
    "top": 2,
    "scores": "softmax",
    "groups": 1,
    "top_groups": 1,
    "group_best": 1,
    "normalise": True,
    "scale": 1.0,
    "wide": False,
}
GROUPED = ROUTE | {"scores": "sigmoid", "groups": 4, "top_groups": 2, "group_best": 2, "scale": 2.5}
KINDS = ("silu", "gelu", "gelu_pytorch_tanh")

EXPECTED = {
    "copy": [([(X, "f64")], {}, [X])],
    "reshape": [([(X, "f64")], {"shape": "2x3x4"}, [X.reshape(2, 3, 4)])],
    "weighted_rms_norm": [
        (
            [(X, "f64"), (ROW, "f64")],
            {"eps": 0.1, "offset": offset, "rounds_first": first},
            [normed(X, ROW, 0.1, offset)],
        )
        for offset, first in ((0.0, True), (1.0, False))
    ],
    "rotate": [
        (
            [(HEADS[..., :n], "f64"), (np.cos(ANGLES), "f64"), (np.sin(ANGLES), "f64")],
            {"interleaved": interleaved},
            [turned(HEADS[..., :n], ANGLES, interleaved)],
        )
        for n in (4, 6)
        for interleaved in (False, True)
    ],
    "gated": [([(X, "f64")], {"activation": kind}, [activate(X[:, :3], kind) * X[:, 3:]]) for kind in KINDS],
    "softcap": [([(X, "f64")], {"cap": 0.5}, [0.5 * np.tanh(X / 0.5)])],
    "scaled_embedding": [
        ([(X, "f64"), ([3, 0, 3], "i64")], {"scale": scale}, [X[[3, 0, 3]] * scale]) for scale in (1.0, 4.9)
    ],
    "paged_attention": [
        (
            [(Q, "f64"), (KEYS, "f64"), (VALUES, "f64"), (SLOTS, "i64"), (SEGMENTS, "i64")],
            ATTEND | attrs,
            [attended(Q, KEYS, VALUES, **(ATTEND | attrs))],
        )
        for attrs in ({}, {"window": 1}, {"window": 2, "softcap": 0.5})
    ],
    "latent_attention": [
        (
            [(LATENT_Q, "f64"), (LATENTS, "f64"), (MADE, "f64"), (SLOTS, "i64"), (SEGMENTS, "i64")],
            {"nope": 3, "scale": 0.6, "absorbed": absorbed},
            [of_latents(LATENT_Q, LATENTS, MADE, nope=3, scale=0.6)],
        )
        for absorbed in (False, True)
    ],
    "route": [
        (
            [(X, "f64"), (W, "f64"), None if bias is None else (bias, "f64")],
            attrs,
            routed(X, W, bias, **attrs),
        )
        for bias, attrs in (
            (None, ROUTE),
            (BIAS, GROUPED),
            (None, ROUTE | {"normalise": False, "wide": True}),
        )
    ],
    "experts": [
        (
            [(X, "f64"), (WEIGHTS, "f64"), (CHOSEN, "i64"), (UP, "f64"), (DOWN, "f64")],
            {"activation": kind},
            [mixed(X, WEIGHTS, CHOSEN, UP, DOWN, kind)],
        )
        for kind in KINDS
    ],
}
