"""What a fault library says of one op: how it is computed, and the bugs that its kernel can have.

A kernel is one function of a problem, an arithmetic and the name of a bug, empty for none. A bug
that changes nothing on a problem gives the right bits there and is dropped by `suite`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from parity.selftest.arithmetic import LEGITIMATE, Arithmetic
from parity.selftest.problem import Outputs, Problem

__all__ = ["LOW_SUMS", "MIDDLE", "Kernel", "Moves"]

# Accumulators that nothing declares.
LOW_SUMS = {
    "accumulate_bf16": Arithmetic(name="accumulate_bf16", keep="bf16"),
    "accumulate_f16": Arithmetic(name="accumulate_f16", keep="f16"),
    "accumulate_14_bits": Arithmetic(name="accumulate_14_bits", keep="bits14"),
}
# Intermediate tensors kept in 16 bits.
MIDDLE = {
    "intermediate_bf16": Arithmetic(name="intermediate_bf16", middle="bf16"),
    "intermediate_f16": Arithmetic(name="intermediate_f16", middle="f16"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An op whose results are rounded: `compute` returns them in float32, or float64 where it is wide."""

    compute: Callable[[Problem, Arithmetic, str], Tensor | tuple[Tensor, ...]]
    bugs: tuple[str, ...]
    legitimate: tuple[Arithmetic, ...] = LEGITIMATE
    arithmetics: dict[str, Arithmetic] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """An op whose result is exact: `compute` returns its outputs, `ways` names the right ones.

    `legal` says of other outputs whether they are as right, where several are.
    """

    compute: Callable[[Problem, str], Outputs]
    bugs: tuple[str, ...]
    ways: tuple[str, ...] = ("",)
    legal: Callable[[Problem, Outputs], bool] | None = None
