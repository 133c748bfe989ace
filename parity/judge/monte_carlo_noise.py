"""The random rounding of Monte-Carlo arithmetic: what one operation of a device loses, drawn anew each time.

Values are float64; u is the unit of the arithmetic. Does not know operations (`monte_carlo_models`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from parity.backend.profile import Accumulator
from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import DType
from parity.judge.budget import RMS_ROUNDING, sum_error
from parity.judge.monte_carlo_names import ULPS

__all__ = ["Noise", "is_float", "stored"]


def is_float(x: Any) -> bool:
    """Whether x is a tensor of floats."""
    return isinstance(x, Tensor) and x.is_floating_point()


class Noise:
    """Roundings of `accumulator`, `by` times as large as it makes them.

    Elements that the arithmetic holds exactly are not moved (Parker, Monte Carlo Arithmetic, 1997:
    random rounding is of inexact results); those of a function are. With `stores` every result is kept
    in that type, as by a device that declares it.
    """

    def __init__(
        self,
        draw: torch.Generator,
        *,
        accumulator: Accumulator,
        ulps: Mapping[str, float],
        stores: DType | None = None,
        by: float = 1.0,
    ) -> None:
        self._draw, self._by, self.accumulator, self._stores = draw, by, accumulator, stores
        self.unit = max(accumulator.unit, stores.unit_roundoff if stores else 0.0)
        self._own = torch_dtype(accumulator.dtype)
        self.ulps = {**ULPS, **ulps}

    def held(self, x: Any) -> Any:
        """Return a number off by what the arithmetic's type takes from it: the same for all elements."""
        if not isinstance(x, float) or self._holds(x):
            return x
        lost = float(torch.tensor(x, dtype=self._own)) - x
        return x + lost * self._by * math.sqrt(3) * float(2 * torch.rand((), generator=self._draw) - 1)

    def _holds(self, x: Any) -> bool:
        if isinstance(x, float):
            return not math.isfinite(x) or float(torch.tensor(x, dtype=self._own)) == x
        return not is_float(x) or bool((x.to(self._own).to(torch.float64) == x).all())

    def rounded(self, y: Any, *of: Any) -> Any:
        """Return y with every element moved by one rounding's rms that the arithmetic does not hold.

        What it holds only by chance, since it does not hold what y is made `of`, is moved too: three
        tenths of a multiple of five, whose 0.3 it does not have.
        """
        if not is_float(y):
            return y
        moved = self.relative(y, RMS_ROUNDING)
        held = y.to(self._own).to(torch.float64) == y
        if bool(held.any()) and all(self._holds(x) for x in of):
            return torch.where(held, y, moved)
        return moved

    def relative(self, y: Tensor, rms: float | Tensor) -> Tensor:
        """Return y (1 + e), e uniform with an rms in units of u, and off by its smallest step likewise."""
        u = self.accumulator.unit * self._by
        noise = torch.rand(y.shape, generator=self._draw, dtype=torch.float64).mul_(2).sub_(1)
        step = torch.where(y == 0, 0.0, 0.5 * self.accumulator.dtype.min_subnormal * self._by)
        return y + noise * (rms * u * math.sqrt(3) * y.abs() + step)

    def turned(self, y: Any) -> Any:
        """Return complex y, either part off by the roundings of two products and a sum of its modulus."""
        if not (isinstance(y, Tensor) and y.is_complex()):
            return self.rounded(y)
        parts = torch.view_as_real(y)
        noise = torch.rand(parts.shape, generator=self._draw, dtype=torch.float64).mul_(2).sub_(1)
        size = self.unit * self._by * RMS_ROUNDING * math.sqrt(6) * y.abs()
        return torch.view_as_complex(parts + noise * size.unsqueeze(-1))

    def normal(self, y: Tensor, variance: Tensor) -> Tensor:
        """Return y + N(0, variance)."""
        return y + self._by * variance.sqrt() * torch.randn(
            y.shape, generator=self._draw, dtype=torch.float64
        )

    def summed(self, y: Tensor, *, terms: Tensor | float, squares: Tensor, products: bool) -> Tensor:
        """Return a sum y as `budget.sum_error` expects it to err, in any order."""
        _, variance = sum_error(
            terms=terms,
            magnitude=y.abs(),
            squares=squares,
            total=y,
            outputs=max(y.numel(), 1),
            accumulator=self.accumulator,
            exact_terms=not products,
        )
        return self.normal(y, torch.where(variance.isfinite(), variance, 0.0))

    def in_range(self, y: Any) -> Any:
        """Return y within the range of the arithmetic, as its type stores it."""
        if not is_float(y):
            return y
        kind = self.accumulator.dtype
        if self._stores is None and _lies_between(y, kind.min_subnormal, kind.max_finite):
            return y
        y = torch.where(y.abs() > kind.max_finite * (1 + kind.unit_roundoff / 2), y * math.inf, y)
        y = torch.where(y.abs() < kind.min_subnormal / 2, torch.zeros_like(y).copysign(y), y)
        return y if self._stores is None else stored(y, self._stores, self._draw, by=self._by)


def _lies_between(y: Tensor, least: float, most: float) -> bool:
    """Whether every size is in a range: NaN is in none, and zero not either."""
    if not y.numel():
        return True
    low, high = torch.aminmax(y.abs())
    return bool(low >= least) and bool(high <= most)


def stored(y: Tensor, to: DType, draw: torch.Generator, *, by: float) -> Tensor:
    """Return y as a type of fewer bits holds it: off by up to half a last place, at random."""
    _, exponent = torch.frexp(y)
    lowest = 2 - to.bias  # frexp's exponent of the smallest normal
    ulp = torch.ldexp(torch.ones_like(y), exponent.clamp(min=lowest) - 1 - to.mantissa_bits)
    noise = torch.rand(y.shape, generator=draw, dtype=torch.float64) - 0.5
    y = torch.where(torch.remainder(y, ulp) == 0, y, y + by * noise * ulp)
    return torch.where(y.abs() > to.max_finite * (1 + to.unit_roundoff / 2), y * math.inf, y)
