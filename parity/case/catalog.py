"""Which cases exist: case files loaded by path, ids at once, cases built when they are asked for.

A case file is Python text that is run, never imported, so no folder needs to be a package and no
`__pycache__` is left in it. Built-in files and a user's go the same way. Does not run cases.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from parity.case.builtin import builtin_cases
from parity.case.case import Case
from parity.case.cover import each_value
from parity.case.family import REGISTER, Family
from parity.case.ids import CaseId, Selector
from parity.case.opinfo import SOURCE as OPINFO_SOURCE
from parity.case.opinfo import SUITE as OPINFO
from parity.case.opinfo import families as opinfo_families
from parity.case.opinfo import is_opinfo
from parity.errors import UsageError, near_miss

__all__ = ["LARGE_BYTES", "SMOKE_ROWS", "Catalog", "builtin_cases"]

# A case whose inputs exceed this is in the suite `large` alone: it runs when that is named, or the
# case's full id.
LARGE_BYTES = 256 << 20

# `sample` holds every parameter value of every family, `smoke` the first rows of that.
SMOKE_ROWS = 2

_DERIVED_SUITES = ("large", "sample", "smoke")


@dataclass(frozen=True)
class _Loaded:
    """A family and the file that it came from."""

    family: Family
    file: Path

    @cached_property
    def source(self) -> str:
        """`file:line` of its definition."""
        return f"{_shown(self.file)}:{self.family.line}"

    @cached_property
    def ids(self) -> tuple[CaseId, ...]:
        """Its ids, sorted; drawing them up runs `allowed` but builds no case."""
        with _located(self.file, line=self.family.line):
            return tuple(sorted(CaseId.of(self.family.path, row) for row in self.family.rows()))

    @cached_property
    def cases(self) -> dict[CaseId, Case]:
        """Its cases by id, in the order of `ids`."""
        return {case: self._build(case) for case in self.ids}

    @cached_property
    def sample(self) -> tuple[CaseId, ...]:
        """Ids that together hold every parameter value, most new values first, large ones left out."""
        rows = [dict(case.params) for case in self.ids if not self.is_large(case)]
        path = self.family.path
        chosen = each_value(rows, lambda row: -self.cases[CaseId.of(path, row)].nbytes)
        return tuple(CaseId.of(path, row) for row in chosen)

    def members(self, suite: str | None) -> Sequence[CaseId]:
        """Return the ids that are in a suite, sorted; all of them for none."""
        match suite:
            case None:
                return self.ids
            case "large":
                return [case for case in self.ids if self.is_large(case)]
            case "sample":
                return sorted(self.sample)
            case "smoke":
                return sorted(self.sample[:SMOKE_ROWS])
            case _ if self.family.path.split("/")[0] == suite:
                return [case for case in self.ids if not self.is_large(case)]
            case _:
                return []

    def is_large(self, case: CaseId) -> bool:
        """Whether a case is left out unless it is asked for by name or suite."""
        return self.family.large or self.cases[case].nbytes > LARGE_BYTES

    def _build(self, case: CaseId) -> Case:
        with _located(self.file, line=self.family.line, doing=f"building '{case}': "):
            return self.family.build(case, source=self.source)


@dataclass(frozen=True)
class Catalog:
    """Every family of the loaded folders, by path."""

    families: tuple[_Loaded, ...]

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Catalog:
        """Run every case file in the folders, or the files named.

        Raises UsageError for a file that cannot be run, and for two cases of one id.
        """
        files = {file.resolve(): file for folder in folders for file in _case_files(folder)}
        families = [_Loaded(family, file) for file in files.values() for family in _run(file)]
        catalog = cls(tuple(sorted(families, key=lambda loaded: loaded.family.path)))
        catalog._refuse_twins()
        return catalog

    def paths(self) -> list[str]:
        """Return every `suite/test`, sorted."""
        return list(dict.fromkeys(loaded.family.path for loaded in self.families))

    def suites(self) -> list[str]:
        """Return the names that `select` takes as suite."""
        return sorted({path.split("/")[0] for path in self.paths()} | {*_DERIVED_SUITES, OPINFO})

    def ids(self) -> list[CaseId]:
        """Return every id, those of `large` too, by path."""
        return [case for loaded in self.families for case in loaded.ids]

    def select(self, selectors: Sequence[Selector], *, suite: str | None) -> list[Case]:
        """Return the cases under any selector (all, without one) that are in the suite.

        Empty when the paths exist but no case there has the parameters or is in the suite. Raises
        UsageError for a path that names nothing and for an unknown suite.
        """
        if suite is not None and suite not in self.suites():
            known = ", ".join(self.suites())
            raise UsageError(f"no suite '{suite}'{near_miss(suite, self.suites())}; there are {known}")
        if suite == OPINFO or any(is_opinfo(selector.path) for selector in selectors):
            return self._with_opinfo._select(selectors, suite=suite)  # noqa: SLF001 - of its own kind
        return self._select(selectors, suite=suite)

    def _select(self, selectors: Sequence[Selector], *, suite: str | None) -> list[Case]:
        for selector in selectors:
            self._require(selector.path)
        found = []
        for loaded in self.families:
            asked = [s for s in selectors if s.matches_path(loaded.family.path)]
            if selectors and not asked:
                continue
            ids = [c for c in loaded.members(suite) if not asked or any(s.matches(c) for s in asked)]
            wanted = [c for c in ids if suite or not loaded.is_large(c) or _is_named(c, asked)]
            found += [loaded.cases[case] for case in wanted]
        return found

    def get(self, id: CaseId) -> Case:  # noqa: A002  # the word that every caller uses
        """Return one case. Raises UsageError with the near miss when there is none."""
        there = self._with_opinfo if is_opinfo(id.path) else self
        return there._get(id)  # noqa: SLF001 - of its own kind

    def _get(self, id: CaseId) -> Case:  # noqa: A002  # see above
        for loaded in self.families:
            if loaded.family.path == id.path and id in loaded.cases:
                return loaded.cases[id]
        self._require(id.path)
        known = [str(case) for case in self.ids() if case.path == id.path]
        raise UsageError(f"no case '{id}'{near_miss(str(id), known)}; list them: parity list {id.path}")

    @cached_property
    def _with_opinfo(self) -> Catalog:
        """This catalog with torch's own ops, which are listed only where they are asked for by name."""
        more = (_Loaded(family, Path(OPINFO_SOURCE)) for family in opinfo_families())
        return Catalog((*self.families, *more))

    def _require(self, path: str) -> None:
        if not any(Selector(path).matches_path(known) for known in self.paths()):
            prefixes = {
                known.rsplit("/", depth)[0] for known in self.paths() for depth in range(known.count("/") + 1)
            }
            raise UsageError(
                f"'{path}' names no case{near_miss(path, sorted(prefixes))}; list them: parity list"
            )

    def _refuse_twins(self) -> None:
        paths = [loaded.family.path for loaded in self.families]
        seen: dict[CaseId, str] = {}
        for loaded in self.families:
            if paths.count(loaded.family.path) == 1:
                continue
            for case in loaded.ids:
                if case in seen:
                    raise UsageError(f"{loaded.source}: case '{case}' is already defined at {seen[case]}")
                seen[case] = loaded.source


