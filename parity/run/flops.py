"""Count the floating point operations of a step: 2 M N K for what is a product, else none.

For a reader who asks how far a step is from its device's peak; pointwise work never decides that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from parity.store.recording import TensorRef

__all__ = ["flops"]

# Which argument has the length of the sum as its last dimension.
_SUMMED = {
    "addmm": 1,
    "block_scaled_mm": 0,
    "bmm": 0,
    "dequantised_mm": 0,
    "grouped_mm": 0,
    "int4_weight_linear": 0,
    "int8_linear": 0,
    "int8_weight_linear": 0,
    "linear": 0,
    "matmul": 0,
    "routed_mm": 0,
    "scaled_mm": 0,
}


def flops(op: str, inputs: Sequence[TensorRef | None], outputs: Sequence[TensorRef]) -> int:
    """Return the operations of one step; attention counts both products and no mask.

    What segments hold is not known from shapes: their queries are taken to see as many keys each.
    """
    shapes = [() if ref is None else ref.shape for ref in inputs]
    result = math.prod(outputs[0].shape)
    if op in _SUMMED:
        return 2 * result * math.prod(shapes[_SUMMED[op]][-1:])
    if op in ("conv1d", "conv2d"):
        return 2 * result * math.prod(shapes[1][1:])
    if op in ("attention", "split_attention"):
        keys = math.prod(shapes[1][-2:-1])
        return 2 * keys * (math.prod(shapes[0]) + result)
    if op == "hstu_attention":
        return 2 * shapes[1][0] * (math.prod(shapes[0]) + result)
    if op == "route":
        return 2 * math.prod(shapes[0][:-1]) * math.prod(shapes[1])
    if op == "experts":
        return 2 * math.prod(shapes[1]) * (math.prod(shapes[3][1:]) + math.prod(shapes[4][1:]))
    if op in ("paged_attention", "latent_attention"):
        keys = math.prod(shapes[3]) // max(shapes[4][0], 1)
        made = 2 * math.prod(shapes[3]) * math.prod(shapes[2]) if op == "latent_attention" else 0
        return made + 2 * keys * (math.prod(shapes[0]) + result)
    return 0
