"""The right formula in less precision: operands, sums, parts of sums, intermediates.

What was rounded on its way in is computed again with the same rounding and fits to the bit; how far off a
sum in a narrow type is depends on its order, which is guessed first and then left open.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from parity.backend.profile import Accumulator
from parity.case.dtype import DTYPES, DType
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Expected
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, floats, hypothesis, only, replaced
from parity.localize.hypotheses_rounding import BITS, kept_bits, nearest, truncated

__all__ = ["factors", "low_sums"]

_Finish = Callable[[Tensor], Tensor]
_SUMS = ("matmul", "bmm", "linear", "addmm", "sum", "mean", "cumsum", "conv1d", "conv2d")
_POINTWISE = (
    "add", "div", "erf", "exp", "gated", "gelu_erf", "gelu_tanh", "mul", "rope", "rotate", "rsqrt",
    "scaled_embedding", "sigmoid", "silu", "softcap", "swiglu", "tanh",
)  # fmt: skip
# Bits that a tensor core of the H100 keeps of partial sums in fp8, as DeepSeek-V3 (2412.19437) reports.
_SHORT = dataclasses.replace(DTYPES["f32"], name="14 bits", mantissa_bits=13, max_code=(255 << 13) - 1)
_NARROW = (DTYPES["bf16"], DTYPES["f16"], _SHORT)
# How many terms are added exactly before the sum is rounded.
_CHUNKS = (1, 8, 16, 32, 64, 128, 256)


@hypothesis()
def _inputs(asked: Asked) -> Iterator[Guess]:
    if not any(isinstance(e, Budget) for e in asked.right):
        return
    which = floats(asked)[:4]
    for name, rounded in _roundings(asked):
        for chosen in [which] if len(which) < 2 else [which, *([i] for i in which)]:
            changes = {i: asked.like(i, rounded(asked.x(i))) for i in chosen}
            if all(_same(asked, i, t) for i, t in changes.items()):
                continue
            inputs = "all inputs" if len(chosen) == len(which) > 1 else f"input {chosen[0]}"
            text = f"{inputs} {name}"
            yield Guess(kind=CauseKind.INPUTS_ROUNDED, text=text, expected=asked.ask(inputs=changes))


@hypothesis("linear", "matmul", "bmm")
def _split(asked: Asked) -> Iterator[Guess]:
    """Operands in two bf16 parts each, as matrix units without float32 take them."""
    if any(asked.inputs[i] is None or asked.inputs[i].dtype.name != "f32" for i in (0, 1)):  # type: ignore[union-attr]  # None is looked at first
        return
    parts = []
    for number in (0, 1):
        high = nearest(asked.x(number), "bf16")
        parts.append((high, nearest(asked.x(number) - high, "bf16")))
    read = {number: asked.like(number, high + low) for number, (high, low) in enumerate(parts)}
    (made,) = asked.ask(inputs=read)
    if not isinstance(made, Budget):
        return
    left, right = parts[0][1], parts[1][1]
    lost = left @ (right.mT if asked.op == "linear" else right)
    expected = (dataclasses.replace(made, value=made.value - lost),)
    text = "operands were split in two bf16 parts each, low times low left out"
    yield Guess(kind=CauseKind.INPUTS_ROUNDED, text=text, expected=expected)


def _same(asked: Asked, number: int, tensor: HostTensor) -> bool:
    return bool((to_float64(tensor) == asked.x(number)).all())


def _roundings(asked: Asked) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    widest = max((asked.inputs[i].dtype.mantissa_bits for i in floats(asked)), default=0)  # type: ignore[union-attr]  # floats() are there
    for name in ("tf32", "bf16", "f16", "e4m3fn", "e5m2"):
        bits = BITS[name] - 1 if name in BITS else DTYPES[name].mantissa_bits
        if bits < widest:
            yield f"rounded to {name}", functools.partial(nearest, to=name)
            if name in {"tf32", "bf16"}:
                yield f"truncated to {name}", functools.partial(truncated, to=name)
    for name, largest in (("e4m3fn", 448.0), ("i8", 127.0)):
        yield (
            f"rounded to {name} with a scale a row",
            functools.partial(_quantised, name=name, largest=largest, rows=True),
        )
        yield (
            f"rounded to {name} with one scale",
            functools.partial(_quantised, name=name, largest=largest, rows=False),
        )


def _quantised(x: Tensor, *, name: str, largest: float, rows: bool) -> Tensor:
    size = x.abs().amax(-1, keepdim=True) if rows and x.ndim else x.abs().max()
    scale = torch.where(size > 0, size, 1.0) / largest
    return ((x / scale).round() if name == "i8" else nearest(x / scale, name)) * scale


@hypothesis()
def _kept_low(asked: Asked) -> Iterator[Guess]:
    """Everything that the oracle's class charges to the accumulator happened in a narrower one."""
    if not any(isinstance(e, Budget) for e in asked.right):
        return
    kind, what = CauseKind.ACCUMULATION, "sums were"
    if asked.op in _POINTWISE:
        kind, what = CauseKind.INTERMEDIATE, "intermediates were"
    if asked.op in {"softmax", "log_softmax"}:
        kind, what = CauseKind.DENOMINATOR, "the denominator was"
    for dtype in _NARROW:
        for block in (1,) if asked.op in _POINTWISE else (1, 32):
            accumulator = Accumulator(dtype=dtype, block=block)
            declared = tuple(d for d in asked.profile.declared if d.fact != "accumulates_in")
            profile = dataclasses.replace(asked.profile, accumulator=accumulator, declared=declared)
            text = f"{what} kept in {dtype}"
            expected = tuple(
                _unfree(e, r) for e, r in zip(asked.ask(profile=profile), asked.right, strict=True)
            )
            # Dearer than an emulation that fits to the bit: it allows any error of that size.
            yield Guess(kind=kind, text=text, expected=expected, cost=5.0, whole=True, most=True, noise=True)


