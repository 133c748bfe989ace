"""The imports of this repository's files, read with `ast` and never by running them.

Does not judge: `imports` does.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Import", "chain", "imports_of", "module_name", "python_files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`module` is the dotted name of what is loaded; `at_load` is false in functions and for types."""

    module: str
    line: int
    at_load: bool
    in_function: bool

    @property
    def package(self) -> str:
        """The distribution's import name: `torch` for `torch.nn`."""
        return self.module.partition(".")[0]


def python_files(folder: Path) -> list[Path]:
    """Return the Python files under a folder, in a stable order."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path, *, root: Path) -> str:
    """Return `parity.case.ids` for `parity/case/ids.py`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path, *, root: Path) -> tuple[Import, ...]:
    """Return every import of a file, `import_module("a literal")` included."""
    own = module_name(path, root=root).split(".")
    package = own if path.name == "__init__.py" else own[:-1]
    return tuple(
        Import(
            module=name,
            line=node.lineno,
            at_load=not (within & {"function", "types"}),
            # A table of modules by name, such as a registry's, is not an import that was tucked away.
            in_function="function" in within and not isinstance(node, ast.Call),
        )
        for node, within in _walk(ast.parse(path.read_text(), str(path)), frozenset())
        for name in _loaded(node, package=package, root=root)
    )


def _walk(node: ast.AST, within: frozenset[str]) -> Iterator[tuple[ast.stmt | ast.Call, frozenset[str]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom | ast.Call):
            yield child, within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, within | {"function"})
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, within | {"types"})
        else:
            yield from _walk(child, within)


def _loaded(node: ast.stmt | ast.Call, *, package: list[str], root: Path) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = package[: len(package) - level + 1] if level else []
            name = ".".join([*base, *(module.split(".") if module else [])])
            # `from parity import judge` loads parity.judge; `from parity.errors import near_miss` one module.
            return [_submodule(name, alias.name, root=root) or name for alias in names]
        case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[first, *_]):
            return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
        case _:
            return []


def _submodule(package: str, name: str, *, root: Path) -> str | None:
    path = root.joinpath(*package.split("."), name)
    return f"{package}.{name}" if path.with_suffix(".py").is_file() or path.is_dir() else None


def chain(
    start: Path, *, root: Path, wanted: Callable[[str], bool], functions: bool = False
) -> list[str] | None:
    """Return the names from `start` to the first wanted package that loading it loads, or None.

    With `functions`, imports inside the functions of `start` itself count too: running it runs them.
    """
    queue = [(start, [module_name(start, root=root)])]
    seen = {start}
    while queue:
        path, names = queue.pop(0)
        for item in imports_of(path, root=root):
            if not (item.at_load or (functions and path == start)):
                continue
            if wanted(item.package):
                return [*names, item.package]
            for loaded in _files(item.module, root=root):
                if loaded not in seen:
                    seen.add(loaded)
                    queue.append((loaded, [*names, module_name(loaded, root=root)]))
    return None


def _files(module: str, *, root: Path) -> list[Path]:
    """The files of ours that loading a module runs: its packages' `__init__.py` and its own."""
    parts = module.split(".")
    inits = [root.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [path for path in (*inits, root.joinpath(*parts).with_suffix(".py")) if path.is_file()]
