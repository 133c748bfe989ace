"""Attributes that are written as text: lists of integers, and a value of whatever type a tensor has.

A recording holds no list and no infinite number. Shapes are `family.dims`'.
"""

from __future__ import annotations

from parity.case.dist_float import named_value
from parity.case.dtype import DType, Kind

__all__ = ["integers", "number"]


def integers(text: str) -> tuple[int, ...]:
    """Read integers of any sign: `1,-2`."""
    return tuple(int(n) for n in text.split(","))


def number(text: str, of: DType) -> bool | int | float:
    """Read a value for a tensor of a type; a float may be `min`, `max`, `inf`, `-inf` or `nan`."""
    match of.kind:
        case Kind.FLOAT:
            return named_value(text, of)
        case Kind.INT:
            return int(text)
        case Kind.BOOL:
            return bool(int(text))