def _is_named(case: CaseId, selectors: Sequence[Selector]) -> bool:
    return any(s.path == case.path and set(s.params) == set(case.params) for s in selectors)


def _case_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UsageError(f"no folder of case files at {folder}")
    files = [
        file
        for file in sorted(folder.rglob("*.py"))
        if not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise UsageError(f"{folder} holds no case file: expected one or more *.py")
    return files


def _run(file: Path) -> list[Family]:
    """Run a case file and return the families that it declares."""
    # Known to sys.modules only while it runs: dataclasses in it look their module up.
    module = ModuleType(f"case_file_{file.stem}")
    module.__file__ = str(file)
    with _located(file, line=1):
        code = compile(file.read_text(encoding="utf-8"), str(file), "exec", dont_inherit=True)
        sys.modules[module.__name__] = module
        try:
            exec(code, module.__dict__)  # noqa: S102  # a case file is the user's own program
        finally:
            del sys.modules[module.__name__]
        families: list[Family] = module.__dict__.get(REGISTER, [])
        if not families:
            raise UsageError("declares no family; a helper's name begins with _")
        return families


@contextmanager
def _located(file: Path, *, line: int, doing: str = "") -> Iterator[None]:
    """Turn whatever a case file raises into a UsageError that names the file and the line."""
    try:
        yield
    except (Exception, SystemExit) as problem:  # noqa: BLE001  # any program may stand in the file
        frames = traceback.extract_tb(problem.__traceback__)
        line = next((f.lineno or line for f in reversed(frames) if f.filename == str(file)), line)
        text = f"{type(problem).__name__}: {problem}"
        if isinstance(problem, SyntaxError):
            line, text = problem.lineno or line, f"{type(problem).__name__}: {problem.msg}"
        elif isinstance(problem, UsageError):
            text = str(problem)
        if text.startswith(f"{_shown(file)}:"):
            raise UsageError(text) from None  # Case says itself where it is defined
        raise UsageError(f"{_shown(file)}:{line}: {doing}{text}") from None


def _shown(file: Path) -> str:
    """Return the path as a user would type it: relative below the current folder, else absolute."""
    full, here = file.resolve(), Path.cwd()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)
