"""The text beside a set of goldens: which files are goldens, with what digest, and why.

Volatile facts (date, host) live here and never in a recording. A reviewer reads it in a diff, so
it is written in one order. Does not open recordings; `folder` does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from parity.backend.spec import BackendSpec, Setting
from parity.case.ids import CaseId
from parity.errors import GoldenError, UsageError
from parity.store.atomic import replacing
from parity.store.fields import Field
from parity.store.recording import Environment
from parity.store.schema import VERSION

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Golden", "Kind", "Manifest", "read", "text", "write"]

# The flavour of a backend that has none.
_NO_FLAVOUR = "default"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What all recordings of one store share: the backend, without a device index, and the setting."""

    family: str
    flavour: str
    mode: str
    setting: str

    @classmethod
    def of(cls, environment: Environment) -> Kind:
        """Return the kind of a recording.

        A backend that was asked for by family alone may name its flavour in its provenance.
        """
        spec = BackendSpec.parse(environment.backend)
        flavour = spec.flavour or environment.provenance.get("flavour") or _NO_FLAVOUR
        if not flavour.strip("."):
            raise UsageError(f"'{environment.backend}': flavour '{flavour}' cannot name a folder")
        return cls(family=spec.family, flavour=flavour, mode=spec.mode, setting=environment.setting)

    @property
    def backend(self) -> str:
        """The backend as a user writes it."""
        flavour = None if self.flavour == _NO_FLAVOUR else self.flavour
        return str(BackendSpec(self.family, flavour, mode=self.mode))

    @property
    def folder(self) -> Path:
        """Where a set of this kind belongs below a golden root."""
        return Path(self.family) / self.flavour / f"{self.mode}-{self.setting}"

    def __str__(self) -> str:
        return f"{self.backend} ({self.setting})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One accepted recording. `set` is the set number that it came with.

    `elements` and `non_finite` count over the stored tensors, each once.
    """

    case: str
    revision: str
    digest: str
    set: int
    date: str
    steps: int
    elements: int
    non_finite: int
    reason: str
    producer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A set: `set` counts the additions to it; date, host and producer are of the latest one.

    `environment` sums up the provenance of all goldens: where they differ, the values are joined
    by ` | `.
    """

    set: int
    kind: Kind
    producer: str
    date: str
    host: str
    environment: Mapping[str, str] = field(default_factory=dict)
    goldens: tuple[Golden, ...] = ()


_KIND = tuple(f.name for f in fields(Kind))
_VOLATILE = ("producer", "date", "host")
_GOLDEN = tuple(f.name for f in fields(Golden))


def text(manifest: Manifest) -> str:
    """Return the manifest as TOML, goldens sorted by case, so that equal ones are equal text."""
    return "".join(f"{line}\n" for line in _lines(manifest))


def _lines(manifest: Manifest) -> Iterator[str]:
    yield "# Written by parity, which reads it strictly. The format: golden/README.md"
    yield f"schema = {VERSION}"
    yield f"set = {manifest.set}"
    yield from (f"{name} = {_value(getattr(manifest.kind, name))}" for name in _KIND)
    yield from (f"{name} = {_value(getattr(manifest, name))}" for name in _VOLATILE)
    yield from ("", "[environment]")
    for name in sorted(manifest.environment):
        key = name if _BARE_KEY.fullmatch(name) else _value(name)
        yield f"{key} = {_value(manifest.environment[name])}"
    for golden in sorted(manifest.goldens, key=lambda g: g.case):
        yield from ("", "[[golden]]")
        yield from (f"{name} = {_value(getattr(golden, name))}" for name in _GOLDEN)


def _value(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    # TOML has no lone surrogates, which Python makes of bytes that are not UTF-8: show the byte.
    shown = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return '"' + "".join(_escaped(character) for character in shown) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    # What cannot be seen could say in a diff something else than what is there.
    if not character.isprintable():
        code = ord(character)
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def write(manifest: Manifest, path: Path) -> None:
    """Write it whole or not at all. Raises GoldenError when the path cannot be written."""
    with replacing(path) as file:
        file.write(text(manifest).encode("utf-8"))


def read(path: Path) -> Manifest:
    """Read it back. Raises GoldenError for any field that is missing, unknown or of the wrong type."""
    repair = f"Restore it: git checkout -- {path}"
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise GoldenError(f"{path}: cannot be read: {error.strerror or error}. {repair}") from None
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"{path}: is not TOML: {error}. {repair}") from None
    version = data.get("schema")
    if type(version) is not int or version != VERSION:
        raise GoldenError(
            f"{path}: schema version {'none' if version is None else repr(version)}, but this parity "
            f"reads {VERSION}. Use the parity that wrote it, or record into a new folder"
        )
    # A set without goldens has no such table.
    data.setdefault("golden", [])
    root = Field(data, file=path, repair=repair)
    found = root.record("schema", "set", *_KIND, *_VOLATILE, "environment", "golden")
    goldens: dict[str, Golden] = {}
    for entry in found["golden"].items():
        golden = _golden(entry)
        if golden.case in goldens:
            raise GoldenError(f"{path}: lists {golden.case} twice. {repair}")
        goldens[golden.case] = golden
    return Manifest(
        set=found["set"].integer(),
        kind=_kind(found),
        **{name: found[name].text() for name in _VOLATILE},
        environment={name: value.text() for name, value in found["environment"].mapping().items()},
        goldens=tuple(goldens.values()),
    )


def _kind(found: Mapping[str, Field]) -> Kind:
    setting = found["setting"].choice(Setting).value
    kind = Kind(**{name: found[name].text() for name in _KIND if name != "setting"}, setting=setting)
    try:
        BackendSpec.parse(kind.backend)
    except UsageError:
        found["family"].fail("the family of a backend")
    return kind


def _golden(entry: Field) -> Golden:
    found = entry.record(*_GOLDEN)
    try:
        case = str(CaseId.parse(found["case"].text()))
    except UsageError:
        found["case"].fail("a case id")
    return Golden(
        case=case,
        revision=found["revision"].digest(),
        digest=found["digest"].digest(),
        set=found["set"].integer(minimum=1),
        date=found["date"].text(),
        steps=found["steps"].integer(),
        elements=found["elements"].integer(),
        non_finite=found["non_finite"].integer(),
        reason=found["reason"].text(),
        producer=found["producer"].text(),
    )
