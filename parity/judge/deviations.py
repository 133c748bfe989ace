"""Declared, reasoned, expected departures of a backend: `cases/deviations/<family>.toml`.

An entry excuses exactly the verdict that it expects, on the versions that it names; one that no
longer departs is `stale`. Does not widen any budget.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from parity.backend.spec import BackendSpec, Setting
from parity.case.ids import CaseId, Selector
from parity.case.opinfo import is_opinfo
from parity.errors import UsageError, near_miss
from parity.judge.verdict import Verdict
from parity.store.recording import Environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Deviation", "Kind", "apply", "apply_to_run", "load"]


class Kind(Enum):
    """Who can end a deviation."""

    OURS = "ours"
    UPSTREAM = "upstream"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One declared departure; a table that lists several in `case` declares as many.

    `mode` (several with commas) and `setting` are empty for any; `versions` holds conditions on
    provenance, such as `openvino>=2026.1,<2027`, all of which must hold for the entry to apply.
    `inherited` ones are of a family that this one computes with; they are never stale here.
    """

    case: Selector
    expect: Verdict
    cause: str
    kind: Kind
    reason: str
    link: str = ""
    mode: str = ""
    setting: str = ""
    versions: str = ""
    where: str = ""
    inherited: bool = False

    def covers(self, case: CaseId, *, mode: str, setting: str, provenance: Mapping[str, str]) -> bool:
        """Whether this entry speaks of a case as it was run."""
        return (
            self.case.matches(case)
            and (not self.mode or mode in self.mode.split(","))
            and self.setting in ("", setting)
            and _versions_hold(self.versions, provenance)
        )


def load(folders: Iterable[Path], family: str, known: Sequence[CaseId]) -> tuple[Deviation, ...]:
    """Return the entries of a family, and of the one that its file says it `inherits`.

    Raises UsageError for a malformed entry, and for one that matches no case of the whole catalog.
    """
    entries = []
    for folder in folders:
        path = folder / "deviations" / f"{family}.toml"
        if not path.is_file():
            continue
        own, parent = _read(path)
        entries += own
        if parent:
            theirs, above = _read(path.with_name(f"{parent}.toml"))
            if above:
                raise UsageError(
                    f"{path}: inherits '{parent}', which inherits in turn; name '{above}' itself"
                )
            entries += [replace(entry, inherited=True) for entry in theirs]
    with_opinfo = any(is_opinfo(case.path) for case in known)
    for entry in entries:
        if is_opinfo(entry.case.path) and not with_opinfo:
            continue  # its cases are listed only where they are asked for
        if not any(entry.case.matches(case) for case in known):
            raise UsageError(
                f"{entry.where}: '{entry.case}' matches no case; remove the entry or mend its selector"
            )
    return tuple(entries)


def apply(
    deviations: Iterable[Deviation], case: CaseId, verdict: Verdict, **ran: object
) -> tuple[Verdict, Deviation | None]:
    """Return the verdict after declarations, and the entry that decided it.

    A departure that is expected becomes `known`; a `within` where one was expected, `stale`. What
    could not be judged stays what it is.
    """
    covering = [d for d in deviations if d.covers(case, **ran)]  # type: ignore[arg-type]  # forwards keywords
    for entry in covering:
        if verdict is entry.expect:
            return Verdict.KNOWN, entry
    own = [entry for entry in covering if not entry.inherited]
    if own and verdict is Verdict.WITHIN:
        return Verdict.STALE, own[0]
    return verdict, None


def apply_to_run(
    declared: Mapping[str, Sequence[Deviation]], case: CaseId, verdict: Verdict, environment: Environment
) -> tuple[Verdict, Deviation | None]:
    """Return the same for a case as it ran in an environment; `declared` are the entries of each family."""
    spec = BackendSpec.parse(environment.backend)
    return apply(
        declared.get(spec.family, ()),
        case,
        verdict,
        mode=spec.mode,
        setting=environment.setting,
        provenance=environment.provenance,
    )


