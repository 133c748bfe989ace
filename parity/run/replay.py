"""Run recorded steps again, each alone, on an open backend and on exactly what it consumed.

No error can travel from one step to the next, and a step whose kernel crashes costs itself. Does
not choose steps nor survive the death of the process; `replayer` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from parity.backend.base import Backend
from parity.case.case import Case, Step, TensorSpec
from parity.case.ids import CaseId
from parity.case.op import OPS
from parity.case.tensor import HostTensor, contiguous_stride
from parity.run.journal import Journal
from parity.run.passes import Given, Pass, responds
from parity.store.recording import Environment, FailureKind, Recording, StepRecord, TensorRef

__all__ = ["laid_out", "output_names", "replay"]

# Elements before a view that are kept as they were; a view further into its memory keeps its alignment.
_NEAR = 4096
_ALIGNED = 64


def replay(
    recording: Recording, backend: Backend, *, journal: Journal, environment: Environment
) -> Recording:
    """Return what this backend makes of every step of `recording`, which holds all that they consumed.

    The result has the names of the steps and of their outputs, and holds outputs only. Steps after one
    that left the device without an answer are not in it.
    """
    tensors: dict[str, HostTensor] = {}
    records: list[StepRecord] = []
    for source in recording.steps:
        case, given = _alone(source, CaseId.parse(recording.case), recording.tensors)
        (record,) = Pass(case, backend, given, tensors, journal).run()
        records.append(record)
        if record.failure and record.failure.kind is FailureKind.CRASHED and not responds(backend):
            break
    named = {ref.digest for record in records for ref in record.outputs}
    named |= {ref.digest for record in records for ref in record.inputs if ref is not None}
    return Recording(
        case=recording.case,
        revision=recording.revision,
        environment=environment,
        steps=tuple(records),
        tensors={digest: tensors[digest] for digest in tensors.keys() & named},
    )


def _alone(
    source: StepRecord, case: CaseId, tensors: Mapping[str, HostTensor]
) -> tuple[Case, dict[str, Given]]:
    """Return a case of this one step, and its inputs as they lay in memory."""
    given: dict[str, Given] = {}
    names: list[str | None] = []
    for position, ref in enumerate(source.inputs):
        if ref is None:
            names.append(None)
            continue
        host = laid_out(tensors[ref.digest], ref)
        # One name may stand for two tensors where a step reads what it also writes.
        clash = ref.name in output_names(source) or (
            ref.name in given and given[ref.name].ref.digest != ref.digest
        )
        name = f"{ref.name}#{position}" if clash else ref.name
        given[name] = Given.of(host, name, role=ref.role)
        names.append(name)
    step = Step(
        name=source.name,
        op=source.op,
        inputs=tuple(names),
        outputs=output_names(source),
        attrs=source.attrs,
    )
    specs = tuple(TensorSpec(name=n, dtype=g.host.dtype, shape=g.host.shape) for n, g in given.items())
    return Case(id=case, inputs=specs, steps=(step,)), given


def output_names(step: StepRecord) -> tuple[str, ...]:
    """Return what the outputs of a step are called; of one that failed, as the op table calls them."""
    if step.outputs or step.op not in OPS:
        return tuple(ref.name for ref in step.outputs)
    return OPS[step.op].outputs


def laid_out(tensor: HostTensor, ref: TensorRef) -> HostTensor:
    """Return the elements of `tensor` in memory as `ref` says that the step saw them."""
    if ref.stride == contiguous_stride(ref.shape) and not ref.offset:
        return tensor.contiguous()
    offset = ref.offset if ref.offset <= _NEAR else ref.offset % _ALIGNED
    span = sum((n - 1) * s for n, s in zip(ref.shape, ref.stride, strict=True)) + 1
    storage = np.zeros(offset + (span if math.prod(ref.shape) else 0), dtype=tensor.dtype.storage)
    itemsize = tensor.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        storage[offset:], ref.shape, tuple(s * itemsize for s in ref.stride), writeable=True
    )
    view[...] = tensor.array()
    return HostTensor(dtype=tensor.dtype, storage=storage, shape=ref.shape, stride=ref.stride, offset=offset)
