"""How each of torch's primitive operations errs that is more than one rounding: sums, products, powers.

Each model evaluates the operation in float64 and moves its result. What only moves or rounds once is
named in `monte_carlo_names`; what has no model is taken apart (`monte_carlo_mode`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.backend.profile import Accumulator
from parity.judge.budget import RMS_ROUNDING, sum_error
from parity.judge.monte_carlo_names import OF_SCALED, name_of
from parity.judge.monte_carlo_noise import Noise, is_float
from parity.judge.monte_carlo_tree import mapped

__all__ = ["MODELS", "OF_NUMBERS", "function"]

_Model = Callable[[Noise, Any, tuple[Any, ...], dict[str, Any]], Any]


def function(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A third of the largest error as rms (NUMERICS 9), after a rounding of a scaled argument."""
    name = name_of(func)
    if name in OF_SCALED:
        args = (noise.rounded(args[0]) if is_float(args[0]) else args[0], *args[1:])
    return noise.relative(func(*args, **kwargs), noise.ulps[name] / 3)


def _linear(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A sum whose terms are its float arguments or products of them: of ones it counts them."""

    def of(change: Callable[[Tensor], Tensor]) -> Any:
        return func(*mapped(lambda x: change(x) if is_float(x) else x, args), **kwargs)

    products = sum(is_float(x) for x in args) > 1 and name_of(func) in ("mm", "bmm")
    y: Tensor = func(*args, **kwargs)
    return noise.summed(y, terms=of(torch.ones_like), squares=of(torch.square), products=products)


def _sum(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not is_float(args[0]):
        return func(*args, **kwargs)
    y = func(*args, **kwargs)
    squares = func(args[0].square(), *args[1:], **kwargs)
    terms = args[0].numel() / max(y.numel(), 1)
    return noise.summed(y, terms=terms, squares=squares, products=False)


def _product(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a, b = args
    y = func(a, b, **kwargs)
    return noise.summed(y, terms=a.shape[-1], squares=func(a.square(), b.square()), products=True)


def _convolution(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, w, bias, *rest = args
    y = func(x, w, None, *rest, **kwargs)
    squares = func(x.square(), w.square(), None, *rest, **kwargs)
    terms = func(torch.ones_like(x), torch.ones_like(w), None, *rest, **kwargs)
    y = noise.summed(y, terms=terms, squares=squares, products=True)
    if bias is None:
        return y
    return noise.rounded(y + bias.reshape(1, -1, *[1] * (y.dim() - 2)))


def _average(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A mean over windows: of at most as many terms as the largest window has."""
    x, window = args[0], args[1]
    if name_of(func).startswith("_adaptive"):
        sizes = [-(-n // m) + 1 for n, m in zip(x.shape[-len(window) :], window, strict=True)]
    else:
        sizes = list(window)
    n = math.prod(sizes)
    y = func(*args, **kwargs)
    squares = n * func(x.square(), *args[1:], **kwargs)
    _, variance = sum_error(
        terms=n,
        magnitude=y,
        squares=squares,
        total=n * y,
        outputs=max(y.numel(), 1),
        accumulator=Accumulator(dtype=noise.accumulator.dtype),
        exact_terms=True,
    )
    return noise.rounded(noise.normal(y, variance / n**2))


def _running_product(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Each factor rounds once more: errors add up along the dimension."""
    y = func(*args, **kwargs)
    if not is_float(y):
        return y
    count = torch.cumsum(torch.ones_like(y), args[1] if y.dim() else 0)
    return noise.relative(y, RMS_ROUNDING * (count - 1).clamp(min=0).sqrt())


def _whole_product(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    y = func(*args, **kwargs)
    if not is_float(y):
        return y
    terms = args[0].numel() / max(y.numel(), 1)
    return noise.relative(y, RMS_ROUNDING * math.sqrt(max(terms - 1, 0)))


def _power(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A small whole power is products; any other one is a function."""
    y = func(*args, **kwargs)
    power = args[1]
    if isinstance(power, (int, float)) and power == 3:
        return noise.rounded(noise.in_range(noise.rounded(args[0] * args[0], args[0])) * args[0], args[0])
    if isinstance(power, (int, float)) and power in (1, 2, 0.5):
        return noise.relative(y, RMS_ROUNDING * max(abs(power) - 1, 1) if power != 1 else 0.0)
    return noise.relative(y, noise.ulps["pow"] / 3) if is_float(y) else y


def _quotient(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A quotient that may be cut to an integer: what is cut is the rounded one."""
    cut = kwargs.get("rounding_mode")
    if cut is None and name_of(func) != "floor_divide":
        return noise.rounded(func(*args, **kwargs), *args)
    y = func(*args, **kwargs)
    if not is_float(y):
        return y
    exact = noise.in_range(noise.rounded(torch.ops.aten.div(*args), *args))
    return exact.trunc() if cut == "trunc" else exact.floor()


def _remainder(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """It follows the quotient that the arithmetic found."""
    y = func(*args, **kwargs)
    if not is_float(y):
        return y
    q = noise.rounded(torch.as_tensor(args[0] / args[1]), *args)
    q = q.floor() if name_of(func) == "remainder" else q.trunc()
    return torch.where(y.isfinite(), noise.rounded(args[0] - q * args[1], *args), y)


def _scattered(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Reductions into places that an index names: as many terms as it names them."""
    y, (x, dim, index, source, how) = func(*args, **kwargs), args[:5]
    if how in ("amax", "amin") or not is_float(y):
        return y
    own = 1.0 if kwargs.get("include_self", True) else 0.0
    terms = torch.full_like(x, own).scatter_add(dim, index, torch.ones_like(source))
    if how == "prod":
        return noise.relative(y, RMS_ROUNDING * (terms - 1).clamp(min=0).sqrt())
    squares = (own * x.square()).scatter_add(dim, index, source.square())
    parts = terms.clamp(min=1) if how == "mean" else torch.ones_like(terms)
    total = noise.summed(y * parts, terms=terms, squares=squares, products=False)
    return noise.rounded(noise.in_range(total) / parts)


def _spaced(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Steps from either end: each is off by what the arithmetic loses of the one step, times their number."""
    y = func(*args, **kwargs)
    return _between(noise, *args[:3]) if is_float(y) and y.numel() > 1 else noise.rounded(y)


def _between(noise: Noise, start: Any, end: Any, steps: int) -> Tensor:
    start, end = (torch.as_tensor(noise.held(x), dtype=torch.float64) for x in (start, end))
    step = noise.in_range(noise.rounded(noise.in_range(noise.rounded(end - start)) / (steps - 1)))
    i = torch.arange(steps, dtype=torch.float64)
    back = steps - 1 - i
    moved = noise.in_range(noise.rounded(step * torch.minimum(i, back), step))
    y: Tensor = noise.rounded(torch.where(i < steps // 2, start + moved, end - moved), step, start, end)
    return y


def _powers(noise: Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A power of numbers so spaced, and what the arithmetic loses of the base."""
    y = func(*args, **kwargs)
    if not is_float(y) or not y.numel():
        return y
    start, end, steps, base = (*args[:3], args[3] if len(args) > 3 else kwargs.get("base", 10.0))
    exponents = (
        _between(noise, start, end, steps) if steps > 1 else torch.as_tensor(noise.held(start)).expand(1)
    )
    return noise.relative(torch.pow(noise.held(float(base)), exponents), noise.ulps["pow"] / 3)


# Made of numbers, but by more than one rounding.
OF_NUMBERS = frozenset({"linspace", "logspace"})
MODELS: Mapping[str, _Model] = {
    **dict.fromkeys(("mm", "bmm"), _product),
    **dict.fromkeys(("sum", "nansum"), _sum),
    **dict.fromkeys(("cumsum", "index_add", "scatter_add", "index_put", "trace", "put"), _linear),
    **dict.fromkeys(("convolution",), _convolution),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), _average),
    "cumprod": _running_product,
    "linspace": _spaced,
    "logspace": _powers,
    "prod": _whole_product,
    "pow": _power,
    "div": _quotient,
    "floor_divide": _quotient,
    "fmod": _remainder,
    "remainder": _remainder,
    "scatter_reduce": _scattered,
}
