"""The arithmetic that is documented for Gaudi: what widens a budget, and what a probe is held against.

Defaults that replace one function by another (gelu, division) widen nothing: they are findings.
Does not probe.
"""

from __future__ import annotations

from collections.abc import Callable

from parity.backend.arithmetic import Arithmetic
from parity.backend.hpu_flags import LAZY_MODES, is_on
from parity.backend.profile import Accumulator, Profile, Rounding
from parity.case.dtype import DTYPES

__all__ = ["hpu_arithmetic", "hpu_profile"]


def hpu_profile(flavour: str) -> Profile:
    """Return the profile: float32 sums, which Gaudi3 truncates.

    DEVICES.md 3.3, H6b: mme/include/gaudi3/gaudi3_defs.h has accRoundingMode RoundToZero, gaudi2's
    RoundToNearest. A chip that is not named there gets the narrower budget.
    """
    rounding = Rounding.TO_ZERO if flavour == "gaudi3" else Rounding.NEAREST
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"], rounding=rounding))


def hpu_arithmetic(flavour: str, mode: str, flag: Callable[[str], str | None]) -> Arithmetic:
    """Return what DEVICES.md 3.3 says of a chip in a mode; `flag` gives a flag's value, None if unknown.

    How a fast division, a negative index or a fully masked row comes out is not documented.
    """
    gelu, int64 = flag("PT_HPU_FORCE_TANH_FOR_GELU"), flag("PT_ENABLE_INT64_SUPPORT")
    wide: str | None = None
    if mode in LAZY_MODES or flavour == "gaudi":  # where the flag has no effect
        wide = "i32"
    elif int64 is not None:
        wide = "i64" if is_on(int64) else "i32"
    return Arithmetic(
        gelu=None if gelu is None else "tanh" if is_on(gelu) else "erf",
        int64=wide,
        float64="f32",
        fp8={"gaudi2": "e4m3_gaudi2", "gaudi3": "e4m3fn"}.get(flavour),
    )
