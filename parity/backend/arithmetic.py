"""The arithmetic of a device, as somebody declares it or as `probe` found it.

Simulated chips compute by it, probes recover it, and where a vendor's declaration and a probe
differ in a field that both know, that is a finding. It never widens a budget: `profile` does,
and only by declared facts. None means unknown everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any

from parity.backend.profile import Accumulator, Rounding
from parity.case.dtype import dtype

__all__ = ["Arithmetic", "Flush", "Order", "Products", "Reads", "differences"]

_NONE: Mapping[str, str] = MappingProxyType({})
_FLAGS = {"yes": True, "no": False}
_FLAG_FIELDS = ("run_to_run", "batch", "threads")


class Reads(Enum):
    """How the operands of a float32 product are read. Each rounding is to nearest, ties to even.

    `bf16x2` keeps hi = bf16(x) and lo = bf16(x - hi) and adds hi hi + hi lo + lo hi; `bf16x3` keeps a
    third part and adds the six products of the largest orders.
    """

    IEEE = "ieee"
    TF32 = "tf32"  # 10 explicit mantissa bits
    HF32 = "hf32"  # 11 explicit mantissa bits
    BF16 = "bf16"  # 7
    BF16X2 = "bf16x2"
    BF16X3 = "bf16x3"


class Order(Enum):
    """In which order the rounded partial sums of a product meet."""

    SEQUENTIAL = "sequential"  # ((b0 + b1) + b2) + …
    PAIRWISE = "pairwise"  # neighbours, then neighbours of those; an odd last one goes up as it is


class Flush(Enum):
    """Where an elementwise operation replaces subnormals by zero of their sign."""

    NEVER = "never"
    INPUTS = "inputs"
    RESULTS = "results"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """How a matrix product of one input dtype is summed along K.

    K is cut into `splits` equal runs (the last ones shorter where it does not divide: run length is
    ceil(K / splits)). In a run, each block of `accumulator.block` neighbouring products is added
    exactly and rounded once into the accumulator's format; the blocks meet in `order`; the runs'
    sums are added one after another, each addition rounded likewise. The result is rounded once
    more, to nearest, to the output's dtype. `ordered` is False where the runs meet in another
    order from call to call.
    """

    reads: Reads = Reads.IEEE
    accumulator: Accumulator | None = None
    order: Order | None = None
    splits: int | None = None
    ordered: bool | None = None

    def __str__(self) -> str:
        parts = [self.reads.value]
        if self.accumulator is not None:
            a = self.accumulator
            parts.append(f"accumulates in {a.dtype.name}, block {a.block}, {a.rounding.value}")
        parts += [self.order.value] if self.order else []
        parts += [f"{self.splits} splits"] if self.splits is not None else []
        parts += ["another order each time"] if self.ordered is False else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """What a device's numbers do. Keys of mappings are dtype names, or functions for `ulps`.

    products        per input dtype (f32, bf16, f16)
    flush           per dtype: what an elementwise product does with subnormals
    overflow        per dtype: `inf` or `max`, what a finite result beyond the largest becomes
    int64           `i64`, `i32` (the low 32 bits are kept) or `unsupported`
    float64         `f64`, `f32` (rounded when put and computed as such) or `unsupported`
    fp8             what `e4m3fn` codes really are: `e4m3fn`, `e4m3fnuz`, `e4m3_gaudi2`, `unsupported`
    fp8_overflow    `saturate` or `native` (the format's infinity or NaN) beyond the largest
    ulps            per function (exp, erf, tanh, rsqrt) in float32: the largest distance from the
                    correctly rounded result, in units in the last place
    gelu            `erf` or `tanh`: what gelu without approximation really computes
    division        `ieee`, or `reciprocal` (a times the rounded reciprocal of b)
    negative_index  `wraps`, `clamps` (to 0) or `error`
    masked_row      `nan`, `zero` or `mean`: attention of a query all of whose keys are masked out
    run_to_run      same inputs, same bits
    batch           a row computed alone has the bits that it has in a batch
    threads         another number of host threads, same bits
    movement        `exact`, `quiets` (signalling NaN change) or `flushes` (subnormals become zero)
    """

    products: Mapping[str, Products] = field(default_factory=lambda: MappingProxyType({}))
    flush: Mapping[str, Flush] = field(default_factory=lambda: MappingProxyType({}))
    overflow: Mapping[str, str] = field(default_factory=lambda: _NONE)
    int64: str | None = None
    float64: str | None = None
    fp8: str | None = None
    fp8_overflow: str | None = None
    ulps: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    gelu: str | None = None
    division: str | None = None
    negative_index: str | None = None
    masked_row: str | None = None
    run_to_run: bool | None = None
    batch: bool | None = None
    threads: bool | None = None
    movement: str | None = None

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield every known fact as (name, value); parts of a mapping are named `flush.bf16`."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Mapping):
                for key in sorted(value):
                    yield from _parts(f"{item.name}.{key}", value[key])
            elif value is not None:
                yield item.name, _text(value)

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Arithmetic:
        """Return what `facts` gave. A product needs its reads, and an accumulator its block and rounding.

        Raises KeyError or ValueError for a fact or value that there is not.
        """
        known: dict[str, Any] = {"products": {}, "flush": {}, "overflow": {}, "ulps": {}}
        parts: dict[str, dict[str, str]] = {}
        for name, text in facts.items():
            item, _, key = name.partition(".")
            if item == "products":
                key, _, part = key.rpartition(".")
                parts.setdefault(key, {})[part] = text
            elif key:
                known[item][key] = {"flush": Flush, "ulps": float}.get(item, str)(text)
            else:
                known[item] = _FLAGS[text] if item in _FLAG_FIELDS else text
        known["products"] = {key: _products(part) for key, part in parts.items() if "reads" in part}
        return cls(**known)


def _products(parts: Mapping[str, str]) -> Products:
    accumulator = None
    if {"accumulator", "block", "rounding"} <= parts.keys():
        accumulator = Accumulator(
            dtype=dtype(parts["accumulator"]),
            block=int(parts["block"]),
            rounding=Rounding(parts["rounding"]),
        )
    return Products(
        reads=Reads(parts["reads"]),
        accumulator=accumulator,
        order=Order(parts["order"]) if "order" in parts else None,
        splits=int(parts["splits"]) if "splits" in parts else None,
        ordered=_FLAGS[parts["ordered"]] if "ordered" in parts else None,
    )


def _parts(name: str, value: object) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Products):
        yield name, _text(value)
        return
    yield f"{name}.reads", value.reads.value
    if value.accumulator is not None:
        yield f"{name}.accumulator", value.accumulator.dtype.name
        yield f"{name}.block", str(value.accumulator.block)
        yield f"{name}.rounding", value.accumulator.rounding.value
    for part in ("order", "splits", "ordered"):
        if getattr(value, part) is not None:
            yield f"{name}.{part}", _text(getattr(value, part))


def _text(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def differences(declared: Mapping[str, str], probed: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (fact, declared, probed) for each fact that both know and that differs."""
    return [
        (name, said, probed[name])
        for name, said in declared.items()
        if name in probed and probed[name] != said
    ]