def _unfree(expected: Expected, right: Expected) -> Expected | None:
    if isinstance(expected, Budget) and isinstance(right, Budget):
        return dataclasses.replace(expected, free=right.free)
    return None


@hypothesis(
    "softmax",
    "rms_norm",
    "weighted_rms_norm",
    "layer_norm",
    "attention",
    "paged_attention",
    "latent_attention",
)
def _row_sums(asked: Asked) -> Iterator[Guess]:
    """One sum a row was kept in a narrow type: each row is off by a factor of its own, none by much."""
    right = asked.right[0]
    if not isinstance(right, Budget):
        return
    value, got = right.value, to_float64(asked.got[0])
    good = value.isfinite() & got.isfinite()
    v, g = torch.where(good, value, 0.0), torch.where(good, got, 0.0)
    squares = v.square().sum(-1, keepdim=True)
    factors = torch.where(squares > 0, (v * g).sum(-1, keepdim=True) / squares, 1.0)
    off = (factors - 1).abs()
    terms = asked.x(1).shape[-2] if asked.op == "attention" else asked.x(0).shape[-1]
    norm = asked.op.endswith("norm")
    kind = CauseKind.ACCUMULATION if norm else CauseKind.DENOMINATOR
    what = "the mean of squares" if norm else "the denominator"
    for dtype in _NARROW:
        u = dtype.unit_roundoff
        if float(off.max()) > 0.5 * max(terms, 8) * u or float(off.median()) > 3 * u * max(terms, 8) ** 0.5:
            continue
        low, high = float(1 / factors.max()), float(1 / factors.min())
        text = f"{what} was summed in {dtype} (row sums {low:.4g} to {high:.4g} of the right ones)"
        expected = replaced(right, value * factors, factor=factors)
        # Cheaper than factors of any size.
        price = max(math.log(u / right.dtype.unit_roundoff), 0.0) / 2 + 3.5
        cost = factors.numel() * price
        yield Guess(kind=kind, text=text, expected=only(asked, 0, expected), cost=cost, most=True)


