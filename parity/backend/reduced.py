"""Evidence of float32 products that a device rounds: a dispatcher says float32, the switch says less.

Which kernel ran is not known, so a permission counts as use. Does not read switches.
"""

from __future__ import annotations

import dataclasses

from parity.backend.base import Node, Witness

__all__ = ["with_reductions"]

# As ATen names them, and as a compiled graph names what was called.
_PRODUCTS = frozenset((
    *("addbmm", "addmm", "addmv", "baddbmm", "bmm", "dot", "einsum", "linear", "matmul", "mm", "mv"),
    *("scaled_dot_product_attention", "vdot"),
))  # fmt: skip
_FUSED = ("_scaled_dot_product_", "_efficient_attention", "_flash_attention")
_CONVOLUTION = "conv"  # convolution, cudnn_convolution, conv1d, conv_transpose2d, …


def with_reductions(witness: Witness, *, products: str | None, convolutions: str | None) -> Witness:
    """Return the witness with what float32 products and convolutions may be rounded to, if anything."""
    if products is None and convolutions is None:
        return witness
    executed = tuple(_reduced(n, products=products, convolutions=convolutions) for n in witness.executed)
    return dataclasses.replace(witness, executed=executed)


def _reduced(node: Node, *, products: str | None, convolutions: str | None) -> Node:
    name = node.kind.rpartition(":")[2]
    precision = None
    if _CONVOLUTION in name:
        precision = convolutions
    elif name in _PRODUCTS or name.startswith(_FUSED):
        precision = products
    return dataclasses.replace(node, precision=precision) if precision and node.precision == "f32" else node
