"""Random bits that are a function of a name alone, and normal values made of them by integers.

Key: the first 16 bytes of sha256 of `suite/test:params#tensor/lane`, little-endian; `params` are
those that generate, sorted, as in an id. Counter: word i of a lane is word i % 4 of Philox4x64-10
at counter 1 + i // 4 (numpy counts up before the first block). A lane is one independent stream;
element i of a tensor in row-major order takes its word i. Holds no distribution.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DType, Kind
from parity.case.ids import CaseId
from parity.case.op import Attr
from parity.case.quantiles import KNOTS, SCALE_BITS

__all__ = [
    "PLACEMENT",
    "Distribution",
    "Draw",
    "Floats",
    "Ints",
    "Words",
    "key_text",
    "normal_from_bits",
    "words",
]

# Parameters that say where values lie or how a case is run, never which values: cases that
# differ in these alone share every input bit.
PLACEMENT = ("layout", "mode")

_KNOTS = np.array(KNOTS, dtype=np.int64)
_GAPS = np.diff(_KNOTS)

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
_Option = TypeVar("_Option", int, float, str, bool)


def key_text(case: CaseId, tensor: str) -> str:
    """Return the text that keys a tensor's lanes, without the lane."""
    generating = ",".join(f"{name}={value}" for name, value in case.params if name not in PLACEMENT)
    return f"{case.path}:{generating}#{tensor}"


def words(key: str, lane: str, count: int) -> Words:
    """Return the first `count` 64-bit words of a lane."""
    digest = hashlib.sha256(f"{key}/{lane}".encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    return np.asarray(stream.random_raw(count), dtype=np.uint64)


def normal_from_bits(bits: Words) -> Floats:
    """Return one standard normal a word: bit 63 sign, 62..53 knot, 52..33 fraction between knots.

    Exact in int64 and then in float64: magnitudes are multiples of 2^-40 and at most 5.
    """
    magnitude = (bits >> np.uint64(33)).view(np.int64)
    knot = (magnitude >> 20) & 0x3FF
    magnitude &= 0xFFFFF
    # In place, and by take: inputs are drawn for every case, on both sides of a check.
    magnitude *= _GAPS.take(knot)
    magnitude >>= 20
    magnitude += _KNOTS.take(knot)
    return np.where(bits >> np.uint64(63) == 1, -magnitude, magnitude) * 2.0**-SCALE_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a distribution draws from: a key, and the tensor that it fills."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    options: Mapping[str, Attr]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def last(self) -> int:
        """Length of the last dimension, 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    def words(self, lane: str, shape: tuple[int, ...] | None = None) -> Words:
        """Return one word an element, of the tensor's shape or another."""
        shape = self.shape if shape is None else shape
        return words(self.key, lane, math.prod(shape)).reshape(shape)

    def normal(self, lane: str) -> Floats:
        """Return one standard normal an element."""
        return normal_from_bits(self.words(lane))

    def unit(self, lane: str, shape: tuple[int, ...] | None = None) -> Floats:
        """Return one multiple of 2^-53 in [0, 1) an element."""
        return (self.words(lane, shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, lane: str, limit: int, shape: tuple[int, ...] | None = None) -> Ints:
        """Return one integer in [0, limit) an element, for a limit up to 2^31."""
        high = self.words(lane, shape) >> np.uint64(32)
        return ((high * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)

    def hits(self, lane: str, one_in: int) -> npt.NDArray[np.bool_]:
        """Return a mask of about 1 in `one_in` elements, and at least one in each last-dim row."""
        drawn = self.words(lane)
        chosen = drawn % np.uint64(one_in) == 0
        if drawn.ndim and drawn.size:
            first = np.argmin(drawn, axis=-1, keepdims=True)
            np.put_along_axis(chosen, first, True, axis=-1)
        return chosen if drawn.ndim else np.ones((), dtype=np.bool_)

    def row(self) -> Ints:
        """Return the row number of each element: its leading dimensions flattened."""
        return (np.arange(self.numel, dtype=np.int64) // max(self.last, 1)).reshape(self.shape)

    def column(self) -> Ints:
        """Return the index along the last dimension of each element."""
        return (np.arange(self.numel, dtype=np.int64) % max(self.last, 1)).reshape(self.shape)

    def option(self, name: str, default: _Option) -> _Option:
        """Return an option, or its default; `inputs.check` has seen that its type is right."""
        return cast("_Option", self.options.get(name, default))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How values are made. `make` returns float64, which is rounded once; int64, kept; or uint64 codes.

    `options` maps each option to the types it may have; those in `required` have no default.
    """

    make: Callable[[Draw], Floats | Ints | Words]
    kinds: frozenset[Kind]
    options: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
