"""One side of a check: where its recordings come from, and the recording of each case.

A side is a folder of recordings, a golden set, a live backend, or golden where there is one and
live for the rest. Does not judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.errors import GoldenError
from parity.run.pool import run_cases
from parity.store import arrow
from parity.store.folder import MissingGolden, Store
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
        present = {str(case) for case in self.store.cases()}
        return [case for case in cases if str(case.id) in present]

    def results(self, cases: Sequence[Case]) -> Iterator[Result]:
        """Yield one result for every case: stored ones in order, the others as they are done."""
        stored = self.stored(cases)
        names = {str(case.id) for case in stored}
        others = [case for case in cases if str(case.id) not in names]
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


def open_side(name: str, *, goldens: Path | None, live: Mapping[str, object], use_live: bool = True) -> Side:
    """Resolve what the user named: a folder that exists, else a backend.

    With `goldens`, a golden set of that backend is used for the cases it has. Raises UsageError
    for an unknown backend or a folder that does not exist, GoldenError for a damaged manifest.
    """
    path = Path(name)
    if path.is_dir() or ("/" in name.rstrip("/") and name.startswith((".", "/", "~"))):
        return Side(name=name, store=Store.open(path.expanduser()))
    spec, setting = BackendSpec.parse(name), live["setting"]
    assert isinstance(setting, Setting)
    backend = create(spec, setting)
    store = Store.find(goldens, spec, setting) if goldens is not None else None
    runner = None
    if use_live and (store is None or backend.available().ok):
        runner = Live(spec=spec, **live)  # type: ignore[arg-type]  # forwards keywords
    return Side(name=name, store=store, live=runner)


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
    waiting: dict[str, tuple[bool, Result]] = {}
    with closing(reference.results(cases)) as left, closing(target.results(cases)) as right:  # type: ignore[type-var]  # generators
        streams = {True: left, False: right}
        while streams:
            for is_reference in list(streams):
                result = next(streams[is_reference], None)
                if result is None:
                    del streams[is_reference]
                    continue
                key = str(result.case.id)
                if key not in waiting:
                    waiting[key] = (is_reference, result)
                    continue
                _, other = waiting.pop(key)
                yield (result, other) if is_reference else (other, result)
    assert not waiting, "every case has a result on both sides"
