"""What makes a recording a golden: no volatile fact in it, and a manifest entry about it.

Does not write; `folder` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from parity.case.dtype import DType
from parity.case.tensor import HostTensor
from parity.store.manifest import Golden
from parity.store.recording import Recording

__all__ = ["difference", "entry", "summed_up", "timeless"]

_JOINED = " | "


def timeless(recording: Recording) -> Recording:
    """Return the recording without what another run of the same would not give again."""
    return replace(recording, steps=tuple(replace(step, seconds=None) for step in recording.steps))


def entry(
    recording: Recording, *, digest: str, set_number: int, date: str, reason: str, producer: str
) -> Golden:
    """Return what the manifest says of a recording whose file has this digest."""
    stored = recording.tensors.values()
    return Golden(
        case=recording.case,
        revision=recording.revision,
        digest=digest,
        set=set_number,
        date=date,
        steps=len(recording.steps),
        elements=sum(tensor.numel for tensor in stored),
        non_finite=sum(_non_finite(tensor) for tensor in stored),
        reason=reason,
        producer=producer,
    )


def _non_finite(tensor: HostTensor) -> int:
    element, values = tensor.dtype, tensor.contiguous().storage
    if not element.is_float:
        return 0
    codes = values.view(f"u{element.itemsize}")
    if element.fnuz:
        return int(np.count_nonzero(codes == 1 << (element.bits - 1)))
    magnitude = codes & codes.dtype.type(2 ** (element.bits - 1) - 1)
    return int(np.count_nonzero(magnitude > element.max_code))


def summed_up(known: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Return provenance that covers both: where they differ, all values joined by ` | `."""
    joined = dict(known)
    for name, value in new.items():
        values = {*joined[name].split(_JOINED), value} if name in joined else {value}
        joined[name] = _JOINED.join(sorted(values))
    return joined


def difference(golden: Recording, recording: Recording) -> str | None:
    """Return the first field in which two recordings differ, values before circumstances.

    Field by field and not as they are written: there, a tensor is a number in a list, and what
    differs would be the list.
    """
    return _difference("", *(_facts(side) for side in (golden, recording)))


def _facts(recording: Recording) -> dict[str, Any]:
    facts = {field.name: getattr(recording, field.name) for field in fields(recording)}
    # A reference names the bytes of a tensor by digest; what is left is whether they are stored.
    facts["tensors"] = sorted(recording.tensors)
    facts["environment"] = facts.pop("environment")
    return facts


def _difference(name: str, golden: Any, recording: Any) -> str | None:
    there, here = _parts(golden), _parts(recording)
    if there is None and here is None and _text(golden) == _text(recording):
        return None
    if there is None or here is None or there.keys() != here.keys():
        return f"{name.removeprefix('.')} is {_shown(golden)} there, {_shown(recording)} here"
    return next(filter(None, (_difference(name + key, there[key], here[key]) for key in there)), None)


def _parts(value: Any) -> dict[str, Any] | None:
    """What a value is made of, by what is added to its name; None for a plain one."""
    if isinstance(value, Mapping):
        return {f".{key}": value[key] for key in value}
    if isinstance(value, (list, tuple)):
        return {f"[{i}]": each for i, each in enumerate(value)}
    if is_dataclass(value) and not isinstance(value, DType):
        return {f".{field.name}": getattr(value, field.name) for field in fields(value)}
    return None


def _text(value: Any) -> str:
    return json.dumps(_plain(value))  # 1 and 1.0 and true are three values


def _plain(value: Any) -> Any:
    if isinstance(value, DType):
        return value.tag
    return value.value if isinstance(value, Enum) else value


def _shown(value: Any) -> str:
    parts = _parts(value)
    return repr(_plain(value)) if parts is None else f"{len(parts)} items"
