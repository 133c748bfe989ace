"""A small ONNX graph as plain data: what the op table's steps are drafted in, before any SDK sees it.

Constants are host tensors, types are ours. Does not build a model; `onnxruntime_sdk` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DType, dtype, encode
from parity.case.tensor import HostTensor

__all__ = ["CONTRIB", "OPSET", "Argument", "Attribute", "Graph", "GraphNode", "Value"]

OPSET = 23
CONTRIB = "com.microsoft"  # the domain of the ops that only ONNX Runtime has
Attribute = int | float | str | DType | HostTensor | Sequence[int]


@dataclass(frozen=True, slots=True)
class Argument:
    """An input of the graph."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


Value = str | Argument


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node; an empty name among `inputs` is an optional one that is left out."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Attribute]


@dataclass(slots=True)
class Graph:
    """Nodes in order and the constants that they read; calling it adds a node and names its result.

    `opset` is the release of the ONNX standard that has every op of it.
    """

    opset: int = OPSET
    nodes: list[GraphNode] = field(default_factory=list)
    constants: dict[str, HostTensor] = field(default_factory=dict)

    def __call__(self, op: str, *values: Value | None, domain: str = "", **attrs: Attribute) -> str:
        """Add a node of one output."""
        return self.several(op, *values, count=1, domain=domain, **attrs)[0]

    def several(
        self, op: str, *values: Value | None, count: int, domain: str = "", **attrs: Attribute
    ) -> tuple[str, ...]:
        """Add a node of `count` outputs."""
        outputs = tuple(f"n{len(self.nodes)}.{i}" for i in range(count))
        names = tuple("" if v is None else v if isinstance(v, str) else v.name for v in values)
        self.nodes.append(GraphNode(op=op, domain=domain, inputs=names, outputs=outputs, attrs=attrs))
        return outputs

    def constant(self, values: npt.ArrayLike, of: DType) -> str:
        """Add a constant, rounded once to its type."""
        array = np.asarray(values)
        held = encode(array.astype(np.float64), of).view(of.storage) if of.is_float else array
        name = f"c{len(self.constants)}"
        stored = held.astype(of.storage, copy=False).reshape(array.shape)
        self.constants[name] = HostTensor.of(stored, of)
        return name

    def ints(self, *values: int) -> str:
        """Add a constant int64 vector, as axes and shapes are given."""
        return self.constant(np.array(values, np.int64), dtype("i64"))

    def cast(self, value: Value, to: DType) -> Value:
        """Convert, unless an argument has that type already."""
        return value if isinstance(value, Argument) and value.dtype == to else self("Cast", value, to=to)

    def reshape(self, value: Value, *shape: int) -> str:
        """Give a value this shape, in which 0 is a size."""
        return self("Reshape", value, self.ints(*shape), allowzero=1)

    def cut(self, value: Value, axis: int, start: int, end: int) -> str:
        """Take `start` to `end` of one axis."""
        return self("Slice", value, self.ints(start), self.ints(end), self.ints(axis))
