"""Is the torch that lies here the one that was installed, and can it be imported?

A vendor's image carries its own build, and an installation that replaces it leaves traces: files
of one version under the record of another. Does not look at the vendors' plugins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions, entry_points
from pathlib import Path

from parity.backend import installed
from parity.backend.doctor_facts import FLOORS, is_same_version, release
from parity.backend.doctor_trial import AUTOLOAD, AUTOLOAD_GROUP, Trial, attempt
from parity.backend.finding import Finding, State

__all__ = ["VENDOR_REMEDY", "Record", "Torch", "examine_autoload", "examine_files", "examine_import", "find"]

VENDOR_REMEDY = (
    "start again from the vendor's image, or reinstall the vendor's own torch wheel; "
    "never pip install torch there"
)
_PLAIN_REMEDY = (
    "reinstall torch in a fresh virtual environment; in a vendor's image take the vendor's wheel: "
    "never pip install torch there"
)


# What torch's own index calls its builds; whatever else stands there was built by somebody else,
# such as `git…` (Gaudi's fork, DEVICES.md 3.3) or a bare commit (images of other vendors).
_PUBLIC_BUILD = re.compile(r"(cpu|cu\d+|rocm\d.*|xpu)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One version of torch that pip recorded, and the folder of packages that it is in."""

    folder: Path
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """What the files say, and every record of torch that pip would find, the one in force first.

    `is_vendor` is whether this is, or was, a vendor's environment: torch must not be replaced.
    """

    place: Path | None
    build: installed.TorchBuild | None
    records: Sequence[Record]
    is_vendor: bool

    @property
    def remedy(self) -> str:
        """What to do when this torch cannot stay."""
        return VENDOR_REMEDY if self.is_vendor else _PLAIN_REMEDY


def find(*, has_plugin: bool) -> Torch:
    """Read what lies here; `has_plugin` is whether a vendor's plugin is installed."""
    build = installed.torch_build()
    records = _records()
    versions = [record.version for record in records] + ([build.version] if build else [])
    return Torch(
        place=installed.module("torch"),
        build=build,
        records=records,
        is_vendor=has_plugin or any(_is_vendor_build(version) for version in versions),
    )


def _records() -> list[Record]:
    found = []
    for distribution in distributions(name="torch"):
        version = distribution.metadata["Version"]
        if version:  # else its METADATA is gone, and pip counts it as no record either
            found.append(Record(folder=Path(str(distribution.locate_file(""))).resolve(), version=version))
    folders = list(dict.fromkeys(record.folder for record in found))  # one may be on the path twice
    # Within a folder the file system decides which comes first: a report must not.
    return sorted(set(found), key=lambda record: (folders.index(record.folder), record.version))


def _is_vendor_build(version: str) -> bool:
    local = version.partition("+")[2]
    return bool(local) and _PUBLIC_BUILD.fullmatch(local) is None


def examine_files(torch: Torch) -> Iterator[Finding]:
    """Compare torch's `version.py` with pip's records, without importing it."""
    if torch.place is None:
        yield _missing(torch)
        return
    if torch.build is None:
        yield Finding(
            subject="torch",
            state=State.BROKEN,
            detail=f"{torch.place.parent} has no version.py that can be read: its files are damaged",
            remedy=torch.remedy,
        )
        return
    yield _recorded(torch, torch.build)
    yield from _other_records(torch)
    version, floor = release(torch.build.version), FLOORS["torch"]
    if version is not None and version < floor:
        yield Finding(
            subject="torch version",
            state=State.BROKEN,
            detail=f"{torch.build.version} is older than parity works with ({'.'.join(map(str, floor))})",
            remedy="use the vendor's newer image" if torch.is_vendor else _PLAIN_REMEDY,
        )


def _missing(torch: Torch) -> Finding:
    if torch.records:
        return Finding(
            subject="torch",
            state=State.BROKEN,
            detail=f"pip recorded torch {torch.records[0].version}, but its files are gone",
            remedy=torch.remedy,
        )
    return Finding(
        subject="torch",
        state=State.BROKEN,
        detail="torch is not installed, and every backend needs it",
        remedy=torch.remedy if torch.is_vendor else "install torch as its own installation page says",
    )


def _recorded(torch: Torch, build: installed.TorchBuild) -> Finding:
    if not torch.records:
        return Finding(
            subject="torch",
            state=State.WARNING,
            detail=f"{build.version} lies here without a record: pip would install another over it",
            remedy="install nothing that depends on torch; reinstall the vendor's own torch wheel first",
        )
    recorded = [record.version for record in torch.records if record.folder == torch.records[0].folder]
    if not any(is_same_version(version, build.version) for version in recorded):
        return Finding(
            subject="torch",
            state=State.BROKEN,
            detail=f"torch was replaced: its files say {build.version}, "
            f"pip recorded {' and '.join(recorded)}",
            remedy=torch.remedy,
        )
    kind = ", a vendor's own build: nothing may replace it" if _is_vendor_build(build.version) else ""
    return Finding(subject="torch", state=State.OK, detail=f"{build.version}, as pip recorded it{kind}")


def _other_records(torch: Torch) -> Iterator[Finding]:
    """Report a second torch: in one folder both were written, in two the first hides the other."""
    for other in torch.records[1:]:
        first = torch.records[0]
        if first.folder == other.folder:
            yield Finding(
                subject="torch records",
                state=State.BROKEN,
                detail=f"two records of torch, {first.version} and {other.version}, in {first.folder}",
                remedy=torch.remedy,
            )
        else:
            yield Finding(
                subject="torch records",
                state=State.WARNING,
                detail=f"torch {first.version} in {first.folder} hides {other.version} in {other.folder}",
                remedy=f"if {other.version} is the one you mean, remove the first: it came with "
                "pip install --user, or with a virtual environment over the image's Python",
            )


def examine_import(torch: Torch, trial: Trial, bare: Trial) -> Finding:
    """Say what `import torch` did, as the user has it and with no plugin loaded by itself."""
    if trial.ok:
        off = ", without loading plugins" if os.environ.get(AUTOLOAD) == "0" else ""
        return Finding(subject="import torch", state=State.OK, detail=f"works{off}")
    if bare.ok:
        return Finding(
            subject="import torch",
            state=State.WARNING,
            detail=f"works only with {AUTOLOAD}=0, else: {trial.failure}; torch itself is sound",
            remedy=f"repair the plugin that is named below; until then, export {AUTOLOAD}=0",
        )
    return Finding(subject="import torch", state=State.BROKEN, detail=bare.failure, remedy=torch.remedy)


def examine_autoload(*, timeout_s: float) -> Iterator[Finding]:
    """Load each plugin that torch loads by itself alone, and name those that fail."""
    failed = False
    points = sorted(entry_points(group=AUTOLOAD_GROUP), key=lambda point: point.name)
    for point in points:
        trial = attempt("torch", autoload=False, backend=point.name, timeout_s=timeout_s)
        if trial.ok:
            continue
        failed = True
        yield Finding(
            subject=f"plugin {point.name}",
            state=State.BROKEN,
            detail=f"{_owner(point.dist, point.value)} breaks import torch: {trial.failure}",
            remedy="repair it, or uninstall it if this machine does not have its device",
        )
    if not failed:
        yield Finding(
            subject="plugins",
            state=State.BROKEN,
            detail=f"each loads alone, together they break import torch: {', '.join(p.name for p in points)}",
            remedy="keep one accelerator's plugin in one environment",
        )


def _owner(distribution: Distribution | None, value: str) -> str:
    named = f"{distribution.metadata['Name']} {distribution.version}" if distribution else "a plugin"
    return f"{named} ({value})"
