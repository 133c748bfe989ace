"""What accepts a result: the derived verdict, and the criteria that the field uses beside it.

Baselines compare with torch on the CPU in the same dtype, as is done in practice. They are given
more than practice gives: a NaN equals a NaN, and ratios leave out what is not finite on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES
from parity.judge.budget import Expected
from parity.judge.compare import compare
from parity.judge.limits import ulp
from parity.judge.oracle import to_float64
from parity.judge.verdict import Verdict
from parity.selftest.problem import Outputs

__all__ = ["BASELINES", "PLAIN_PROFILE", "baselines", "derived"]

# Sums in float32, nothing declared: what a result must be within unless a vendor says otherwise.
PLAIN_PROFILE = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))

# Defaults of torch.testing.assert_close: (rtol, atol).
_CLOSE = {"f16": (1e-3, 1e-5), "bf16": (1.6e-2, 1e-5), "f32": (1.3e-6, 1e-5), "f64": (1e-7, 1e-7)}
BASELINES = (
    "assert_close",
    "allclose 1e-3",
    "allclose 1e-2",
    "cosine 0.999",
    "cosine 0.9999",
    "NMSE 1e-6",
    "NMSE 1e-7",
    "NMSE 5e-4",  # llama.cpp, test-backend-ops, of products
    "PCC 0.99",
    "4 ulp",
    "msprobe cosine",
    "msprobe thousandth",
)


def derived(outputs: Outputs, expected: Sequence[tuple[Expected, ...]]) -> bool:
    """Whether the judge finds outputs within, for one of the readings that a profile allows."""
    names = tuple(f"y{i}" for i in range(len(outputs)))
    return any(all(o.verdict is Verdict.WITHIN for o in compare(outputs, names, each)) for each in expected)


def baselines(outputs: Outputs, reference: Outputs) -> dict[str, bool]:
    """Return which of the field's criteria accept outputs beside a reference's."""
    accepted = dict.fromkeys(BASELINES, True)
    for got, wanted in zip(outputs, reference, strict=True):
        if got.dtype is not wanted.dtype or got.shape != wanted.shape:
            return dict.fromkeys(BASELINES, False)
        if got.dtype.is_float:
            each = _floats(to_float64(got).reshape(-1), to_float64(wanted).reshape(-1), got.dtype.name)
        else:
            each = dict.fromkeys(BASELINES, bool((got.array() == wanted.array()).all()))
        accepted = {name: accepted[name] and each[name] for name in BASELINES}
    return accepted


def _floats(t: Tensor, r: Tensor, name: str) -> dict[str, bool]:
    rtol, atol = _CLOSE.get(name, (1.6e-2, 1e-5))
    both = t.isfinite() & r.isfinite()
    same = bool(((t == r) | (t.isnan() & r.isnan()) | both).all())
    t_both, r_both = t[both], r[both]
    cosine, pcc, nmse = _ratios(t_both, r_both) if bool(both.any()) else (1.0, 1.0, 0.0)
    away = (t_both - r_both).abs()
    largest = float(away.max()) if len(away) else 0.0
    return {
        "assert_close": torch.allclose(t, r, rtol=rtol, atol=atol, equal_nan=True),
        "allclose 1e-3": torch.allclose(t, r, rtol=1e-3, atol=1e-3, equal_nan=True),
        "allclose 1e-2": torch.allclose(t, r, rtol=1e-2, atol=1e-2, equal_nan=True),
        "cosine 0.999": same and cosine >= 0.999,
        "cosine 0.9999": same and cosine >= 0.9999,
        "NMSE 1e-6": same and nmse <= 1e-6,
        "NMSE 1e-7": same and nmse <= 1e-7,
        "NMSE 5e-4": same and nmse <= 5e-4,
        "PCC 0.99": same and pcc >= 0.99,
        "4 ulp": same and bool((away <= 4 * ulp(r_both, DTYPES[name])).all()),
        # Ascend, "Accuracy Reached or Not" of a comparison of dumps.
        "msprobe cosine": same and (cosine >= 0.99 or largest <= 1e-3) and cosine >= 0.9 and largest <= 1,
        "msprobe thousandth": same and (largest < 1e-3 or _thousandth(away, r_both, name)),
    }


def _thousandth(away: Tensor, r: Tensor, name: str) -> bool:
    """Whether all but one in a thousand elements are off by less than a thousandth, as msprobe counts it.

    Of 16-bit types all but one in a hundred by less than a hundredth, which is asked first, will do.
    """
    limit = 1e-2 if name in ("bf16", "f16") else 1e-3
    relative = away / r.abs()
    return bool((relative < limit).double().mean() > 1 - limit)


def _ratios(t: Tensor, r: Tensor) -> tuple[float, float, float]:
    """Return cosine, Pearson's correlation and normalized squared error; 1, 1, 0 for equal tensors."""
    if torch.equal(t, r):
        return 1.0, 1.0, 0.0
    # Scaled, so that the squares of float32's largest values stay finite.
    scale = max(float(r.abs().max()), float(t.abs().max()), 2.0**-1000)
    t, r = t / scale, r / scale
    square = float(r @ r)
    nmse = float((t - r) @ (t - r)) / square if square else math.inf
    return _cosine(t, r), _cosine(t - t.mean(), r - r.mean()) if t.numel() > 1 else 1.0, nmse


def _cosine(a: Tensor, b: Tensor) -> float:
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else 0.0
