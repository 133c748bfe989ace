"""What is installed here, found without importing any of it.

Importing a broken torch or vendor plugin can fail, hang or end the process; reading its files
cannot. Says nothing about whether it works.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["TorchBuild", "distribution", "module", "torch_build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """What torch's own `version.py` says: `cuda`, `hip` and `xpu` are toolkit versions or None."""

    version: str
    git: str | None = None
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None


def module(name: str) -> Path | None:
    """Return where a top-level module or package lies, None when it is not installed."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module that is half-imported, or whose finder fails
        return None
    if spec is None:
        return None
    if spec.origin and spec.origin != "built-in":
        return Path(spec.origin)
    return next((Path(place) for place in spec.submodule_search_locations or ()), None)


def distribution(name: str) -> str | None:
    """Return the version that pip recorded, None when it recorded none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def torch_build() -> TorchBuild | None:
    """Read torch's `version.py`; None when torch is not installed or does not say."""
    place = module("torch")
    if place is None:
        return None
    try:
        tree = ast.parse((place.parent / "version.py").read_text())
    except (OSError, SyntaxError, ValueError):
        return None
    found: dict[str, str | None] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)):
                pass
            case _:
                continue
        found[name] = value if isinstance(value, str) else None
    if not found.get("__version__"):
        return None
    return TorchBuild(
        version=str(found["__version__"]),
        git=found.get("git_version"),
        cuda=found.get("cuda"),
        hip=found.get("hip"),
        xpu=found.get("xpu"),
    )
