"""The import rule: a stage of the flow imports only stages before it, and heavy packages stay fenced.

Reads parity/ with `ast`, so that a file that cannot even be loaded here is still judged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from checks.result import Result
from checks.source import Import, chain, imports_of, module_name, python_files

__all__ = ["check_imports"]

# Who stands where in the flow. Modules of one place do not import each other, stages import themselves.
FLOW = (
    ("case",),
    ("backend",),
    ("store",),
    ("run",),
    ("judge",),
    ("localize", "selftest"),
    ("report",),
    ("check", "golden", "request"),
    ("cli_engine", "cli_localize", "cli_model", "cli_selftest"),
    ("cli", "pytest_plugin"),
    ("__main__",),
)
PLACE = {name: place for place, names in enumerate(FLOW) for name in names}

DOORS = (
    *("cli.py", "cli_engine.py", "cli_localize.py", "cli_model.py", "cli_selftest.py"),
    *("pytest_plugin.py", "__main__.py"),
)
# Stages that run the engine to observe it.
OBSERVERS = ("run", "localize")
# A vendor's own file; the other files of backend/ are shared by vendors.
NOT_VENDOR = tuple(
    f"backend/{name}.py"
    for name in (
        "__init__",
        "arithmetic",
        "base",
        "doctor",
        "installed",
        "probe*",
        "profile",
        "registry",
        "spec",
        "torch_*",
    )
)
VENDOR = ("backend/*.py",)
# Packages that are not a vendor's, and the files that may import them.
ROOMS = {
    "jinja2": ("engine/*",),
    "numpy": ("*",),
    "pyarrow": ("store/arrow.py",),
    "pytest": ("pytest_plugin.py",),
    "rich": ("cli.py", "report/*"),
    "safetensors": ("engine/*",),
    "tokenizers": ("engine/*",),
    "tomli": ("*",),
    # torch's op database is a list of cases: who lists them loads it.
    "torch": (
        *("case/opinfo_db.py", "backend/*", "judge/*", "run/*", "localize/*", "selftest/*", "engine/*"),
        *DOORS,
    ),
    "transformers": ("engine/beside.py",),  # where it is installed, to be timed beside the engine
    "typer": ("cli.py", "cli_engine.py", "cli_localize.py", "cli_model.py", "cli_selftest.py"),
    "typing_extensions": ("*",),
}
TORCH_FREE = tuple(
    f"backend/{n}.py" for n in ("arithmetic", "base", "doctor", "installed", "profile", "registry", "spec")
) + tuple(f"judge/{n}.py" for n in ("deviations", "verdict"))
# Loading these is what `import parity`, `parity --help`, `parity list` and the pytest plugin do.
LIGHT = (
    "__init__",
    "errors",
    "cli",
    "cli_engine",
    "cli_localize",
    "cli_model",
    "cli_selftest",
    "pytest_plugin",
    "case/*",
    "backend/registry",
    "backend/spec",
)
# Loaded by name, when a case of theirs is asked for.
DEFERRED = ("case/opinfo_db",)
HEAVY = ("torch", "pyarrow")


def check_imports(root: Path) -> Result:
    """Judge every import of parity/ by the flow, by the fences and by what loading it costs."""
    files = python_files(root / "parity")
    problems: list[str] = []
    vendors: dict[str, str] = {}
    for path in files:
        where = path.relative_to(root).as_posix()
        for item in imports_of(path, root=root):
            problems += [f"{where}:{item.line}: {text}" for text in _judge(where, item, vendors)]
    problems += [text for path in files for text in _cost(path, root=root)]
    # `from x import a, b` is two imports on one line, and one problem.
    return Result(note=f"{len(files)} modules", problems=tuple(dict.fromkeys(problems)))


def _judge(where: str, item: Import, vendors: dict[str, str]) -> Iterator[str]:
    inner = where.removeprefix("parity/")
    if item.package == "cases":
        yield "parity may not import cases: they are loaded by path"
    elif item.package == "parity":
        yield from _against_flow(_part(inner), item.module)
    elif item.package not in sys.stdlib_module_names:
        yield from _outside_room(inner, item.package, vendors)
    if item.in_function and not (_fits(inner, DOORS) or _is_vendor(inner)):
        yield f"import of {item.module} inside a function: only a door or a vendor's file may defer a cost"


def _against_flow(importer: str, module: str) -> Iterator[str]:
    part = module.split(".")[1] if "." in module else ""
    if part in {"", "errors", importer}:
        return
    if importer not in PLACE:
        known = "" if importer in {"", "errors", "engine"} else ", which has no place in the flow,"
        yield f"{importer or 'parity'}{known} may not import {part}: of parity it may import errors alone"
    elif part == "engine" and (importer in OBSERVERS or f"{importer}.py" in DOORS):
        return  # the engine stands beside the flow: it is run and observed, or served by a door
    elif part not in PLACE:
        yield f"{importer} may not import {part}, which has no place in the flow"
    elif PLACE[part] > PLACE[importer]:
        yield f"{importer} may not import {part}, which comes after it"
    elif PLACE[part] == PLACE[importer]:
        yield f"{importer} may not import {part}, which stands beside it"


def _outside_room(inner: str, package: str, vendors: dict[str, str]) -> Iterator[str]:
    rooms = ROOMS.get(package)
    if rooms is None:
        first = vendors.setdefault(package, inner)
        if not _is_vendor(inner):
            yield f"{package} is no dependency of ours: only a vendor's file in parity/backend/ may import it"
        elif first != inner:
            yield f"{package} is already imported by parity/{first}: a vendor's package has one file"
    elif not _fits(inner, rooms):
        yield f"{package} may be imported only in {', '.join(rooms)}"
    elif package == "torch" and _fits(inner, TORCH_FREE):
        yield "torch may not be imported in a file that `parity list` or a report reads"


def _cost(path: Path, *, root: Path) -> Iterator[str]:
    inner = path.relative_to(root / "parity").with_suffix("").as_posix()
    light = _fits(inner, LIGHT) and not _fits(inner, DEFERRED)
    names = chain(path, root=root, wanted=HEAVY.__contains__) if light else None
    if names:
        where = path.relative_to(root).as_posix()
        yield f"{where}:1: loading {module_name(path, root=root)} loads {names[-1]}: {' -> '.join(names)}"


def _part(inner: str) -> str:
    name = inner.partition("/")[0].removesuffix(".py")
    return "" if name == "__init__" else name


def _is_vendor(inner: str) -> bool:
    return _fits(inner, VENDOR) and not _fits(inner, NOT_VENDOR) and not inner.endswith("/__init__.py")


def _fits(inner: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(inner, pattern) for pattern in patterns)
