"""Whether torch has a device's own kernel for an operator: without one, a catch-all may run the host's.

Says nothing of what a kernel does inside.
"""

# ruff: noqa: SLF001 - torch's dispatch table has no public reader
from __future__ import annotations

import dataclasses
from functools import cache

import torch

from parity.backend.base import Node, Witness, unplaced
from parity.backend.torch_witness import NOTHING_RAN

__all__ = ["has_kernel", "with_own_kernels"]


@cache
def has_kernel(operator: str, device_type: str) -> bool:
    """Whether any overload of an operator, such as `aten::mm`, has a kernel of this device's own.

    Kernels that torch composes of others do not count: nobody saw those others.
    """
    space, _, name = operator.partition("::")
    packet = getattr(getattr(torch.ops, space), name, None)
    if packet is None:
        return False
    key = _key(device_type)
    overloads = (str(getattr(packet, each)._schema.name) + _suffix(each) for each in packet.overloads())
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(full, key) for full in overloads)


def _suffix(overload: str) -> str:
    return "" if overload == "default" else f".{overload}"


def _key(device_type: str) -> str:
    if device_type == torch._C._get_privateuse1_backend_name():
        return "PrivateUse1"
    return str(torch._C._dispatch_key_for_device(device_type))


def with_own_kernels(witness: Witness, device_type: str) -> Witness:
    """Return the witness with an unknown place for each node that is no kernel of the device's own.

    What a compiler was handed is none: it says nothing of where the compiler put it.
    """
    return dataclasses.replace(
        witness, executed=tuple(_proved(node, device_type) for node in witness.executed)
    )


def _proved(node: Node, device_type: str) -> Node:
    if node.kind == NOTHING_RAN or ("::" in node.kind and has_kernel(node.kind, device_type)):
        return node
    return unplaced(node)
