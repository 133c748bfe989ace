"""Functions of one or two elements beside `pointwise`, partial rotary positions, and ranges.

H = c u |y| + absolute terms, c twice the last places of the OpenCL full profile (OpenCL C specification,
"Relative error as ULPs"): log 3, log1p 2, expm1 3, sin and cos 4, pow 16, over the whole range of their
arguments. Square roots and reciprocals are IEEE 754's. u is the accumulator's roundoff.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES, DType
from parity.case.dtype import dtype as named
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected, Question
from parity.judge.classes.arithmetic import rounded_once
from parity.judge.classes.attention import rope

__all__ = [
    "arange",
    "cos",
    "expm1",
    "linspace",
    "log",
    "log1p",
    "meshgrid",
    "one_hot",
    "pow_",
    "pow_scalar",
    "reciprocal",
    "relu_squared",
    "rope_partial",
    "sin",
    "softplus",
    "sqrt",
    "sub",
    "tril_indices",
]

# Beyond this an exponential overflows in formats of 8 exponent bits.
_EXP_RANGE = 88.723


def _function(
    q: Question, name: str, value: Tensor, *, more: Tensor | float = 0.0, nan_ok: Tensor | None = None
) -> tuple[Expected, ...]:
    """H = 2 ulps u |y| + more, and beneath the normal range as many of its steps; sigma = H/3."""
    ulps, to = q.ulps(name), q.accumulator.dtype
    least = torch.where(value == 0, 0.0, ulps * to.min_subnormal)
    hard = 2 * ulps * to.unit_roundoff * value.abs() + more + least
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=hard / 3, nan_ok=nan_ok),)


def sqrt(q: Question) -> tuple[Expected, ...]:
    """y = sqrt x, to the bit: IEEE 754 rounds it correctly; -0 of -0, NaN below.

    A profile with `ulps` of sqrt is held to H = 2 ulps u |y| instead. A root in float64 rounded
    again is rounded once, since 53 >= 2 * 24 + 2 (Figueroa, 1995).
    """
    if q.ulps("sqrt"):
        return _function(q, "sqrt", q.x.sqrt())
    return (rounded_once(q, np.sqrt(q.x.numpy())),)


def reciprocal(q: Question) -> tuple[Expected, ...]:
    """y = 1 / x, to the bit, or H = 2 ulps u |y| where the profile has `ulps` of div."""
    if q.ulps("div"):
        return _function(q, "div", 1 / q.x)
    return (rounded_once(q, np.asarray(1 / q.x.numpy())),)


def relu_squared(q: Question) -> tuple[Expected, ...]:
    """y = max(x, 0)^2, to the bit: the product rounded once; NaN stays."""
    x = np.where(q.x.numpy() <= 0, 0.0, q.x.numpy())
    return (rounded_once(q, np.asarray(x * x)),)


def sub(q: Question) -> tuple[Expected, ...]:
    """y = a - b, to the bit: the difference rounded once; integers wrap modulo 2^bits."""
    a, b = q.inputs
    assert a is not None and b is not None
    return (rounded_once(q, np.asarray(np.subtract(a.numpy(), b.numpy()))),)


def log(q: Question) -> tuple[Expected, ...]:
    """y = log x: 3 ulp, H = 6 u |y|, near 1 as everywhere; -inf at 0, NaN below."""
    return _function(q, "log", q.x.log())


def log1p(q: Question) -> tuple[Expected, ...]:
    """y = log(1 + x): 2 ulp, H = 4 u |y|; 1 + x is not rounded. -inf at -1, NaN below."""
    return _function(q, "log1p", q.x.log1p())


def expm1(q: Question) -> tuple[Expected, ...]:
    """y = e^x - 1: 3 ulp, and 2 |x| u e^x for a product x log2 e that is rounded, as for exp."""
    size = torch.where(q.x.isfinite(), q.x.abs().clamp(max=1e4), 0.0)
    more = 2 * q.accumulator.unit * size * q.x.clamp(max=700).exp()
    return _function(q, "expm1", q.x.expm1(), more=more.nan_to_num(0.0))


def softplus(q: Question) -> tuple[Expected, ...]:
    """y = log(1 + e^x): H = u (s (2 |x| + 4) + 4 |y|), s the sigmoid of x; sigma = H/3.

    The exponential's error counts by its share s, log1p has 2 ulp. That it is x itself beyond 20 is
    e^-20 of 20, below u / 500; beyond 40 every form is x, H = 0. 1 + e^x is not rounded: that would
    cancel for x < 0.
    """
    itself = (q.x > 40) | q.x.isnan()
    value = torch.where(itself, q.x, q.x.clamp(max=40).exp().log1p())
    size = q.x.abs().clamp(max=_EXP_RANGE)
    more = torch.sigmoid(q.x) * (2 * size + 2 * q.ulps("exp")) * q.accumulator.unit
    more = more + q.ulps("exp") * q.accumulator.dtype.min_subnormal + q.flushed()
    (made,) = _function(q, "log1p", value, more=torch.where(q.x == -torch.inf, 0.0, more))
    assert isinstance(made, Budget)
    hard = torch.where(itself, 0.0, made.hard)
    return (dataclasses.replace(made, hard=hard, sigma=hard / 3),)


def sin(q: Question) -> tuple[Expected, ...]:
    """y = sin x: 4 ulp, H = 8 u |y|, however large x is: its reduction needs as many bits of pi as x
    has exponents (Payne and Hanek, 1983). NaN at infinity."""
    return _function(q, "sin", q.x.sin())


def cos(q: Question) -> tuple[Expected, ...]:
    """y = cos x: 4 ulp, H = 8 u |y|, as sin."""
    return _function(q, "cos", q.x.cos())


def pow_(q: Question) -> tuple[Expected, ...]:
    """y = a^b: 16 ulp, H = 32 u |y|; special values as C has them (1^NaN and NaN^0 are 1)."""
    a, b = q.inputs
    assert a is not None and b is not None
    return _function(q, "pow", torch.from_numpy(np.asarray(np.power(a.numpy(), b.numpy()))))


def pow_scalar(q: Question) -> tuple[Expected, ...]:
    """y = x^exponent: 16 ulp, H = 32 u |y|; integers wrap. sqrt(-inf) is NaN where pow(-inf, 0.5) is inf.

    A profile that declares `intermediates_rounded` may store x^2 in its dtype before it makes a cube
    or a reciprocal of it: H += u' |y| + |x| eta'.
    """
    exponent = q.number("exponent")
    if not q.dtype.is_float:
        with np.errstate(over="ignore"):
            return (Exact(bits=HostTensor.of(q.x.numpy() ** int(exponent), q.dtype)),)
    value = torch.from_numpy(np.asarray(np.power(q.x.numpy(), np.full(q.x.shape, exponent))))
    unit, least = q.unit_of("intermediates_rounded"), q.least_of("intermediates_rounded")
    more = unit * value.abs() + least * q.x.abs() if abs(exponent) not in (0.5, 1, 2) else torch.zeros(())
    more = torch.where(value.isfinite(), more.nan_to_num(0.0), 0.0)
    return _function(q, "pow", value, more=more, nan_ok=(q.x == -torch.inf) & (abs(exponent) == 0.5))


def rope_partial(q: Question) -> tuple[Expected, ...]:
    """y = rope of the first `turned` dimensions, by its rule; the others are copies, H = 0.

    At position 0 cos is 1 and sin 0 in every library, so there all dimensions are copies.
    """
    x, positions = q.inputs
    assert x is not None and positions is not None
    turned = q.integer("turned")
    attrs = {name: q.attrs[name] for name in ("base", "interleaved")}
    (made,) = rope(dataclasses.replace(q, inputs=(x[..., :turned], positions), attrs=attrs))
    assert isinstance(made, Budget)
    still = (positions == 0)[..., None].expand(made.value.shape)
    hard = torch.where(still, 0.0, made.hard)
    kept = x[..., turned:]
    nothing = torch.zeros_like(kept)
    assert made.free is not None
    return (
        Budget(
            dtype=q.dtype,
            value=torch.cat((made.value, kept), -1),
            hard=torch.cat((hard, nothing), -1),
            sigma=torch.cat((0.3 * hard, nothing), -1),
            free=torch.cat((made.free, nothing.bool()), -1),
        ),
    )


def _index(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


def _is_held(x: Tensor, to: DType) -> Tensor:
    """Mark values that a significand of this length holds."""
    fraction, _ = torch.frexp(x)
    scaled = torch.ldexp(fraction, torch.tensor(to.mantissa_bits + 1))
    return scaled == scaled.trunc()


def arange(q: Question) -> tuple[Expected, ...]:
    """y_i = start + i step: H = u (|start| + 2 |i step| + |y|), less each term that the accumulator holds
    exactly; of integers to the bit. sigma = 0.42 of the root of the squares.

    One number is the step, then come a product and a sum, whose rounding is the result's where that is as
    wide. Whole numbers are exact up to 2^24, and what is beyond is off by its own rounding alone. A sum
    that grows by `step` each time is not within. A profile that declares `base_rounded` (value: the number
    of lanes) rounds the first element of each vector to the result's type: H += u_out (|y| + lanes |step|),
    unless that type holds all of the range.
    """
    to, u = named(str(q.attrs["out"])), q.profile.accumulator.unit
    start, step, end = (q.attrs[name] for name in ("start", "step", "end"))
    assert (
        isinstance(start, (int, float)) and isinstance(step, (int, float)) and isinstance(end, (int, float))
    )
    if not to.is_float:
        exact = np.arange(int(start), int(end), int(step), dtype=np.int64).astype(to.storage)
        return (Exact(bits=HostTensor.of(exact, to)),)
    product = _index(max(math.ceil((end - start) / step), 0)) * step
    first, value = torch.full_like(product, start), start + product
    held = q.profile.accumulator.dtype
    errors = [torch.where(_is_held(t, held), 0.0, u * t.abs()) for t in (first, product)]
    errors += [torch.where(_is_held(value, held), 0.0, u * value.abs())] * (to.bits < held.bits)
    if not bool(_is_held(torch.tensor(float(step), dtype=torch.float64), held)):
        errors.append(u * product.abs())
    fact = q.profile.fact("base_rounded", op=q.op, dtype=to)
    if fact and not bool(_is_held(value, to).all()):
        errors.append(to.unit_roundoff * (value.abs() + float(fact.value) * abs(step)))
    return (_range(to, value, errors),)


def linspace(q: Question) -> tuple[Expected, ...]:
    """y_i = start + i s, s = (end - start) / (steps - 1): H = u (|start| + 3 |i s| + |y|), 0 at both ends.

    The difference, the quotient and the product are rounded, then the sum, once where the result is as
    wide; |start| and |y| only where the accumulator does not hold them. The first element is start and the
    last one end, however s was rounded. A profile that declares `intermediates_rounded` (value: a dtype)
    does all of it in that type.
    """
    to, count = named(str(q.attrs["out"])), q.integer("steps")
    start, end = q.number("start"), q.number("end")
    value = torch.from_numpy(np.linspace(start, end, count))
    fact = q.profile.fact("intermediates_rounded", op=q.op, dtype=to)
    held = named(fact.value) if fact else q.profile.accumulator.dtype
    u, inner = held.unit_roundoff, torch.ones(count, dtype=torch.bool)
    inner[:1], inner[count - 1 :] = False, False
    product = _index(count) * ((end - start) / max(count - 1, 1))
    first = torch.full_like(product, start)
    sums = (value,) * (to.bits < held.bits or bool(fact))
    errors = [torch.where(inner & ~_is_held(t, held), u * t.abs(), 0.0) for t in (first, *sums)]
    errors += [torch.where(inner, u * product.abs(), 0.0)] * 3
    return (_range(to, value, errors),)


def _range(to: DType, value: Tensor, errors: list[Tensor]) -> Budget:
    hard = torch.stack(errors).sum(0)
    sigma = RMS_ROUNDING * torch.stack(errors).square().sum(0).sqrt()
    return Budget(dtype=to, value=value, hard=hard, sigma=sigma)


def one_hot(q: Question) -> tuple[Expected, ...]:
    """y = 1 at the id, else 0, int64."""
    ids = q.raw[0]
    assert ids is not None
    hot = ids.array()[..., None] == np.arange(q.integer("classes"))
    return (Exact(bits=HostTensor.of(hot.astype(np.int64), DTYPES["i64"])),)


def tril_indices(q: Question) -> tuple[Expected, ...]:
    """Rows and columns of the elements with column - row <= offset, row by row, int64."""
    row = np.arange(q.integer("rows"))[:, None]
    column = np.arange(q.integer("columns"))[None, :]
    indices = np.stack(np.nonzero(column - row <= q.integer("offset"))).astype(np.int64)
    return (Exact(bits=HostTensor.of(indices, DTYPES["i64"])),)


def meshgrid(q: Question) -> tuple[Expected, ...]:
    """a along the first dimension and b along the second (ij), or the other way round (xy), bit for bit."""
    a, b = (t for t in q.raw if t is not None)
    x, y = a.array()[:, None], b.array()[None, :]
    shape = (a.shape[0], b.shape[0])
    grids = [np.broadcast_to(x, shape), np.broadcast_to(y, shape)]
    if q.attrs["indexing"] == "xy":
        grids = [grid.T for grid in grids]
    return tuple(Exact(bits=HostTensor.of(np.array(g), t.dtype)) for g, t in zip(grids, (a, b), strict=True))
