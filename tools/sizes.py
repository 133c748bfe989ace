#!/usr/bin/env python3
"""Print how long functions and files are, beside the sizes that the house style aims at.

    tools/sizes.py              parity/ and tools/
    tools/sizes.py tests        another folder
    tools/sizes.py --since REV  also how each figure changed since that commit

It informs and never fails: a long function with a reason is fine.
"""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 10


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Lines of one function or file, and where it starts."""

    lines: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """The house style's sizes for one kind of thing."""

    kind: str
    aim: int
    limit: int


FUNCTIONS = Aim(kind="function", aim=15, limit=40)
FILES = Aim(kind="file", aim=120, limit=300)


def main(arguments: list[str]) -> None:
    """Print the two tables, and what is over a limit."""
    since = None
    if "--since" in arguments:
        at = arguments.index("--since")
        since = arguments[at + 1]
        arguments = arguments[:at] + arguments[at + 2 :]
    folders = arguments or ["parity", "tools"]
    now = measure(sources(folders))
    before = measure(sources_at(since, folders)) if since else None
    print(f"{'':10} {'number':>8} {'median':>8} {'p90':>8} {'longest':>8} {'aim':>5} {'limit':>6}")
    for aim in (FUNCTIONS, FILES):
        print_row(aim, now[aim.kind], before[aim.kind] if before else None)
    for aim in (FUNCTIONS, FILES):
        over = sorted((size for size in now[aim.kind] if size.lines > aim.limit), reverse=True)
        if over:
            print(f"\n{aim.kind}s over {aim.limit} lines: {len(over)}")
        for size in over[:SHOWN]:
            print(f"  {size.lines:5}  {size.where}")


def sources(folders: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each Python file as it stands now."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix == ".py" or (path.is_file() and path.name == "gate"):
                yield path.relative_to(ROOT).as_posix(), path.read_text()


def sources_at(revision: str, folders: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the same as it stood at a commit."""
    names = _git("ls-tree", "-r", "--name-only", revision, "--", *folders).splitlines()
    for name in names:
        if name.endswith(".py") or name == "tools/gate":
            yield name, _git("show", f"{revision}:{name}")


def measure(files: Iterator[tuple[str, str]]) -> dict[str, list[Size]]:
    """Count the lines of files and of the functions in them, decorators and docstrings included."""
    sizes: dict[str, list[Size]] = {FUNCTIONS.kind: [], FILES.kind: []}
    for name, text in files:
        sizes[FILES.kind].append(Size(len(text.splitlines()), name))
        for node in ast.walk(ast.parse(text, name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                sizes[FUNCTIONS.kind].append(Size(lines, f"{name}:{node.lineno} {node.name}"))
    return sizes


def print_row(aim: Aim, sizes: list[Size], before: list[Size] | None) -> None:
    """Print one line of the table, and under it the change."""
    now = _figures(sizes)
    print(f"{aim.kind + 's':10} " + " ".join(f"{n:8}" for n in now) + f" {aim.aim:5} {aim.limit:6}")
    if before is not None:
        old = _figures(before)
        print(f"{'  change':10} " + " ".join(f"{n - o:+8}" for n, o in zip(now, old, strict=True)))


def _figures(sizes: list[Size]) -> tuple[int, int, int, int]:
    lines = sorted(size.lines for size in sizes) or [0]
    return len(sizes), int(statistics.median(lines)), lines[int(0.9 * (len(lines) - 1))], lines[-1]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, text=True, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
