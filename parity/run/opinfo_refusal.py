"""Record a call that torch documents as an error: what counts is that the target refuses it, too.

Such a step has one output, a bool that says whether the call raised. Does not judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from parity.backend.base import Backend, Node, Unsupported, Witness
from parity.backend.observed import observe
from parity.case.dtype import DTYPES
from parity.case.op import Attr
from parity.case.opinfo_db import Sample
from parity.case.tensor import HostTensor
from parity.store.recording import StepRecord, TensorRef

__all__ = ["refused"]


def refused(
    backend: Backend,
    sample: Sample,
    name: str,
    call: Callable[[], Any],
    *,
    keep: Callable[[str, HostTensor], TensorRef],
) -> StepRecord:
    """Run a call that must raise, and return whether it did; another error than documented is noted."""
    began, raised = time.perf_counter(), ""
    try:
        observe(backend, call, f"refused:{name}")
    except Exception as error:  # noqa: BLE001  # to raise is what it should
        cause = error.__cause__ if isinstance(error, Unsupported) and error.__cause__ else error
        raised = type(cause).__name__
    seconds = time.perf_counter() - began
    attrs: dict[str, Attr] = {"documented": sample.error, "raised": raised}
    output = keep("refused", HostTensor.of(np.array([bool(raised)]), DTYPES["bool"]))
    # What refused is the target's own front end: nothing else of the call was executed.
    node = Node(
        kind=f"refusal:{raised or 'none'}", device=str(getattr(backend, "device", "")), precision="bool"
    )
    return StepRecord(
        name=sample.name,
        op=f"refused:{name}",
        attrs=attrs,
        inputs=(),
        outputs=(output,),
        witness=Witness(executed=(node,)),
        seconds=seconds,
    )
