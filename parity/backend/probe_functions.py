"""Find how exactly functions of one element are computed: errors in units in the last place,
which gelu, which division.

References are float64; where they lie too near the middle between two float32 to say which is
the correct one, the argument is left out. Does not look at 16-bit types.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from parity.backend.probe_ask import Asker, Unsure, Values, bits, rounded, tensor, values
from parity.case.dtype import DTYPES, encode

__all__ = ["division", "gelu", "ulps"]

_F32 = DTYPES["f32"]
_NUMBER = 4096
_TOO_NEAR = 2.0**-20  # of a unit in the last place: far more than float64 is off
_erf = np.vectorize(math.erf, otypes=[np.float64])
# Where results are normal and no function has reached its limit.
_FUNCTIONS: dict[str, tuple[Callable[[Values], Values], float, float]] = {
    "exp": (np.exp, -80.0, 80.0),
    "erf": (_erf, -3.5, 3.5),
    "tanh": (np.tanh, -8.0, 8.0),
    "rsqrt": (lambda x: 1.0 / np.sqrt(x), 2.0**-60, 2.0**60),
}


def ulps(ask: Asker, name: str) -> str:
    """Return the largest distance from the correctly rounded result, in units in the last place."""
    function, low, high = _FUNCTIONS[name]
    x = _grid(low, high)
    exact = function(x)
    correct = encode(exact, _F32).astype(np.int64)
    got = ask.run(name, tensor(x, "f32"))
    if not np.isfinite(values(got)).all():
        raise Unsure(f"{name} of {x[~np.isfinite(values(got))][0]:g} is not finite")
    clear = _is_clear(exact)
    return f"{int(np.abs(_ordered(bits(got).astype(np.int64)) - _ordered(correct))[clear].max())}"


def _grid(low: float, high: float) -> Values:
    """Return float32 values from low to high, evenly spread: by exponent where both are positive."""
    draw = np.random.Generator(np.random.Philox(key=9)).uniform(0.0, 1.0, _NUMBER)
    if low > 0:
        return rounded(np.exp2(np.log2(low) + draw * np.log2(high / low)), _F32)
    return rounded(low + draw * (high - low), _F32)


def _is_clear(exact: Values) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    unit = np.exp2(np.floor(np.log2(np.abs(exact))) - _F32.mantissa_bits)
    return np.asarray(np.abs(np.abs(np.mod(exact / unit, 1.0)) - 0.5) > _TOO_NEAR)


def _ordered(
    codes: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return codes as integers in the order of their values, neighbours one apart."""
    return np.asarray(np.where(codes >> 31, -(codes & 0x7FFFFFFF), codes))


def gelu(ask: Asker) -> str:
    """Return which formula gelu without approximation is; the two differ by up to 5e-4."""
    x = _grid(-4.0, 4.0)
    got = ask.values("gelu_erf", x, of="f32")
    formulas = {
        "erf": 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
        "tanh": 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    }
    errors = {name: float(np.abs(got - exact).max()) for name, exact in formulas.items()}
    for name, error in errors.items():
        if error < 2.0**-17:
            return name
    shown = ", ".join(f"{error:.1e} from {name}" for name, error in errors.items())
    raise Unsure(f"gelu is off by {shown}")


def division(ask: Asker) -> str:
    """Return whether quotients are rounded once, or multiplied by a rounded reciprocal."""
    a, b = _grid(-8.0, 8.0), _grid(2.0**-30, 2.0**30)[::-1]
    got = ask.values("div", a, b, of="f32")
    quotient = a / b
    for name, expected in (
        ("ieee", rounded(quotient, _F32)),
        ("reciprocal", rounded(a * rounded(1.0 / b, _F32), _F32)),
    ):
        if np.array_equal(got[_is_clear(quotient)], expected[_is_clear(quotient)]):
            return name
    off = int((got != rounded(quotient, _F32)).sum())
    raise Unsure(f"{off} of {len(a)} quotients are not correctly rounded, nor products with a reciprocal")
