"""Where the built-in cases are: bundled in a wheel, or beside the package. Does not load them."""

from __future__ import annotations

from pathlib import Path

from parity.errors import UsageError

__all__ = ["builtin_cases"]


def builtin_cases() -> Path:
    """Return the folder of built-in case files: bundled in a wheel, or beside the package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_bundled" / "cases", package.parent / "cases"):
        if folder.is_dir():
            return folder
    raise UsageError(f"no built-in cases beside {package}: reinstall chip-parity")
