"""Which canonical op a call of a torch function is, where it means exactly that and nothing more.

A call is mapped after it ran, from its arguments and its result's type. What has no rule, or an
argument that its rule does not know, stays a `torch:` step: a wrong rule would be a false alarm or a
miss, a missing one costs only Monte-Carlo arithmetic. Does not run or record anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from parity.case.op import OPS
from parity.run.module_arguments import Arguments, Canonical, OtherwiseError
from parity.run.module_math import MATH
from parity.run.module_moves import MOVES

__all__ = ["Canonical", "canonical", "short_name"]

# What an operator's method is called as a function; `r` ones have their operands the other way round.
_OPERATORS = {
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "flatten": "reshape",
    "mm": "matmul",
    "multiply": "mul",
    "radd": "add",
    "rmul": "mul",
    "rtruediv": "rdiv",
    "spmm": "matmul",  # what torch itself calls torch.mm
    "subtract": "sub",
    "true_divide": "div",
    "truediv": "div",
    "type_as": "to",
}
_RULES = {**MATH, **MOVES}


def short_name(name: str) -> str:
    """Return what a function is called wherever it is found: `Tensor.add_` and `__iadd__` are `add`."""
    parts = name.split(".")
    last = parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[-1]
    if last == "__get__":
        last = parts[-2]
    if last.startswith("__") and last.endswith("__"):
        last = last.strip("_")
        if last[:1] == "i" and f"__{last[1:]}__" in Tensor.__dict__:
            last = last[1:]
    else:
        last = last.removesuffix("_")
    return _OPERATORS.get(last, last)


def canonical(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Tensor]
) -> Canonical | None:
    """Return the op that a call of the torch function `name` was, None where it is none of the table.

    `results` are the tensors that it gave, or those that it wrote to where it gave none.
    """
    rule = _RULES.get(short_name(name))
    space = name.split(".", 1)[0]
    if rule is None or space in ("linalg", "fft", "special") or not results:
        return None
    try:
        found = rule(Arguments(name, args, kwargs, results))
    except OtherwiseError:
        return None
    return found if found.op in OPS else None
