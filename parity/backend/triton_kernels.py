"""Our Triton kernels: float32 inside, every result rounded once to the type of its tensor.

The one file that imports Triton, which decides while it is imported whether kernels are compiled or
interpreted: TRITON_INTERPRET must be set before. Tensors are dense. Does not launch; `torch_triton` does.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "add_rms_norm",
    "gated",
    "hstu_attention",
    "join",
    "norm_rotate",
    "rms_norm",
    "softmax",
    "version",
]


def version() -> str:
    """Return Triton's version."""
    return str(triton.__version__)


@triton.jit
def _read(pointers, mask):
    """Load as float32, 0 where masked.

    bf16 is widened by its bits: Triton's interpreter (3.9.0) makes other numbers of subnormal ones.
    """
    x = tl.load(pointers, mask=mask, other=0.0)
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def _write(pointers, y, mask):
    """Store float32 values rounded to nearest even in the type that is pointed to.

    bf16 is rounded in its bits: Triton's interpreter (3.9.0) truncates where compiled code rounds.
    """
    if pointers.dtype.element_ty == tl.bfloat16:
        bits = y.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # Adding would carry a NaN into infinity or zero.
        kept = tl.where(y != y, (bits >> 16) | 0x40, rounded)
        tl.store(pointers, kept.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=mask)
    else:
        tl.store(pointers, y.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def join(x, y, size, run, stride, offset, BLOCK: tl.constexpr):
    """Move x, in runs of `run` elements, to y, whose runs lie `stride` apart; a grid of blocks of x."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    moved = tl.load(x + place, mask=inside)
    tl.store(y + (place // run) * stride + offset + place % run, moved, mask=inside)


@triton.jit
def rms_norm(x, g, y, columns, eps, HAS_G: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program: x / sqrt(mean(x^2) + eps) g."""
    column = tl.arange(0, BLOCK)
    inside = column < columns
    place = tl.program_id(0).to(tl.int64) * columns + column
    row = _read(x + place, inside)
    n = row * tl.rsqrt(tl.sum(row * row, axis=0) / columns + eps)
    if HAS_G:
        n = n * _read(g + column, inside)
    _write(y + place, n, inside)


@triton.jit
def add_rms_norm(x, residual, g, total, y, columns, eps, BLOCK: tl.constexpr):
    """One row a program: s = x + residual is stored, and normalised as it is before it is rounded."""
    column = tl.arange(0, BLOCK)
    inside = column < columns
    place = tl.program_id(0).to(tl.int64) * columns + column
    s = _read(x + place, inside) + _read(residual + place, inside)
    _write(total + place, s, inside)
    n = s * tl.rsqrt(tl.sum(s * s, axis=0) / columns + eps)
    _write(y + place, n * _read(g + column, inside), inside)


@triton.jit
def softmax(x, y, size, inner, BLOCK: tl.constexpr):
    """One row a program: `size` elements that lie `inner` apart."""
    row = tl.program_id(0).to(tl.int64)
    along = tl.arange(0, BLOCK)
    inside = along < size
    place = (row // inner) * size * inner + row % inner + along * inner
    s = tl.where(inside, _read(x + place, inside), float("-inf"))
    e = tl.exp(s - tl.max(s, axis=0))
    _write(y + place, e / tl.sum(e, axis=0), inside)


@triton.jit
def _activate(x, KIND: tl.constexpr):
    if KIND == "silu":
        return x * tl.sigmoid(x)
    elif KIND == "gelu":
        return x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        # (1 + tanh a) / 2 is the sigmoid of 2 a.
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gated(gate, up, y, columns, stride, offset, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """A grid of rows and blocks: activation(gate) up, both in rows `stride` apart, up `offset` further."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    place = row * stride + column
    made = _activate(_read(gate + place, inside), KIND) * _read(up + place + offset, inside)
    _write(y + row * columns + column, made, inside)


@triton.jit
def norm_rotate(
    qkv, q_weight, k_weight, cos, sin, q, k, v, eps,
    H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one token a program; BLOCK holds half a head, of which HALF elements are there."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    inside = lane < HALF
    source = qkv + (token * (H + 2 * G) + head) * 2 * HALF + lane
    if head >= H + G:
        place = v + (token * G + head - H - G) * 2 * HALF + lane
        tl.store(place, tl.load(source, mask=inside), mask=inside)
        tl.store(place + HALF, tl.load(source + HALF, mask=inside), mask=inside)
    else:
        low, high = _read(source, inside), _read(source + HALF, inside)
        squares = tl.sum(low * low, axis=0) + tl.sum(high * high, axis=0)
        r = tl.rsqrt(squares / (2 * HALF) + eps)
        weight, place = q_weight + lane, q + (token * H + head) * 2 * HALF + lane
        if head >= H:
            weight, place = k_weight + lane, k + (token * G + head - H) * 2 * HALF + lane
        a, b = low * r * _read(weight, inside), high * r * _read(weight + HALF, inside)
        c, s = _read(cos + token * HALF + lane, inside), _read(sin + token * HALF + lane, inside)
        _write(place, a * c - b * s, inside)
        _write(place + HALF, b * c + a * s, inside)


@triton.jit
def hstu_attention(
    q, k, v, bias, y, tokens, scale, length,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one head a program, which goes through the keys up to its last query in tiles."""
    head = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane, column = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    is_query, is_lane, is_column = query < tokens, lane < D, column < E
    rows = _read(q + (query[:, None] * H + head) * D + lane[None, :], is_query[:, None] & is_lane[None, :])
    total = tl.zeros((ROWS, BLOCK_E), dtype=tl.float32)
    for start in range(0, tl.minimum((tl.program_id(0) + 1) * ROWS, tokens), KEYS):
        key = start + tl.arange(0, KEYS)
        is_key = key < tokens
        keys = _read(k + (key[:, None] * H + head) * D + lane[None, :], is_key[:, None] & is_lane[None, :])
        s = tl.dot(rows, tl.trans(keys), input_precision="ieee") * scale
        if HAS_BIAS:
            at = (head * tokens + query[:, None]) * tokens + key[None, :]
            s += _read(bias + at, is_query[:, None] & is_key[None, :])
        seen = (key[None, :] <= query[:, None]) & is_key[None, :]
        a = tl.where(seen, s * tl.sigmoid(s) / length, 0.0)
        values = _read(
            v + (key[:, None] * H + head) * E + column[None, :], is_key[:, None] & is_column[None, :]
        )
        total += tl.dot(a, values, input_precision="ieee")
    place = y + (query[:, None] * H + head) * E + column[None, :]
    _write(place, total, is_query[:, None] & is_column[None, :])
