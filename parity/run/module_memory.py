"""What each piece of memory held when a step read or wrote it, while code runs that nobody may disturb.

A tensor is known by its storage, how often that was written to, and its view of it: two views of one
storage are one memory, and a tensor that was changed in place is another value. Copies are made on
the device and fetched when the run is over. Does not know what a step is; `module_recorder` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from parity.backend.torch_call import real_view
from parity.backend.torch_tensor import dtype_of
from parity.case.dtype import DType
from parity.case.tensor import HostTensor
from parity.run.module_storage import address, elements, version
from parity.store.recording import TensorRef

__all__ = ["Block", "Capture", "Get", "Memory", "geometry"]

Get = Callable[[Tensor], HostTensor]
_Geometry = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]


def geometry(tensor: Tensor) -> _Geometry:
    """Return how a tensor sees its storage: dtype, shape, stride and offset in elements."""
    return tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


class Capture:
    """The bits of one tensor at one time, on its device until they are asked for."""

    __slots__ = ("_bits", "_digest", "_host", "dtype", "name", "offset", "role", "shape", "stride")

    def __init__(self, tensor: Tensor, *, name: str, role: str, by_reference: bool) -> None:
        seen = real_view(elements(tensor).detach())
        self.name, self.role = name, role
        self.dtype: DType = dtype_of(seen.dtype)
        _, self.shape, self.stride, self.offset = geometry(seen)
        # A weight is not copied: a model's weights are most of what it reads.
        self._bits: Tensor | None = (
            seen if by_reference else seen.clone(memory_format=torch.contiguous_format)
        )
        self._host: HostTensor | None = None
        self._digest = ""

    def settle(self) -> None:
        """Copy what is held by reference, since its memory is about to be written to."""
        if self._bits is not None:
            self._bits = self._bits.clone(memory_format=torch.contiguous_format)

    def fetch(self, get: Get) -> HostTensor | None:
        """Return the elements in host memory, None of a weight and on the meta device."""
        if self._bits is not None:
            if self._bits.device.type == "meta":
                text = f"{self.dtype.tag}{list(self.shape)} without values"
                self._digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
            else:
                host = (
                    _shown(self._bits) if self._bits.device.type == "cpu" else get(self._bits)
                ).contiguous()
                self._digest = host.digest()
                self._host = None if self.role == "weight" else host
            self._bits = None
        return self._host

    def ref(self, get: Get, *, name: str = "") -> TensorRef:
        """Return the reference under which a step names this tensor, with the layout that the step saw."""
        self.fetch(get)
        return TensorRef(
            name=name or self.name,
            role=self.role,
            dtype=self.dtype,
            shape=self.shape,
            stride=self.stride,
            offset=self.offset,
            digest=self._digest,
        )


def _shown(bits: Tensor) -> HostTensor:
    """Return a host's tensor without another copy: nobody else has this one, or it is only digested."""
    ours = dtype_of(bits.dtype)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.itemsize]
    return HostTensor.of(bits.view(integers).numpy().view(ours.storage), ours)


@dataclass(slots=True, eq=False)
class Block:
    """One storage. `origin` names what wrote it last; `weights` are parameters and buffers that lie in it.

    `writes` counts the writes that were seen, `version` is torch's own counter then: where torch counts
    more, somebody wrote who was not seen. A `shared` block left torch's sight (numpy, a raw pointer), so
    that no copy of it is ever taken for its present bits. A `blank` one was never written to.
    """

    alive: StorageWeakRef
    origin: str = ""
    origin_view: _Geometry | None = None
    writes: int = 0
    version: int = 0
    weights: list[tuple[str, Tensor]] = field(default_factory=list)
    shared: bool = False
    blank: bool = False
    captures: dict[tuple[int, int, _Geometry], Capture] = field(default_factory=dict)


