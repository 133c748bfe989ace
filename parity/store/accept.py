"""What makes a recording a golden: no volatile fact in it, and a manifest entry about it.

Does not write; `folder` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity.case.tensor import HostTensor
from parity.store import schema
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
    """Return the first field in which two recordings differ, values before circumstances."""
    documents = [json.loads(schema.encode(side)) for side in (golden, recording)]
    for name in ("revision", "steps", "environment"):
        found = _difference(name, *(document[name] for document in documents))
        if found:
            return found
    return None


def _difference(name: str, golden: Any, recording: Any) -> str | None:
    if isinstance(golden, dict) and isinstance(recording, dict) and golden.keys() == recording.keys():
        pairs = [(f"{name}.{key}", golden[key], recording[key]) for key in golden]
    elif isinstance(golden, list) and isinstance(recording, list) and len(golden) == len(recording):
        pairs = [(f"{name}[{i}]", *both) for i, both in enumerate(zip(golden, recording, strict=True))]
    elif json.dumps(golden) == json.dumps(recording):  # 1 and 1.0 and true are three values
        return None
    else:
        return f"{name} is {_shown(golden)} there, {_shown(recording)} here"
    return next(filter(None, (_difference(*pair) for pair in pairs)), None)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"{len(value)} items"
    return repr(value)
