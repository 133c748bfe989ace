"""Read an index as Python code writes it, such as `x[..., ::2]`, without evaluating anything.

Knows integers, slices, `...`, `None` and lists of integers. Does not know tensors.
"""

from __future__ import annotations

import ast
from types import EllipsisType

from parity.errors import UsageError

__all__ = ["Index", "parse_index"]

Index = int | slice | EllipsisType | None | list[int]


def parse_index(text: str) -> tuple[Index, ...]:
    """Return the index of `x[…]`, always as a tuple. Raises UsageError for anything else."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        tree = None
    if not (isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name) and tree.value.id == "x"):
        raise UsageError(f"index '{text}' is not one: expected x[…], such as x[..., ::2]")
    items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
    return tuple(_item(node, text) for node in items)


def _item(node: ast.expr, text: str) -> Index:
    if isinstance(node, ast.Slice):
        bounds = (_integer(n, text) if n is not None else None for n in (node.lower, node.upper, node.step))
        return slice(*bounds)
    if isinstance(node, ast.List):
        return [_integer(n, text) for n in node.elts]
    if isinstance(node, ast.Constant) and (node.value is None or node.value is ...):
        return node.value
    return _integer(node, text)


def _integer(node: ast.expr, text: str) -> int:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return sign * node.value
    raise UsageError(
        f"index '{text}': '{ast.unparse(node)}' is not an integer, slice, ..., None or list of integers"
    )
