"""The public surface is a list: every public name that a module defines stands in its `__all__`.

The order of `__all__` is the lint rule RUF022. Does not follow imports: a name that is only
imported is public where it is defined.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from checks.result import Result
from checks.source import python_files

__all__ = ["check_surface"]


def check_surface(root: Path) -> Result:
    """Compare each module's `__all__` with the names that it defines at its top level."""
    files = python_files(root / "parity")
    problems = [
        f"{path.relative_to(root).as_posix()}: {text}"
        for path in files
        for text in _judge(ast.parse(path.read_text(), str(path)))
    ]
    return Result(note=f"{len(files)} modules", problems=tuple(problems))


def _judge(module: ast.Module) -> Iterator[str]:
    defined: set[str] = set()
    bound: set[str] = set()
    listed: list[str] | None = None
    for node in _top_level(module.body):
        names, is_import = _names(node)
        if "__all__" in names:
            listed = _literal(node)
            if listed is None:
                yield "__all__ must be a list of literal strings"
                return
        bound |= names
        if not is_import and not _is_registered(node):
            defined |= {name for name in names if not name.startswith("_")}
    if listed is None:
        if defined:
            yield f"no __all__, though it defines {', '.join(sorted(defined))}"
        return
    yield from (f"'{name}' is public but not in __all__" for name in sorted(defined - set(listed)))
    yield from (f"__all__ names '{name}', which is not there" for name in sorted(set(listed) - bound))
    yield from (f"__all__ names '{name}' twice" for name in sorted(set(listed)) if listed.count(name) > 1)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, also those under `if` and `try`: both ways of a version gate define a name."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                for inner in getattr(node, field, []):
                    yield from _top_level(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def _is_registered(node: ast.stmt) -> bool:
    """Whether it is a command such as `@app.command()` makes: the command line is its surface."""
    return isinstance(node, ast.FunctionDef) and any(
        ast.unparse(decorator).startswith("app.") for decorator in node.decorator_list
    )


def _names(node: ast.stmt) -> tuple[set[str], bool]:
    match node:
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {(alias.asname or alias.name).partition(".")[0] for alias in aliases}, True
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}, False
        case ast.Assign(targets=targets):
            return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}, False
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}, False
        case _:
            return set(), False


def _literal(node: ast.stmt) -> list[str] | None:
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List):
        return None
    values = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
    strings = [value for value in values if isinstance(value, str)]
    return strings if len(strings) == len(node.value.elts) else None
