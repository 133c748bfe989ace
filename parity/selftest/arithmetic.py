"""How a kernel may compute: the order of its sums, its accumulator, its special functions.

An `Arithmetic` without `keep` and `middle` is legitimate under a plain float32-accumulate profile:
every operation is float32 (or better), rounded to nearest, and the result is rounded once. With
them it is a planted fault. A float32 accumulator that rounds to zero is neither: hardware has it and
must declare it. Emulated with torch's float32 operations on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EXACT",
    "LEGITIMATE",
    "PLAIN",
    "TILE",
    "Arithmetic",
    "contracted",
    "exp",
    "nearest",
    "prefix",
    "total",
]

# Positions that a kernel handles at once, in tiles and in padding.
TILE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """One way to compute.

    `order` is that of sums: sequential, reversed, pairwise, lanes8, blocked16, blocked32, split4,
    permuted, or exact16, where 16 terms are added exactly before each rounding. `wide` is float64
    throughout. `fused` rounds a product and its addition once. `exp2` forms e^x as 2^(x log2 e)
    with a rounded product, `reciprocal` divides by multiplying with 1/x, `online` keeps a running
    maximum. `ulps` is how far the special functions are from the nearest number, as far as the
    OpenCL table lets them. `keep` names what every partial sum is rounded to, `middle` what every
    other intermediate tensor is.
    """

    name: str
    order: str = "sequential"
    wide: bool = False
    fused: bool = False
    exp2: bool = False
    reciprocal: bool = False
    online: bool = False
    ulps: int = 0
    keep: str = ""
    middle: str = ""

    def number(self, x: Tensor) -> Tensor:
        """Return exact float64 inputs in the type that this arithmetic computes in."""
        return x.to(torch.float64) if self.wide else x.to(torch.float32)

    def mid(self, x: Tensor) -> Tensor:
        """Round an intermediate tensor where this arithmetic does."""
        return nearest(x, self.middle) if self.middle else x

    def off(self, y: Tensor) -> Tensor:
        """Return what a special function gives whose nearest result is y; 0, 1 and -1 are met exactly."""
        if self.wide or not self.ulps:
            return y
        beyond = torch.full_like(y, torch.inf if self.ulps > 0 else -torch.inf)
        moved = y
        for _ in range(abs(self.ulps)):
            moved = torch.nextafter(moved, beyond)
        return torch.where((y.abs() == 1) | (y == 0) | ~y.isfinite(), y, moved)

    def divide(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a / b, by way of the reciprocal where this arithmetic does."""
        return a * (1 / b) if self.reciprocal else a / b


PLAIN = Arithmetic(name="plain")
EXACT = Arithmetic(name="float64", wide=True)
LEGITIMATE = (
    PLAIN,
    Arithmetic(name="reversed", order="reversed", exp2=True),
    Arithmetic(name="pairwise", order="pairwise", reciprocal=True),
    Arithmetic(name="lanes8", order="lanes8", exp2=True, reciprocal=True),
    Arithmetic(name="blocked16", order="blocked16", online=True),
    Arithmetic(name="blocked32", order="blocked32", fused=True),
    Arithmetic(name="split4", order="split4", online=True, exp2=True),
    Arithmetic(name="permuted", order="permuted"),
    Arithmetic(name="exact16", order="exact16", reciprocal=True, online=True),
    Arithmetic(name="fused", fused=True, exp2=True, online=True, reciprocal=True),
    Arithmetic(name="functions_high", ulps=1),
    Arithmetic(name="functions_low", ulps=-1, order="pairwise"),
    EXACT,
)


def nearest(x: Tensor, name: str) -> Tensor:
    """Round to nearest even in a narrower format, keeping the tensor's type."""
    match name:
        case "bf16":
            return x.to(torch.float32).to(torch.bfloat16).to(x.dtype)
        case "f16":
            return x.to(torch.float32).to(torch.float16).to(x.dtype)
        case "tf32":
            return _significand(x, 11, torch.round)
        case "bits14":
            return _significand(x, 14, torch.trunc)
        case "f32":
            return x.to(torch.float32).to(x.dtype)
        case _:
            raise ValueError(f"no rounding '{name}'")


def _significand(x: Tensor, bits: int, rule: object) -> Tensor:
    assert callable(rule)
    fraction, exponent = torch.frexp(x)
    scaled = rule(torch.ldexp(fraction, torch.tensor(bits)))
    return torch.where(x.isfinite(), torch.ldexp(scaled, exponent - bits), x)


def exp(x: Tensor, how: Arithmetic) -> Tensor:
    """Return e^x as this arithmetic forms it."""
    if how.exp2 and not how.wide:
        return how.off(torch.exp2(x * torch.tensor(1.4426950408889634, dtype=torch.float32)))
    return how.off(torch.exp(x))


