"""How far two recordings of one case are apart, output by output.

Information, never a verdict: between two devices there is no budget that could tell drift from a
fault. Reads the recordings in place, in bounded memory.
"""

from __future__ import annotations

import warnings

import torch

from parity.backend.torch_tensor import torch_dtype
from parity.case.tensor import HostTensor
from parity.judge.measure import difference
from parity.judge.verdict import Apart
from parity.store.recording import Recording, TensorRef

__all__ = ["apart"]


def apart(reference: Recording, target: Recording) -> tuple[Apart, ...]:
    """Return the distance at every float output that both sides have in one dtype and shape."""
    found = []
    for step in target.steps:
        other = reference.step(step.name)
        for ours, theirs in zip(step.outputs, other.outputs if other else (), strict=False):
            pair = _values(reference, theirs), _values(target, ours)
            if pair[0] is None or pair[1] is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
                continue
            between = difference(pair[0], pair[1])
            found.append(
                Apart(
                    step=step.name,
                    output=ours.name,
                    elements=between.count,
                    unequal=between.unequal,
                    largest=between.largest,
                    relative_l2=between.relative_l2,
                )
            )
    return tuple(found)


def _values(recording: Recording, ref: TensorRef) -> torch.Tensor | None:
    tensor = recording.tensors.get(ref.digest)
    # Types of 8 bits have no arithmetic in torch on every version; the judge has compared them.
    if tensor is None or not tensor.dtype.is_float or tensor.dtype.bits < 16:
        return None
    return _in_place(tensor)


def _in_place(tensor: HostTensor) -> torch.Tensor:
    bits = tensor.contiguous().storage.view(f"i{tensor.dtype.itemsize}")
    with warnings.catch_warnings():
        # The memory of a mapped recording is read-only, and nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(bits).view(torch_dtype(tensor.dtype))
