"""One side of a check: where its recordings come from, and the recording of each case.

A side is a folder of recordings, a golden set, a live backend, or golden where there is one and
live for the rest. Does not judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.case.ids import CaseId
from parity.errors import GoldenError
from parity.run.pool import run_cases
from parity.store import arrow
from parity.store.folder import MANIFEST, MissingGolden, Store
from parity.store.recording import Recording

__all__ = ["Live", "Result", "Side", "open_side", "paired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How cases are run here and now; `folder` receives the recordings."""

    spec: BackendSpec
    setting: Setting
    folder: Path
    case_folders: Sequence[Path]
    jobs: int = 1
    timeout_s: float = 60.0
    repeat: int = 1

    def results(self, cases: Sequence[Case]) -> Iterator[Result]:
        """Run cases in children and yield each as it is done; closing ends the children."""
        running = run_cases(
            cases,
            self.spec,
            self.setting,
            folder=self.folder,
            case_folders=self.case_folders,
            jobs=self.jobs,
            timeout_s=self.timeout_s,
            repeat=self.repeat,
        )
        with closing(running):  # type: ignore[type-var]  # run_cases is a generator, declared as an iterator
            for done in running:
                if done.path is None:
                    yield Result(case=done.case, recording=None, reason=done.not_run, seconds=done.seconds)
                else:
                    yield _read(done.case, done.path, done.seconds)


def _read(case: Case, path: Path, seconds: float) -> Result:
    # A recording that cannot be read back is never a result, whatever its child said.
    try:
        return Result(case=case, recording=arrow.read(path), seconds=seconds, path=path)
    except GoldenError as error:
        return Result(case=case, recording=None, reason=str(error), seconds=seconds, damaged=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case's recording, or the reason why there is none; `damaged` when one was there but unusable.

    `seconds` is the time that the case took in its child, 0 for a stored one.
    """

    case: Case
    recording: Recording | None
    reason: str = ""
    seconds: float = 0.0
    path: Path | None = None
    damaged: bool = False

    def __post_init__(self) -> None:
        if (self.recording is None) != bool(self.reason):
            raise ValueError(f"{self.case.id}: either a recording or the reason why there is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side turned out to be. Without `live`, what `store` lacks has no result."""

    name: str
    store: Store | None = None
    live: Live | None = None

    def stored(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases that the store has, readable or not."""
        if self.store is None:
            return []
        present = set(self.store.cases())
        return [case for case in cases if case.id in present]

    def spec(self) -> BackendSpec:
        """Return the backend that the recordings come from, or will."""
        if self.live is not None:
            return self.live.spec
        assert self.store is not None, "a side has a store or runs live"
        return BackendSpec.parse(self.store.kind.backend)

    def describe(self, cases: Sequence[Case]) -> str:
        """Say where the results of these cases come from."""
        stored = len(self.stored(cases))
        words = []
        if self.store is not None and (stored or self.live is None):
            made = self.store.manifest
            kind = f"golden {self.store.kind.backend}, {made.date}" if made else "recordings"
            words.append(kind if stored == len(cases) else f"{stored} from {kind}")
        if self.live is not None and stored < len(cases):
            words.append("run here" if not stored else f"{len(cases) - stored} run here")
        return ", ".join(words)

    def results(self, cases: Sequence[Case]) -> Iterator[Result]:
        """Yield one result for every case: stored ones in order, the others as they are done."""
        stored = self.stored(cases)
        names = {case.id for case in stored}
        others = [case for case in cases if case.id not in names]
        if self.live is None:
            for case in cases:
                yield self._load(case)
            return
        if not others:
            for case in stored:
                yield self._load(case)
            return
        with closing(self.live.results(others)) as running:  # type: ignore[type-var]  # a generator
            for case in stored:
                yield self._load(case)
            yield from running

    def _load(self, case: Case) -> Result:
        if self.store is None:
            return Result(case=case, recording=None, reason=f"'{self.name}' has no recordings here")
        try:
            return Result(case=case, recording=self.store.load(case), path=None)
        except MissingGolden as error:
            return Result(case=case, recording=None, reason=str(error))
        except GoldenError as error:
            return Result(case=case, recording=None, reason=str(error), damaged=True)


def open_side(name: str, *, goldens: Path | None, run: Callable[[BackendSpec], Live]) -> Side:
    """Resolve what the user named: a folder of recordings, else a backend, which `run` can start.

    With `goldens`, the golden set of that backend serves the cases it has. Raises UsageError for
    an unknown backend or a folder without recordings, GoldenError for a damaged manifest.
    """
    path = Path(name).expanduser()
    if path.is_dir() or name.startswith((".", "/", "~")):
        return Side(name=name, store=Store.open(_only_set(path)))
    spec = BackendSpec.parse(name)
    live = run(spec)
    available = create(spec, live.setting).available()
    store = Store.find(goldens, spec, live.setting) if goldens is not None else None
    if store is not None and not available.ok:
        return Side(name=name, store=store)
    return Side(name=name, store=store, live=live)


def _only_set(folder: Path) -> Path:
    """Return the set below a golden root that holds a single one, else the folder itself."""
    sets = [found.parent for found in folder.glob(f"*/*/*/{MANIFEST}")]
    return sets[0] if len(sets) == 1 else folder


def paired(
    cases: Sequence[Case], reference: Side | None, target: Side
) -> Iterator[tuple[Result | None, Result]]:
    """Yield (reference, target) results of each case, once, when both are there.

    Both sides run at the same time, and each is asked in turn, so that neither gets far ahead.
    """
    if reference is None:
        with closing(target.results(cases)) as running:  # type: ignore[type-var]  # a generator
            yield from ((None, result) for result in running)
        return
    waiting: dict[CaseId, tuple[bool, Result]] = {}
    with closing(reference.results(cases)) as left, closing(target.results(cases)) as right:  # type: ignore[type-var]  # generators
        streams = {True: left, False: right}
        while streams:
            for is_reference in list(streams):
                result = next(streams[is_reference], None)
                if result is None:
                    del streams[is_reference]
                    continue
                key = result.case.id
                if key not in waiting:
                    waiting[key] = (is_reference, result)
                    continue
                _, other = waiting.pop(key)
                yield (result, other) if is_reference else (other, result)
    assert not waiting, "every case has a result on both sides"
