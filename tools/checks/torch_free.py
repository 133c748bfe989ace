"""The torch-free tests, under every Python that is at hand, where nothing but numpy is installed.

Which tests those are is read from what they import, so no list can grow stale; a test that reaches
torch in another way carries the mark `needs_torch`. The oldest Python gets the oldest dependencies
that `pyproject.toml` allows: that is how its floors are known to be true.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from checks.pythons import OLDEST, Python, new_environment, pythons
from checks.result import CheckFailed, Result, run
from checks.source import chain, python_files

__all__ = ["check_torch_free", "torch_free_tests"]

PACKAGES = ("numpy", "pytest", "tomli", "typing_extensions")
OURS = ("parity", "tests", "conftest")
# These run the installed command or build environments: they need everything.
WHOLE = ("tests/cli", "tests/packaging", "tests/plugin")


def check_torch_free(root: Path) -> Result:
    """Run the tests in a fresh environment for each Python; every one of them must pass."""
    tests = torch_free_tests(root)
    if not tests:
        return Result(problems=("no test is torch-free: what would run under another Python?",))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(partial(_run_under, tests, root=root), pythons()))
    notes = [f"{len(tests)} files", *(result.note for result in results if not result.problems)]
    return Result(
        note="; ".join(notes), problems=tuple(text for result in results for text in result.problems)
    )


def torch_free_tests(root: Path) -> list[str]:
    """Return the test files that load nothing beyond the standard library, numpy and pytest."""
    files = [path for path in python_files(root / "tests") if path.name.startswith("test_")]
    return [
        path.relative_to(root).as_posix()
        for path in files
        if not path.relative_to(root).as_posix().startswith(WHOLE) and _is_torch_free(path, root=root)
    ]


def _is_torch_free(path: Path, *, root: Path) -> bool:
    """Follow the test, whose functions will run, and each conftest, whose fixtures it may not ask for."""
    folders = [folder for folder in path.parents if folder.is_relative_to(root / "tests")]
    conftests = [folder / "conftest.py" for folder in folders if (folder / "conftest.py").is_file()]
    return chain(path, root=root, wanted=_is_foreign, functions=True) is None and all(
        chain(conftest, root=root, wanted=_is_foreign) is None for conftest in conftests
    )


def _is_foreign(package: str) -> bool:
    return package not in {*sys.stdlib_module_names, *OURS, *PACKAGES}


def _run_under(tests: list[str], python: Python, *, root: Path) -> Result:
    try:
        return Result(note=_outcome(python, tests, root=root))
    except CheckFailed as failed:
        return Result(problems=(f"Python {python}: {failed}",))


def _outcome(python: Python, tests: list[str], *, root: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        own = new_environment(python, Path(folder) / "venv")
        pins = _floors(root) if python.version[:2] == OLDEST else {}
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(_without(pins, (root / "constraints.txt").read_text()))
        wanted = [f"{name}=={pins[name]}" if name in pins else name for name in _packages(python)]
        run([str(own), "-m", "pip", "install", "-q", "-c", str(constraints), *wanted], cwd=root)
        output = run(
            [str(own), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not needs_torch", *tests],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    numpy = f"numpy {pins['numpy']}, " if pins else ""
    return f"{python}: {numpy}{output.strip().splitlines()[-1].strip('= ')}"


def _packages(python: Python) -> tuple[str, ...]:
    return PACKAGES if python.version[:2] < (3, 11) else ("numpy", "pytest")


def _floors(root: Path) -> dict[str, str]:
    text = (root / "pyproject.toml").read_text()
    return {name: floor for name in PACKAGES for floor in re.findall(rf'"{name}>=([\d.]+)', text)}


def _without(pins: dict[str, str], constraints: str) -> str:
    lines = constraints.splitlines()
    return "\n".join(line for line in lines if re.split(r"[=;\s]", line)[0] not in pins) + "\n"
