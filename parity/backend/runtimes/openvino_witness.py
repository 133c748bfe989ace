"""Sort the nodes of an OpenVINO execution graph into what ran, what moved and what was folded.

Works on names and precisions as the plugin reports them; imports no SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parity.backend.base import Node, Witness
from parity.case.dtype import DTYPES

__all__ = ["CONVERSIONS", "GraphNode", "sort"]

CONVERSIONS = frozenset({"Convert", "Reorder"})
# ShapeOf reads no element: graphs with open shapes compute their shapes as they run.
_MOVES = CONVERSIONS | {"ShapeOf"}
_OURS = {"boolean": "bool", "f8e4m3": "e4m3fn", "f8e5m2": "e5m2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node in execution order.

    `layer` is its `layerType`, `precision` its `runtimePrecision`, which is that of its first
    input, `output` its `outputPrecisions`; `reads` are the layer types of the nodes that it reads,
    those that only convert passed over; `layers` how many layers of the model were fused to it,
    `empty` says that something that it reads gives no element.
    """

    layer: str
    precision: str
    output: str
    reads: tuple[str, ...] = ()
    layers: int = 1
    empty: bool = False


def sort(graph: Sequence[GraphNode], *, device: str) -> Witness:
    """Return the evidence.

    An output that reads a constant, converted or not, was computed when the graph was compiled: host
    work. Where data is only moved, the moves are what was executed; where an output reads an input or
    has no element, nothing but the output node is left to name.
    """
    executed: list[Node] = []
    moved: list[Node] = []
    host: list[Node] = []
    passed: list[Node] = []
    for item in graph:
        node = Node(kind=item.layer, device=device, precision=_precision(item))
        if item.layer == "Output":
            if "Const" in item.reads and not item.empty:
                host.append(Node(kind="Const", device="host", precision=node.precision))
            elif item.empty or "Input" in item.reads:
                passed.append(node)
        elif item.layer in _MOVES or _only_converts(item):
            moved.append(node)
        elif item.layer not in ("Const", "Input"):
            executed.append(node)
    if not executed and not host:
        executed, moved = moved or passed, []
    return Witness(executed=tuple(executed), moved=tuple(moved), host=tuple(host))


def _only_converts(node: GraphNode) -> bool:
    """Whether a generated kernel is one layer that takes one float type and gives another.

    A type changes in a layer of its own, so a kernel that also computes has more layers.
    """
    names = (node.precision, node.output)
    floats = all(name in DTYPES and DTYPES[name].is_float for name in names)
    return node.layer == "Subgraph" and node.layers == 1 and floats and names[0] != names[1]


def _precision(node: GraphNode) -> str:
    """Return the float type of input or output, else the output's: a mask or an index may come first."""
    names = [_OURS.get(text, text) for text in (node.precision, *node.output.split(","))]
    known = [name for name in names if name in DTYPES]
    return next((name for name in known if DTYPES[name].is_float), known[-1] if known else "?")
