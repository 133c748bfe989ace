"""An environment and its profile as JSON fields, and strictly back.

Part of the document that `schema` describes. Does not know about steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from parity.backend.profile import Profile, Rounding
from parity.backend.spec import BackendSpec, Setting
from parity.case.dtype import DType, dtype
from parity.errors import UsageError
from parity.store.fields import Field
from parity.store.recording import Environment

__all__ = ["environment_json", "read_dtype", "read_environment"]


_RECENT: dict[str, Environment] = {}  # the latest one, by its text


def environment_json(environment: Environment) -> dict[str, Any]:
    """Return plain data with names in a fixed order."""
    return {
        "backend": environment.backend,
        "setting": environment.setting,
        "profile": _sorted(environment.profile.to_json()),
        "provenance": _sorted(environment.provenance),
    }


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def read_environment(field: Field) -> Environment:
    """Read it back at exact types, which `Profile.from_json` alone would not insist on."""
    # All recordings of a run share one, and reading it costs as much as all else in a small one.
    # The text tells 1 from 1.0 and true, which equal each other in Python.
    text = json.dumps(field.value)
    if text not in _RECENT:
        found = _read_environment(field)
        _RECENT.clear()
        _RECENT[text] = found
    return _RECENT[text]


def _read_environment(field: Field) -> Environment:
    fields = field.record("backend", "setting", "profile", "provenance")
    try:
        BackendSpec.parse(fields["backend"].text())
    except UsageError:
        fields["backend"].fail("a backend")
    return Environment(
        backend=fields["backend"].text(),
        setting=fields["setting"].choice(Setting).value,
        profile=_profile(fields["profile"]),
        provenance={name: value.text() for name, value in fields["provenance"].mapping().items()},
    )


def _profile(field: Field) -> Profile:
    fields = field.record("accumulator", "flush_subnormals", "ulps", "declared")
    accumulator = fields["accumulator"].record("dtype", "block", "rounding")
    read_dtype(accumulator["dtype"])
    accumulator["block"].integer(minimum=1)
    accumulator["rounding"].choice(Rounding)
    fields["flush_subnormals"].boolean()
    for ulps in fields["ulps"].mapping().values():
        ulps.number()
    for item in fields["declared"].items():
        declared = item.record("fact", "ops", "dtypes", "value", "source")
        for name in ("fact", "value", "source"):
            declared[name].text()
        for text in (*declared["ops"].items(), *declared["dtypes"].items()):
            text.text()
    try:
        return Profile.from_json(field.value)
    except (KeyError, TypeError, ValueError, UsageError):
        field.fail("a profile")


def read_dtype(field: Field, *, exact: bool = False) -> DType:
    """Read the name of an element type; with `exact`, its tag alone will do."""
    text = field.text()
    try:
        found = dtype(text)
    except UsageError:
        field.fail("a dtype that this parity knows")
    if exact and found.tag != text:
        field.fail(f"an exact dtype tag such as '{found.tag}'")
    return found
