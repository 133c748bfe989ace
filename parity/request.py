"""What a command asks for: case files, cases, folders, and the command that asks for it again.

From words on the command line to things the stages take. Imports neither torch nor pyarrow, so
that listing cases stays quick. Does not run anything.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from parity.case.case import Case
from parity.case.catalog import Catalog, builtin_cases
from parity.case.ids import CaseId, Selector
from parity.errors import UsageError
from parity.judge.deviations import Deviation, load
from parity.report.json import failed_ids

if TYPE_CHECKING:
    from parity.run.side import Side

__all__ = [
    "LAST",
    "again",
    "case_folders",
    "choose",
    "declared_of",
    "failed_in_last_run",
    "goldens_below",
    "work_folder",
]

LAST = Path(".parity/last")


def case_folders(more: Sequence[Path] | None) -> list[Path]:
    """Return the built-in case files and the user's. Raises UsageError for one that is not there."""
    for path in more or ():
        if not path.exists():
            raise UsageError(f"--cases {path}: no such file or folder")
    return [builtin_cases(), *(more or ())]


def choose(catalog: Catalog, selectors: Sequence[str] | None, suite: str | None) -> list[Case]:
    """Return the cases that selectors and suite name; says on stderr when there are none."""
    parsed = [Selector.parse(text) for text in selectors or ()]
    chosen = catalog.select(parsed, suite=suite)
    if not chosen:
        what = " ".join(map(str, parsed)) or "the catalog"
        within = f" in suite {suite}" if suite else ""
        there = f" {parsed[0].path}" if parsed else ""
        print(f"no case matches {what}{within}; see what there is: parity list{there}", file=sys.stderr)
    return chosen


def failed_in_last_run(catalog: Catalog) -> list[Case]:
    """Return what was not within in the last run here; says on stderr when that is nothing."""
    path = LAST / "run.json"
    if not path.is_file():
        raise UsageError(f"--last-failed: there is no {path} here; run parity check first, in this folder")
    ids = failed_ids(path)
    if not ids:
        print("nothing failed in the last run", file=sys.stderr)
    return [catalog.get(CaseId.parse(text)) for text in ids]


def declared_of(
    folders: Sequence[Path], sides: Sequence[Side | None], catalog: Catalog
) -> dict[str, Sequence[Deviation]]:
    """Return the deviations that are declared of the family of each side."""
    families = {side.spec().family for side in sides if side is not None}
    return {family: load(folders, family, catalog.ids()) for family in families}


def goldens_below(golden: Path | None, *, builtin: Path) -> Path:
    """Return the golden root. Raises UsageError for one that is not there."""
    if golden is None:
        return builtin
    if not golden.is_dir():
        raise UsageError(
            f"--golden {golden}: no such folder; make one: parity record --backend cpu --golden {golden}"
        )
    return golden


@contextmanager
def work_folder() -> Iterator[Path]:
    """Make a folder for this run's recordings, removed at the end."""
    root = LAST.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="run-", dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(
            f"cannot write here: {root.resolve()}: {error.strerror}; run from a folder that can be written"
        ) from None
    with folder as name:
        yield Path(name)


def again(
    *, reference: str, target: str, production: bool, golden: Path | None, cases: Sequence[Path] | None
) -> str:
    """Return the command that checks the same two sides again, without its selection."""
    words = ["parity", "check", "--ref", reference, "--target", target]
    words += ["--production"] if production else []
    words += ["--golden", str(golden)] if golden else []
    for path in cases or ():
        words += ["--cases", str(path)]
    return shlex.join(words)
