"""A store: a folder of recordings, either a set of goldens with a manifest or a run's loose files.

In a set only what the manifest lists is a golden, and its digest is the manifest's; a loose file
carries its own. Goldens are created, never overwritten. Does not decide which store a user means;
the doors do.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import parity
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.case.ids import CaseId
from parity.errors import GoldenError, UsageError
from parity.store import accept, arrow, manifest
from parity.store.manifest import Golden, Kind, Manifest
from parity.store.recording import Recording

__all__ = ["MANIFEST", "MissingGolden", "Store", "builtin_goldens", "recording_path"]

MANIFEST = "manifest.toml"


class MissingGolden(GoldenError):
    """The store has no recording of a case, as opposed to a damaged or another one."""


def builtin_goldens() -> Path:
    """Return the folder of goldens that comes with parity: bundled, else the checkout's."""
    package = Path(parity.__file__).parent
    bundled = package / "_bundled" / "golden"
    return bundled if bundled.is_dir() else package.parent / "golden"


def recording_path(folder: Path, case: CaseId) -> Path:
    """Return where a case's recording lies below a store; an id cannot lead out of it."""
    return folder / case.path / f"{case.file_name}.arrow"


class Store:
    """Use `open`, `create` or `find`. As a context manager it saves what was added, come what may.

    `manifest` is as on the disk: None for loose recordings and for a set that is not begun.
    """

    def __init__(self, path: Path, *, is_set: bool) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self._is_set = is_set
        self._kind: Kind | None = None
        self._goldens: dict[str, Golden] = {}
        self._environment: Mapping[str, str] = {}
        if is_set and self._manifest_path.exists():
            self._take(manifest.read(self._manifest_path))

    def _take(self, found: Manifest) -> None:
        self.manifest = found
        self._kind = found.kind
        self._goldens = {golden.case: golden for golden in found.goldens}
        self._environment = found.environment

    @property
    def _manifest_path(self) -> Path:
        return self.path / MANIFEST

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a folder to read: a set by its manifest, any other by the files that are there.

        Raises UsageError for a path that holds no recordings.
        """
        if (path / MANIFEST).exists():
            return cls(path, is_set=True)
        if not path.is_dir():
            raise UsageError(f"{path}: is not a folder of recordings")
        sets = sorted(str(found.parent) for found in path.glob(f"*/*/*/{MANIFEST}"))
        if sets:
            raise UsageError(f"{path}: is a folder of sets of goldens; name one of {', '.join(sets)}")
        if not _loose(path):
            raise UsageError(f"{path}: holds no recordings")
        return cls(path, is_set=False)

    @classmethod
    def create(cls, path: Path) -> Store:
        """Open a set to add to, or begin one where there is none.

        Raises UsageError for a folder of loose recordings, so that these are not taken for goldens.
        """
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: is not a folder")
        if not (path / MANIFEST).exists() and _loose(path):
            raise UsageError(f"{path}: holds recordings that no manifest lists; name a new folder")
        return cls(path, is_set=True)

    @classmethod
    def find(cls, root: Path, spec: BackendSpec, setting: Setting) -> Store | None:
        """Return the set of goldens below `root` that a backend's name means, if there is one.

        Raises UsageError listing them when the family alone was named and several flavours match.
        """
        found = {
            folder.parent.name: folder
            for folder in sorted((root / spec.family).glob(f"*/{spec.mode}-{setting.value}"))
            if (folder / MANIFEST).exists() and spec.flavour in {None, folder.parent.name}
        }
        if len(found) > 1:
            names = ", ".join(str(BackendSpec(spec.family, name, mode=spec.mode)) for name in found)
            raise UsageError(f"'{spec}' has goldens of several flavours; name one of {names}")
        if not found:
            return None
        store = cls.open(*found.values())
        if root / store.kind.folder != store.path:
            raise GoldenError(
                f"{store.path / MANIFEST}: is of {store.kind}, which belongs into {store.kind.folder}. "
                f"Restore it: git checkout -- {store.path}"
            )
        return store

    @property
    def kind(self) -> Kind:
        """Backend and setting of the recordings; of the first readable one when they are loose."""
        if self._kind is None:
            self._check_kind(self._any(), self.path)
        assert self._kind is not None
        return self._kind

    def environment(self) -> Mapping[str, str]:
        """Return the provenance of a set, or of the first readable recording when they are loose."""
        return self._environment if self._is_set else self._any().environment.provenance

    def cases(self) -> list[CaseId]:
        """Return the ids of all recordings, sorted. A file that is not called like one is none."""
        return sorted(map(CaseId.parse, self._goldens)) if self._is_set else _loose(self.path)

    def load(self, case: Case) -> Recording:
        """Return the recording of a case.

        Raises MissingGolden when there is none, and GoldenError when it is damaged or was made
        from another case, revision, backend or setting.
        """
        path = recording_path(self.path, case.id)
        golden = self._goldens.get(str(case.id))
        if golden is None and (self._is_set or not path.exists()):
            folder = str(self.path) if self._is_set else "NEW_FOLDER"
            raise MissingGolden(f"{self.path}: has no recording of {case.id}. {self._again(case.id, folder)}")
        if golden is not None and golden.revision != case.revision:
            raise self._stale(case, golden.revision)
        recording = self._read(case.id)
        if recording.case != str(case.id):
            raise GoldenError(
                f"{path}: is a recording of {recording.case}. {self._again(case.id, 'NEW_FOLDER')}"
            )
        if recording.revision != case.revision:
            raise self._stale(case, recording.revision)
        return recording

    def _stale(self, case: Case, revision: str) -> GoldenError:
        return GoldenError(
            f"{recording_path(self.path, case.id)}: was recorded from another revision of this case, "
            f"{revision}; it is {case.revision} now. {self._again(case.id, 'NEW_FOLDER')}"
        )

    def _again(self, case: CaseId, folder: str) -> str:
        kind = self._kind
        side = f"--backend {kind.backend if kind else 'BACKEND'}"
        if kind and kind.setting == Setting.PRODUCTION.value:
            side += " --production"
        return f"Record it: parity record {case} {side} --golden {folder}"

    def _read(self, case: CaseId) -> Recording:
        path = recording_path(self.path, case)
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(self.path)):
            raise GoldenError(f"{path}: leads out of the store, to {real}. Put the file itself there")
        golden = self._goldens.get(str(case))
        recording = arrow.read(path, digest=golden.digest if golden else None)
        self._check_kind(recording, path)
        return recording

    def _check_kind(self, recording: Recording, path: Path) -> None:
        try:
            kind = Kind.of(recording.environment)
        except UsageError as error:
            raise GoldenError(f"{path}: {error}. Record it with the name of a backend") from None
        self._kind = self._kind or kind
        if kind != self._kind:
            raise GoldenError(
                f"{path}: is of {kind}, but {self.path} is of {self._kind}. "
                "Give each backend and setting a folder of its own"
            )

    def _any(self) -> Recording:
        failure = GoldenError(f"{self.path}: holds no recordings yet")
        for case in self.cases():
            try:
                return self._read(case)
            except GoldenError as error:
                failure = error
        raise failure

    def add(self, recording: Recording, *, reason: str, producer: str) -> bool:
        """Make a recording a golden, without its volatile facts; `save` then lists it.

        Returns False when the set already has an equal one. Raises GoldenError when it has another
        one of this case, or is of another backend or setting: goldens are never overwritten.
        """
        assert self._is_set, "open a store with create() to add to it"
        recording = accept.timeless(recording)
        case = CaseId.parse(recording.case)
        path = recording_path(self.path, case)
        self._check_kind(recording, path)
        if recording.case in self._goldens:
            found = accept.difference(self._read(case), recording)
            if found is None:
                return False
            raise GoldenError(
                f"{path}: is there already and differs: {found}. Goldens are never overwritten. "
                f"{self._again(case, 'NEW_FOLDER')}"
            )
        if self.manifest is None:
            # An interrupted run then leaves a set that lacks goldens, not loose files without digests.
            self._write(set_number=0, producer=producer)
        assert self.manifest is not None
        self._goldens[recording.case] = accept.entry(
            recording,
            digest=self._written(recording, path),
            set_number=self.manifest.set + 1,
            date=_today(),
            reason=reason,
            producer=producer,
        )
        self._environment = accept.summed_up(self._environment, recording.environment.provenance)
        return True

    def describe(self, facts: Mapping[str, str]) -> None:
        """Add facts to the environment of the set, for goldens that are added to it."""
        self._environment = accept.summed_up(self._environment, facts)

    @staticmethod
    def _written(recording: Recording, path: Path) -> str:
        digest = arrow.write(recording, path, trailer=False)
        try:
            arrow.read(path, digest=digest)
        except GoldenError:  # it contradicts itself: nothing that cannot be read becomes a golden
            path.unlink(missing_ok=True)
            raise
        return digest

    def save(self) -> None:
        """List in the manifest what was added; one that nothing was added to stays as it is.

        Raises GoldenError when another run changed the manifest meanwhile.
        """
        if self.manifest is None or len(self._goldens) == len(self.manifest.goldens):
            return
        if manifest.read(self._manifest_path) != self.manifest:
            raise GoldenError(
                f"{self._manifest_path}: another run changed it, so nothing was listed. Run this again"
            )
        latest = max(self._goldens.values(), key=lambda golden: golden.set)
        self._write(set_number=latest.set, producer=latest.producer)

    def _write(self, *, set_number: int, producer: str) -> None:
        assert self._kind is not None
        written = Manifest(
            set=set_number,
            kind=self._kind,
            producer=producer,
            date=_today(),
            host=platform.node(),
            environment=self._environment,
            goldens=tuple(self._goldens[case] for case in sorted(self._goldens)),
        )
        manifest.write(written, self._manifest_path)
        self._take(written)

    def __enter__(self) -> Store:  # noqa: PYI034  Python 3.10 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        self.save()


def _today() -> str:
    return dt.datetime.now(dt.timezone.utc).date().isoformat()


def _loose(path: Path) -> list[CaseId]:
    found = []
    for folder, _, names in os.walk(path):
        above = Path(folder).relative_to(path).as_posix()
        for name in names:
            stem = name.removesuffix(".arrow")
            try:
                case = CaseId.parse(above if stem == "default" else f"{above}:{stem}")
            except UsageError:
                continue
            if recording_path(path, case) == Path(folder) / name:
                found.append(case)
    return sorted(found)