def total(terms: Tensor, how: Arithmetic) -> Tensor:
    """Sum over the last dimension; of no terms, 0."""
    if not terms.shape[-1]:
        return terms.sum(-1)
    if how.wide:
        return terms.to(torch.float64).sum(-1)
    if how.keep:
        return _kept(terms, how)[-1]
    terms = terms.to(torch.float32)
    match how.order:
        case "sequential":
            return _chain(terms)[..., -1]
        case "reversed":
            return _chain(terms.flip(-1))[..., -1]
        case "permuted":
            order = np.random.Generator(np.random.PCG64(terms.shape[-1])).permutation(terms.shape[-1])
            return _chain(terms[..., order])[..., -1]
        case "pairwise":
            return _halved(terms)
        case "lanes8":
            return _halved(_chain(_blocks(terms, 8).transpose(-1, -2))[..., -1])
        case "blocked16" | "blocked32":
            return _chain(_chain(_blocks(terms, int(how.order[-2:])))[..., -1])[..., -1]
        case "split4":
            return _chain(_chain(_blocks(terms, -(-terms.shape[-1] // 4)))[..., -1])[..., -1]
        case "exact16":
            return _kept(terms, how)[-1]
        case _:
            raise ValueError(f"no order '{how.order}'")


def _chain(terms: Tensor) -> Tensor:
    """Running sums, each added in float32 to the one before."""
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.add.accumulate(terms.numpy(), axis=-1, dtype=np.float32))


def _blocks(terms: Tensor, size: int) -> Tensor:
    """Split the last dimension into [blocks, size], filled up with zeros."""
    filled = torch.nn.functional.pad(terms, (0, -terms.shape[-1] % size))
    return filled.reshape(*filled.shape[:-1], filled.shape[-1] // size, size)


def _halved(terms: Tensor) -> Tensor:
    """Add the second half to the first until one is left."""
    while terms.shape[-1] > 1:
        filled = torch.nn.functional.pad(terms, (0, terms.shape[-1] % 2))
        half = filled.shape[-1] // 2
        terms = filled[..., :half] + filled[..., half:]
    return terms[..., 0]


def _kept(terms: Tensor, how: Arithmetic) -> list[Tensor]:
    """Partial sums, each rounded to `keep`; blocks of terms added exactly come before one rounding."""
    block = {"bits14": 32}.get(how.keep, TILE if how.order == "exact16" else 1)
    if block > 1:
        terms = _blocks(terms, block).to(torch.float64).sum(-1)
    steps = terms.movedim(-1, 0).contiguous()
    partial, sums = torch.zeros_like(steps[0]), []
    for step in steps:
        partial = nearest(partial + step, how.keep or "f32").to(partial.dtype)
        sums.append(partial)
    return [s.to(torch.float32) for s in sums]


def prefix(terms: Tensor, how: Arithmetic) -> Tensor:
    """Running sums over the last dimension, as a scan of this order forms them."""
    if not terms.shape[-1]:
        return terms
    if how.wide:
        return terms.to(torch.float64).cumsum(-1)
    if how.keep in {"bf16", "f16"}:
        return torch.stack(_kept(terms, how), -1)
    terms = terms.to(torch.float32)
    match how.order:
        case "blocked16" | "blocked32" | "exact16":
            return _carried(terms, int(how.order[-2:]))
        case "pairwise" | "lanes8":
            return _doubling(terms)
        case _:
            return _chain(terms)


def _carried(terms: Tensor, size: int) -> Tensor:
    """Scan blocks on their own, then add what came before each."""
    scans = _chain(_blocks(terms, size))
    before = torch.nn.functional.pad(_chain(scans[..., -1])[..., :-1], (1, 0))
    return (scans + before[..., None]).flatten(-2)[..., : terms.shape[-1]]


def _doubling(terms: Tensor) -> Tensor:
    """Add the sum that ends 1, 2, 4, … places before (Hillis and Steele)."""
    step, n = 1, terms.shape[-1]
    while step < n:
        shifted = torch.nn.functional.pad(terms[..., :-step], (step, 0))
        terms, step = torch.where(torch.arange(n) >= step, terms + shifted, terms), 2 * step
    return terms


def contracted(a: Tensor, b: Tensor, how: Arithmetic) -> Tensor:
    """a [..., M, K] @ b [..., K, N], every product and every addition rounded as `how` says."""
    if how.wide:
        return a.to(torch.float64) @ b.to(torch.float64)
    a, b = a.to(torch.float32), b.to(torch.float32)
    if how.fused and not how.keep and a.shape[-1]:
        return _fused(a, b, how)
    return total(how.mid(a.unsqueeze(-2) * b.transpose(-1, -2).unsqueeze(-3)), how)


def _fused(a: Tensor, b: Tensor, how: Arithmetic) -> Tensor:
    """Multiply-add with one rounding, in 2 lanes where the order is blocked."""
    # A product of two float32 is exact in float64; its sum with the partial one rounds once to
    # 53 bits, which moves the rounding to 24 by less than 2^-29 of it.
    wide_a, wide_b = a.to(torch.float64), b.to(torch.float64)
    lanes = []
    for lane in range(2 if how.order.startswith("blocked") else 1):
        partial = torch.zeros(np.broadcast_shapes((*a.shape[:-1], 1), (*b.shape[:-2], 1, b.shape[-1])))
        for k in range(lane, a.shape[-1], 2 if how.order.startswith("blocked") else 1):
            product = wide_a[..., :, k, None] * wide_b[..., k, None, :]
            partial = (partial.to(torch.float64) + product).to(torch.float32)
        lanes.append(partial)
    return lanes[0] if len(lanes) == 1 else lanes[0] + lanes[1]