def _read(path: Path) -> tuple[list[Deviation], str]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    tables, parent = data.pop("deviation", []), data.pop("inherits", "")
    tabled = isinstance(tables, list) and all(isinstance(table, dict) for table in tables)
    if data or not tabled or not isinstance(parent, str):
        raise UsageError(
            f'{path}: expected `inherits = "family"` and [[deviation]] tables alone, found '
            f"'{next(iter(data), 'deviation' if isinstance(parent, str) else 'inherits')}'"
        )
    entries = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: entry {number}"
        cases = table.get("case", "")
        listed = cases if isinstance(cases, list) and cases else [cases]
        entries += [_entry({**table, "case": case}, where) for case in listed]
    return entries, parent


def _entry(table: Mapping[str, object], where: str) -> Deviation:
    names = [f.name for f in fields(Deviation) if f.name not in ("where", "inherited")]
    for name, value in table.items():
        if name not in names:
            raise UsageError(f"{where}: unknown key '{name}'{near_miss(name, names)}")
        if not isinstance(value, str):
            raise UsageError(f"{where}: '{name}' must be text, got {value!r}")
    text = {name: str(value) for name, value in table.items()}
    for name in ("case", "expect", "cause", "kind", "reason"):
        if not text.get(name):
            raise UsageError(f"{where}: needs '{name}'")
    expect, kind = text["expect"], text["kind"]
    legal = [v.value for v in Verdict if v.departs and v is not Verdict.STALE]
    if expect not in legal:
        raise UsageError(
            f"{where}: cannot expect '{expect}'{near_miss(expect, legal)}; one of {', '.join(legal)}"
        )
    if kind not in {k.value for k in Kind}:
        raise UsageError(f"{where}: kind '{kind}' is not one of ours, upstream, never")
    settings = [s.value for s in Setting]
    if text.get("setting") and text["setting"] not in settings:
        raise UsageError(
            f"{where}: unknown setting '{text['setting']}'{near_miss(text['setting'], settings)}; one of "
            f"{', '.join(settings)}"
        )
    if text.get("versions") and not _conditions(text["versions"]):
        raise UsageError(f"{where}: versions '{text['versions']}' is not like 'torch>=2.13,<3'")
    rest: dict[str, Any] = {
        n: text[n] for n in ("cause", "reason", "link", "mode", "setting", "versions") if n in text
    }
    return Deviation(
        case=Selector.parse(text["case"]), expect=Verdict(expect), kind=Kind(kind), where=where, **rest
    )


_CONDITION = re.compile(r"\s*(?P<name>[A-Za-z0-9_-]*)\s*(?P<op>>=|<=|==|<|>)\s*(?P<version>[0-9][0-9.]*)\s*")


def _conditions(text: str) -> list[tuple[str, str, str]]:
    """Return (name, operator, version) of `openvino>=2026.1,<2027`; empty when it cannot be read."""
    conditions, name = [], ""
    for item in text.split(","):
        match = _CONDITION.fullmatch(item)
        name = match["name"] or name if match else ""
        if match is None or not name:
            return []
        conditions.append((name, match["op"], match["version"]))
    return conditions


def _versions_hold(text: str, provenance: Mapping[str, str]) -> bool:
    for name, operator, version in _conditions(text):
        found = re.match(r"[0-9.]*[0-9]", provenance.get(name, ""))
        if found is None:
            return False
        left, right = _padded(found[0], version)
        holds = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "<": left < right,
            ">": left > right,
        }
        if not holds[operator]:
            return False
    return True


def _padded(a: str, b: str) -> tuple[list[int], list[int]]:
    left, right = ([int(n) for n in v.split(".") if n] for v in (a, b))
    length = max(len(left), len(right))
    return left + [0] * (length - len(left)), right + [0] * (length - len(right))