@hypothesis(*_SUMS)
def _emulated(asked: Asked) -> Iterator[Guess]:
    right = asked.right[0]
    pair = factors(asked)
    if pair is None or not isinstance(right, Budget):
        return
    a, b, finish = pair
    for value, kind, text in low_sums(a, b):
        expected = replaced(right, finish(value))
        yield Guess(kind=kind, text=text, expected=only(asked, 0, expected))


def low_sums(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, CauseKind, str]]:
    """Yield a b for [..., M, K] and [..., K, N] with its sums, or sums of parts, kept narrower."""
    terms = a.shape[-1]
    for chunk in (c for c in _CHUNKS if c < terms):
        steps = -(-terms // chunk)
        if steps * a[..., 0].numel() * b.shape[-1] > 2**24:
            continue
        parts = [a[..., k : k + chunk] @ b[..., k : k + chunk, :] for k in range(0, terms, chunk)]
        for dtype in _NARROW:
            bits = dtype.mantissa_bits + 1
            total = torch.zeros_like(parts[0])
            for part in parts:
                total = _limited(kept_bits(total + part, bits), dtype)
            text = f"sums were kept in {dtype}, {chunk} terms at a time"
            yield total, CauseKind.ACCUMULATION, text
            if chunk > 1 and dtype is not _SHORT:
                total = sum((kept_bits(p, bits) for p in parts), torch.zeros_like(parts[0]))
                text = f"sums of {chunk} terms were stored in {dtype} before they were added"
                yield total, CauseKind.PARTIALS_ROUNDED, text
    for count in (2, 3, 4, 5, 6, 7, 8):
        size = -(-terms // count)
        if size in _CHUNKS or size < 2:
            continue
        parts = [a[..., k : k + size] @ b[..., k : k + size, :] for k in range(0, terms, size)]
        for dtype in _NARROW[:2]:
            rounded = [kept_bits(p, dtype.mantissa_bits + 1) for p in parts]
            total = sum(rounded, torch.zeros_like(parts[0]))
            text = f"{count} partial sums of {size} terms were stored in {dtype} before they were added"
            yield total, CauseKind.PARTIALS_ROUNDED, text


def _limited(x: Tensor, dtype: DType) -> Tensor:
    return torch.where(x.abs() > dtype.max_finite, torch.inf * x.sign(), x) if dtype.name == "f16" else x


def factors(asked: Asked) -> tuple[Tensor, Tensor, _Finish] | None:
    """Return (a, b, finish) with finish(a @ b) the step's value, for ops that are one product or sum."""
    op = asked.op
    if op in {"matmul", "bmm"}:
        return asked.x(0), asked.x(1), lambda y: y
    if op == "linear":
        bias = asked.x(2) if asked.has(2) else 0.0
        return asked.x(0), asked.x(1).transpose(-1, -2), lambda y: y + bias
    if op == "addmm":
        alpha, beta = float(asked.attrs["alpha"] or 0), float(asked.attrs["beta"] or 0)
        return asked.x(1), asked.x(2), lambda y: alpha * y + beta * asked.x(0)
    if op in {"sum", "mean"}:
        return _reduction(asked)
    return None


def _reduction(asked: Asked) -> tuple[Tensor, Tensor, _Finish]:
    x, dim = asked.x(0), int(asked.attrs["dim"] or 0)
    rows = x.movedim(dim, -1)
    n = rows.shape[-1]
    divisor = n if asked.op == "mean" else 1
    shape = tuple(asked.right[0].shape)
    return rows.unsqueeze(-2), torch.ones(n, 1, dtype=torch.float64), lambda y: y.reshape(shape) / divisor


_ = Mapping
