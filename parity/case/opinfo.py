"""The suite `opinfo`: the calls that torch tests its own ops with, as cases.

    opinfo/<op>:dtype=f32,inputs=samples[,variant=…]      each step is one of torch's samples
    opinfo/<op>:dtype=f32,inputs=noncontiguous            the same values, spread out in memory
    opinfo/<op>:dtype=f32,inputs=errors                   calls that must raise

They exist only where they are asked for by name, since listing them loads torch and its internal test
module. A case is another one under another torch, or where the samples have other bits: its revision
holds torch's version and a digest of all arguments. Loads torch when asked, never when imported.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from parity.case.case import Subject, SubjectKind
from parity.case.cover import Row
from parity.case.family import Family, Params, Parts
from parity.case.op import Attr
from parity.errors import UsageError

__all__ = ["SOURCE", "SUITE", "Drawn", "families", "is_opinfo"]

SUITE = "opinfo"
SOURCE = "torch/testing/_internal/common_methods_invocations.py"
_SAMPLES = "samples"


def is_opinfo(path: str) -> bool:
    """Whether a path of a selector or id lies in this suite."""
    return path.split("/", maxsplit=1)[0] == SUITE


@functools.cache
def families() -> tuple[Family, ...]:
    """Return one family an op, by name. Raises UsageError where torch's database cannot be loaded."""
    listed = _database().listing().items()
    return tuple(
        _Listed(
            path=f"{SUITE}/{name}",
            domains={},
            builder=functools.partial(_build, name),
            allowed=lambda _: True,
            listed=tuple(rows),
        )
        for name, rows in sorted(listed)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed(Family):
    """A family whose rows are listed, not covered."""

    listed: tuple[Row, ...]

    def rows(self) -> list[Row]:
        """Return the parameters of every case."""
        return list(self.listed)


def _build(name: str, p: Params) -> Parts:
    row = {key: getattr(p, key) for key in ("dtype", "inputs")}
    try:
        full = f"{name}.{p.variant}"
    except AttributeError:
        full = name
    options = Drawn({"op": full, **row, "torch": _database().torch.__version__})
    return Parts(inputs=(), subject=Subject(kind=SubjectKind.OPINFO, options=options))


class Drawn(Mapping[str, Attr]):
    """Options of such a subject: `op`, `dtype`, `inputs`, `torch`, and `samples`, a digest made when read.

    Drawing the samples of every case would take seconds, and most are listed only to be chosen from.
    """

    __slots__ = ("_known",)

    def __init__(self, known: Mapping[str, Attr]) -> None:
        self._known = dict(known)

    def __getitem__(self, name: str) -> Attr:
        if name == _SAMPLES and name not in self._known:
            known = {key: str(self._known[key]) for key in ("dtype", "inputs")}
            self._known[name] = _database().sample_digest(str(self._known["op"]), **known)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*(key for key in self._known if key != _SAMPLES), _SAMPLES))

    def __len__(self) -> int:
        return len(set(self._known) | {_SAMPLES})

    def __contains__(self, name: object) -> bool:
        return name == _SAMPLES or name in self._known


@functools.cache
def _database() -> ModuleType:
    try:
        return importlib.import_module("parity.case.opinfo_db")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("parity"):
            raise
        raise UsageError(
            f"opinfo: it needs '{error.name}', which is not installed: pip install torch"
        ) from None