class Memory:
    """Everything that was seen of a run's memory, by storage."""

    def __init__(self) -> None:
        # A weak reference keeps a storage's address from being used again, not its memory.
        self._blocks: dict[int, Block] = {}

    def find(self, tensor: Tensor) -> Block | None:
        """Return the block of a tensor, None where nobody said what it holds."""
        return self._blocks.get(address(tensor))

    def adopt(self, tensor: Tensor, origin: str, *, blank: bool = False) -> Block:
        """Say where the present value of a tensor comes from; names its views after it."""
        key = address(tensor)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = Block(
                alive=StorageWeakRef(elements(tensor).untyped_storage())  # type: ignore[no-untyped-call] # it has no annotations
            )
        block.origin, block.origin_view, block.blank = origin, geometry(tensor), blank
        block.version = max(block.version, version(tensor))
        return block

    def adopt_weight(self, tensor: Tensor, name: str) -> None:
        """Say that a tensor is a parameter or buffer of that name."""
        self.adopt(tensor, name).weights.append((name, tensor))

    def is_known(self, tensor: Tensor) -> bool:
        """Whether everything that wrote to a tensor's memory was seen."""
        block = self.find(tensor)
        return block is not None and version(tensor) <= block.version

    def before_write(self, tensor: Tensor) -> None:
        """Keep what a tensor's memory holds, which a call is about to change."""
        block = self.find(tensor)
        for capture in block.captures.values() if block else ():
            if capture.role == "weight":
                capture.settle()

    def is_blank(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory was made without a value, and not wholly written since."""
        block = self.find(tensor)
        return block is not None and block.blank

    def wrote(self, tensor: Tensor, origin: str) -> None:
        """Say that a call wrote to a tensor's memory."""
        size = elements(tensor).untyped_storage().nbytes()
        partly = self.is_blank(tensor) and tensor.numel() * tensor.element_size() < size
        self.adopt(tensor, origin, blank=partly).writes += 1

    def share(self, tensor: Tensor) -> None:
        """Say that others than torch can write to a tensor's memory from here on."""
        block = self.find(tensor) or self.adopt(tensor, "shared")
        block.shared = True

    def held(self, tensor: Tensor, count: int) -> Capture | None:
        """Return what a tensor held when torch had counted `count` writes to it, if that was read then."""
        block = self.find(tensor)
        return block.captures.get((block.writes, count, geometry(tensor))) if block else None

    def read(self, tensor: Tensor, *, anew: bool = False) -> Capture:
        """Return what a tensor holds now, copied only if no copy of it exists, or `anew`.

        Raises Unsupported for a dtype that recordings do not have.
        """
        block = self.find(tensor) or self.adopt(tensor, "given")
        key = (block.writes, version(tensor), geometry(tensor))
        found = block.captures.get(key)
        if found is not None and not (block.shared or anew):
            return found
        weight = _weight_of(tensor, block)
        if weight:
            parameter = isinstance(block.weights[0][1], torch.nn.Parameter)
            found = Capture(tensor, name=weight, role="weight", by_reference=parameter)
        else:
            name = block.origin if block.origin_view == key[2] else f"{block.origin}{_view(key[2])}"
            found = Capture(tensor, name=name, role="activation", by_reference=False)
        block.captures[key] = found
        return found


def _weight_of(tensor: Tensor, block: Block) -> str:
    """Return the name of the weight that a tensor is, or is a view of; empty once it was written to."""
    if not block.weights or block.writes or block.shared:
        return ""
    seen = geometry(tensor)
    exact = next((name for name, weight in block.weights if geometry(weight) == seen), "")
    if exact:
        return exact
    # Counted from the weight: on another host it may lie elsewhere in its storage.
    start, (name, weight) = seen[3], block.weights[0]
    before = weight.storage_offset() * weight.element_size() // tensor.element_size()
    return f"{name}{_view((*seen[:3], start - before))}" if start >= before else ""


def _view(seen: _Geometry) -> str:
    """Write a view as text: `[2x3 by 3x1 at 6]`, sizes, strides and offset in elements of the storage."""
    _, shape, stride, offset = seen
    return f"[{'x'.join(map(str, shape)) or 'scalar'} by {'x'.join(map(str, stride)) or '-'} at {offset}]"
