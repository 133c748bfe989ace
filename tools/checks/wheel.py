"""The wheel: it holds the package, the cases and the goldens, and works from a folder that is not ours.

It is installed with all that it depends on into an environment of its own, so a dependency that is
used but not declared is found here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

from checks.pythons import new_environment
from checks.result import Result, run

__all__ = ["check_wheel"]

# Where the checkout's folders stand in the wheel.
PLACES = {"parity": "parity", "cases": "parity/_bundled/cases", "golden": "parity/_bundled/golden"}
# `check` compares with a golden, so it fails unless cases and goldens are both found.
USES = (("--version",), ("list",), ("check", "ops/softmax"))


def check_wheel(root: Path) -> Result:
    """Build the wheel, compare its list of files, install it, and use it from an empty folder.

    Raises CheckFailed when one of the commands fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = _build(root, folder)
        problems = _differences(root, wheel)
        if not problems:
            _install(wheel, root=root, folder=folder)
            _use(folder)
        size = wheel.stat().st_size / 1e6
    return Result(note=f"{wheel.name}, {size:.1f} MB", problems=tuple(problems))


def _build(root: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    run(command, cwd=root)
    return next(folder.glob("*.whl"))


def _differences(root: Path, wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    meant = set()
    problems = []
    for source, place in PLACES.items():
        files = [path for path in (root / source).rglob("*") if path.is_file() and not _is_cache(path)]
        meant |= {f"{place}/{path.relative_to(root / source).as_posix()}" for path in files}
        if not files:
            problems.append(f"{source}/ holds no file")
    problems += [f"the wheel lacks {name}" for name in sorted(meant - held)]
    problems += [f"the wheel holds {name}, which is not in the checkout" for name in sorted(held - meant)]
    return problems


def _is_cache(path: Path) -> bool:
    return "__pycache__" in path.parts or path.suffix == ".pyc"


def _install(wheel: Path, *, root: Path, folder: Path) -> None:
    python = new_environment(None, folder / "venv")
    constraints = str(root / "constraints.txt")
    run([str(python), "-m", "pip", "install", "-q", "-c", constraints, str(wheel)], cwd=folder)


def _use(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for arguments in USES:
        run([str(folder / "venv" / "bin" / "parity"), *arguments], cwd=elsewhere, env=env)
