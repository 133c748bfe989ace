"""The Python text of an op as parity runs it, with all that it needs of ours and nothing of parity.

Takes the source of the very functions that the backends run, so that a reproduction cannot drift
from them. Does not write files; `repro` does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from parity.backend import torch_ops
from parity.case.op import Attr
from parity.judge.called import is_call

__all__ = ["PlainCode", "function_of", "plain_code"]

# What reads better than the source of ours, and does the same in a file of its own.
_STAND_INS = {
    ("parity.backend.torch_tensor", "torch_dtype"): "def torch_dtype(name):\n    return DTYPES[name]",
    ("parity.case.dtype", "dtype"): "def dtype(name):\n    return name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCode:
    """`imports` and `definitions` are lines and blocks; `expression` is the function of the step."""

    imports: tuple[str, ...]
    definitions: tuple[str, ...]
    expression: str

    def text(self) -> str:
        """Return the definitions, two lines apart, as a file has them."""
        return "\n\n\n".join(self.definitions)


def plain_code(op: str, attrs: Mapping[str, Attr], *, plain: bool = False) -> PlainCode:
    """Return the code of an op of the table, or of a `torch:` call.

    `plain` takes what any compiler knows instead of kernels of one device. Raises KeyError for an op
    that torch has no code for.
    """
    if is_call(op):
        return _call(json.loads(str(attrs["call"])))
    expression = _entry("PLAIN_OPS" if plain else "TORCH_OPS", op)
    found = _Found()
    _follow(expression.module, expression.node, found)
    return PlainCode(
        imports=tuple(dict.fromkeys(found.imports)),
        definitions=tuple(found.definitions.values()),
        expression=_text(expression.module, expression.node),
    )


def function_of(module: str, name: str) -> PlainCode:
    """Return the code of one of our functions."""
    found = _Found()
    _follow(module, ast.Name(id=name, ctx=ast.Load()), found)
    return PlainCode(
        imports=tuple(dict.fromkeys(found.imports)),
        definitions=tuple(found.definitions.values()),
        expression=name,
    )


@dataclass(frozen=True, slots=True)
class _At:
    module: str
    node: ast.AST


@dataclass(slots=True)
class _Found:
    imports: list[str] = field(default_factory=list)
    definitions: dict[tuple[str, str], str] = field(default_factory=dict)


@cache
def _source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


@cache
def _names(module: str) -> Mapping[str, ast.stmt]:
    """Return what each name at the top of a module is bound by."""
    bound: dict[str, ast.stmt] = {}
    for node in ast.parse(_source(module)).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                bound[node.name] = node
            case ast.Assign():
                bound |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                bound[name] = node
            case ast.Import() | ast.ImportFrom():
                bound |= {(alias.asname or alias.name.partition(".")[0]): node for alias in node.names}
            case _:
                pass
    return bound


def _entry(table: str, op: str, module: str = torch_ops.__name__) -> _At:
    """Return where the function of an op is written in a table, or in one that it takes over."""
    node = _names(module)[table]
    if isinstance(node, ast.ImportFrom):
        return _entry(table, op, str(node.module))
    assert isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict)
    pairs = list(zip(node.value.keys, node.value.values, strict=True))
    for key, value in reversed(pairs):
        if isinstance(key, ast.Constant) and key.value == op:
            return _At(module, value)
        if key is None and isinstance(value, ast.Name):
            try:
                return _entry(value.id, op, module)
            except KeyError:
                continue
    raise KeyError(op)


def _follow(module: str, node: ast.AST, found: _Found) -> None:
    """Collect the definitions that a piece of code needs, those first that others need."""
    for name in _reads(node):
        bound = _names(module).get(name)
        if isinstance(bound, (ast.Import, ast.ImportFrom)):
            _import(name, bound, found)
        elif bound is not None and (module, name) not in found.definitions:
            assert all(other != name for _, other in found.definitions), f"two different '{name}'"
            # Entered before what it needs, which may need it in turn.
            found.definitions[module, name] = ""
            _follow(module, bound, found)
            del found.definitions[module, name]
            found.definitions[module, name] = _text(module, bound)


def _import(name: str, bound: ast.Import | ast.ImportFrom, found: _Found) -> None:
    alias = next(a for a in bound.names if (a.asname or a.name.partition(".")[0]) == name)
    is_ours = isinstance(bound, ast.ImportFrom) and str(bound.module).startswith("parity")
    if not is_ours:
        found.imports.append(ast.unparse(type(bound)(**{**vars(bound), "names": [alias]})))
        return
    assert isinstance(bound, ast.ImportFrom) and alias.asname is None, "ours are imported by their names"
    key = (str(bound.module), alias.name)
    if key in _STAND_INS:
        found.definitions.setdefault(key, _STAND_INS[key])
        return
    _follow(key[0], ast.Name(id=alias.name, ctx=ast.Load()), found)


def _reads(node: ast.AST) -> Iterator[str]:
    """Yield the names that code reads when it runs; annotations are never evaluated."""
    skipped: set[int] = set()
    for part in ast.walk(node):
        if id(part) in skipped:
            continue
        unread = [getattr(part, "annotation", None), getattr(part, "returns", None)]
        skipped |= {id(below) for each in unread if isinstance(each, ast.AST) for below in ast.walk(each)}
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part.id


def _text(module: str, node: ast.AST) -> str:
    text = ast.get_source_segment(_source(module), node)
    assert text is not None
    decorators = [f"@{ast.unparse(d)}\n" for d in getattr(node, "decorator_list", ())]
    return "".join(decorators) + text


def _call(document: Mapping[str, Any]) -> PlainCode:
    """Return a call of torch as a function of the step's inputs."""
    name, writes = str(document["function"]), [int(i) for i in document["writes"]]
    function = f"torch.ops.{name}" if name.startswith("aten.") else f"torch.{name}"
    arguments = [_value(value) for value in document["args"]]
    arguments += [f"{key}={_value(value)}" for key, value in document["kwargs"].items()]
    lines = ["def call(*x):"]
    if writes:
        lines.append(f"    x = [t.clone() if i in {writes} else t for i, t in enumerate(x)]")
    lines.append(f"    results = flat({function}({', '.join(arguments)}))")
    lines.append(f"    written = [x[i] for i in {writes} if all(x[i] is not r for r in results)]")
    lines.append(
        "    return tuple(torch.view_as_real(t) if t.is_complex() else t for t in (*results, *written))"
    )
    return PlainCode(imports=("import torch",), definitions=(_FLAT, "\n".join(lines)), expression="call")


_FLAT = """def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [t for item in value for t in flat(item)] if isinstance(value, (tuple, list)) else []"""


def _value(value: Any) -> str:
    """Return the Python text of an argument, as `backend.torch_call` writes them down."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    if "tensor" in value:
        held = f"x[{int(value['tensor'])}]"
        return f"torch.view_as_complex({held}.contiguous())" if value.get("complex") else held
    ((kind, held),) = value.items()
    match kind:
        case "tuple":
            return f"({', '.join(map(_value, held))}{',' if len(held) == 1 else ''})"
        case "dict":
            return "{" + ", ".join(f"{key!r}: {_value(item)}" for key, item in held.items()) + "}"
        case "slice":
            return f"slice({', '.join(map(_value, held))})"
        case "ellipsis":
            return "..."
        case "float":
            return f"float({held!r})"
        case "complex":
            return f"complex({held[0]!r}, {held[1]!r})"
        case "device":
            return "WHERE"
        case "type":
            return str(held)
        case "dtype":
            return f"DTYPES.get({held!r}) or torch.{held}"
        case _:
            return f"torch.{held}"
