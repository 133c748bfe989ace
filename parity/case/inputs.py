"""A case's inputs, the same bits on every machine by construction.

A tensor is keyed by suite/test, the parameters that generate (all but `layout` and `mode`) and its
name; `draw` writes down key, counter and lanes, `dist_*` the distributions. Values are exact or
correctly rounded float64, rounded once to the dtype by our own `dtype.encode`, then placed by
`layout`. cases/README.md states all of it, with golden vectors in the tests. No framework's
generator takes part. Does not decide which cases exist.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from parity.case.case import Case, TensorSpec
from parity.case.checkpoint import CHECKPOINT
from parity.case.dist_float import FLOAT_DISTRIBUTIONS, SCALED
from parity.case.dist_integer import INTEGER_DISTRIBUTIONS
from parity.case.dist_mask import MASK_DISTRIBUTIONS
from parity.case.dist_pages import PAGE_DISTRIBUTIONS
from parity.case.dist_ranked import RANKED_DISTRIBUTIONS
from parity.case.draw import Distribution, Draw, key_text
from parity.case.dtype import DType, Kind, encode
from parity.case.layout import LAYOUTS, fits, place
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.errors import UsageError, near_miss

__all__ = ["DISTRIBUTIONS", "LAYOUTS", "check", "generate", "values"]

DISTRIBUTIONS: dict[str, Distribution] = {
    **FLOAT_DISTRIBUTIONS,
    **INTEGER_DISTRIBUTIONS,
    **MASK_DISTRIBUTIONS,
    **PAGE_DISTRIBUTIONS,
    **RANKED_DISTRIBUTIONS,
    **CHECKPOINT,
}


def generate(case: Case) -> dict[str, HostTensor]:
    """Return every input of a case by name, laid out. Raises UsageError for a spec that has no values.

    Raises GoldenError when a checkpoint that the case reads is missing or another one.
    """
    return {
        spec.name: place(values(spec, key=key_text(case.id, spec.name)), spec.dtype, spec.layout)
        for spec in map(_checked, case.inputs)
    }


def values(spec: TensorSpec, *, key: str) -> npt.NDArray[np.generic]:
    """Return a tensor's elements as a row-major array of `dtype.storage`, without its layout."""
    draw = Draw(key=key, dtype=spec.dtype, shape=spec.shape, options=spec.options)
    made = np.asarray(DISTRIBUTIONS[spec.dist].make(draw))
    exponent = draw.option("exponent", 0)
    if exponent and spec.dtype.is_float and made.dtype != np.uint64:
        made = np.ldexp(made.astype(np.float64), exponent)
    return _stored(made.reshape(-1), spec.dtype).reshape(spec.shape)


def check(spec: TensorSpec) -> None:
    """Raise UsageError unless distribution, options, dtype, shape and layout go together."""
    where = f"tensor '{spec.name}'"
    if spec.dist not in DISTRIBUTIONS:
        raise UsageError(f"{where}: unknown dist '{spec.dist}'{near_miss(spec.dist, DISTRIBUTIONS)}")
    if spec.layout not in LAYOUTS:
        raise UsageError(f"{where}: unknown layout '{spec.layout}'{near_miss(spec.layout, LAYOUTS)}")
    if any(n < 0 for n in spec.shape):
        raise UsageError(f"{where}: negative shape {spec.shape}")
    if not fits(spec.layout, spec.shape):
        raise UsageError(f"{where}: layout '{spec.layout}' does not fit shape {spec.shape}")
    distribution = DISTRIBUTIONS[spec.dist]
    where = f"{where}: dist '{spec.dist}'"
    if spec.dtype.kind not in distribution.kinds:
        raise UsageError(f"{where} does not make {spec.dtype} values")
    options = {n: t for n, t in distribution.options.items() if spec.dtype.is_float or n not in SCALED}
    for name, value in spec.options.items():
        _check_option(name, value, options, where=where)
    absent = [name for name in distribution.required if name not in spec.options]
    if absent:
        raise UsageError(f"{where} needs option '{absent[0]}'")


def _checked(spec: TensorSpec) -> TensorSpec:
    check(spec)
    return spec


def _check_option(name: str, value: Attr, options: Mapping[str, tuple[type, ...]], *, where: str) -> None:
    if name not in options:
        raise UsageError(f"{where} has no option '{name}'{near_miss(name, options)}")
    if not isinstance(value, options[name]) or (isinstance(value, bool) and bool not in options[name]):
        raise UsageError(f"{where}: option '{name}' cannot be {value!r}")


def _stored(flat: npt.NDArray[np.generic], dtype: DType) -> npt.NDArray[np.generic]:
    """Turn float64 values, int64 values or uint64 codes into elements of `dtype.storage`."""
    if dtype.kind is Kind.BOOL:
        return flat.astype(np.bool_)
    if flat.dtype == np.uint64:
        return flat.astype(f"u{dtype.itemsize}").view(dtype.storage)
    if dtype.is_float:
        return encode(flat.astype(np.float64, copy=False), dtype).view(dtype.storage)
    limits = np.iinfo(dtype.storage)
    if flat.size and (int(flat.min()) < limits.min or int(flat.max()) > limits.max):
        raise UsageError(f"values from {flat.min()} to {flat.max()} do not fit {dtype}")
    return flat.astype(dtype.storage)
