"""Sort the nodes of an ONNX Runtime profile into what ran, what moved and what ran elsewhere.

Works on names and types as the runtime reports them for kernels that it executed; imports no SDK.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parity.backend.base import Node, Witness
from parity.case.dtype import DTYPES

__all__ = ["Kernel", "sort"]

# They compute no element; the Reorder pair lays out what a convolution by blocks of channels reads.
_MOVES = frozenset(
    {
        *("Cast", "Expand", "Flatten", "Identity", "ReorderInput", "ReorderOutput", "Reshape", "Shape"),
        *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)
_PROVIDER = "ExecutionProvider"  # ends the name of every provider
_OURS = {
    "float": "f32",
    "double": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    "Float8E4M3FN": "e4m3fn",
    "Float8E4M3FNUZ": "e4m3fnuz",
    "Float8E5M2": "e5m2",
    "Float8E5M2FNUZ": "e5m2fnuz",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One executed kernel: its op, the provider that has it, and the runtime's names of its types."""

    op: str
    provider: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def sort(kernels: Iterable[Kernel], *, asked: str) -> Witness:
    """Return the evidence; what another provider than the one `asked` for ran is not on the target.

    Where data is only moved, the moves are what was executed. A result that was folded into a
    constant has no kernel, so that nothing is executed for it.
    """
    executed: list[Node] = []
    moved: list[Node] = []
    host: list[Node] = []
    for kernel in kernels:
        device = kernel.provider.removesuffix(_PROVIDER) or "?"
        node = Node(kind=kernel.op, device=device, precision=_precision(kernel))
        if kernel.provider != asked:
            host.append(node)
        else:
            (moved if kernel.op in _MOVES else executed).append(node)
    if not executed and not host:
        executed, moved = moved, []
    return Witness(executed=tuple(executed), moved=tuple(moved), host=tuple(host))


def _precision(kernel: Kernel) -> str:
    """Return the coarsest float type that it reads or writes, else the widest of what it writes."""
    floats = [DTYPES[name] for name in _known((*kernel.reads, *kernel.writes)) if DTYPES[name].is_float]
    if floats:
        return max(floats, key=lambda d: d.unit_roundoff).name
    written = [DTYPES[name] for name in _known(kernel.writes)]
    return max(written, key=lambda d: d.bits).name if written else "?"


def _known(names: Sequence[str]) -> list[str]:
    ours = [_OURS.get(name, name) for name in names]
    return [name for name in ours if name in DTYPES]
