"""The arithmetic that a backend declares, each statement with its source.

Only what is declared here may widen a budget; a probe confirms a declaration or accuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from parity.case.dtype import DType, dtype

__all__ = ["Accumulator", "Declared", "Profile", "Rounding"]


class Rounding(Enum):
    """How a sum drops bits."""

    NEAREST = "nearest"
    TO_ZERO = "to_zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulator:
    """What sums are kept in: `block` products are added exactly before each rounding."""

    dtype: DType
    block: int = 1
    rounding: Rounding = Rounding.NEAREST

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"accumulator block must be >= 1, got {self.block}")

    @property
    def unit(self) -> float:
        """Unit roundoff of one addition."""
        return self.dtype.unit_roundoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One sourced departure from the default arithmetic, for ops and input dtypes.

    `fact` is a name that the judge's op classes know (`judge/budget.py` lists them); `value` its
    parameter, such as the dtype that an intermediate is rounded to.
    """

    fact: str
    ops: tuple[str, ...]
    dtypes: tuple[str, ...]
    value: str = ""
    source: str

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"declared fact '{self.fact}' needs a source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Declared arithmetic of one backend in one setting.

    `ulps` gives, per function, the largest error in units in the last place of the accumulator;
    functions that are not named use the OpenCL full-profile table in `judge/budget.py`.
    """

    accumulator: Accumulator
    flush_subnormals: bool = False
    ulps: Mapping[str, float] = field(default_factory=dict)
    declared: tuple[Declared, ...] = ()

    def fact(self, name: str, *, op: str, dtype: DType) -> Declared | None:
        """Return the declaration of `name` that covers an op on an input dtype, if there is one."""
        for item in self.declared:
            if item.fact == name and op in item.ops and dtype.name in item.dtypes:
                return item
        return None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for recordings and reports."""
        return {
            "accumulator": {
                "dtype": self.accumulator.dtype.name,
                "block": self.accumulator.block,
                "rounding": self.accumulator.rounding.value,
            },
            "flush_subnormals": self.flush_subnormals,
            "ulps": dict(self.ulps),
            "declared": [
                {
                    "fact": d.fact,
                    "ops": list(d.ops),
                    "dtypes": list(d.dtypes),
                    "value": d.value,
                    "source": d.source,
                }
                for d in self.declared
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Rebuild a profile. Raises KeyError, TypeError or ValueError when the data is not one."""
        accumulator = data["accumulator"]
        return cls(
            accumulator=Accumulator(
                dtype=dtype(accumulator["dtype"]),
                block=accumulator["block"],
                rounding=Rounding(accumulator["rounding"]),
            ),
            flush_subnormals=data["flush_subnormals"],
            ulps=dict(data["ulps"]),
            declared=tuple(
                Declared(**{**d, "ops": tuple(d["ops"]), "dtypes": tuple(d["dtypes"])})
                for d in data["declared"]
            ),
        )
