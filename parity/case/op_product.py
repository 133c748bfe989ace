"""Products over 8-bit floats with scales, products of groups and of routed rows, attention in parts.

Part of the one table in `op`. The product of two 8-bit floats is exact in float32, in which scales are
applied and sums kept. Does not hold any implementation.

Shapes: T rows, K summed, N columns, G groups, B a block along K. x and w need not be of one 8-bit type.
scaled_mm, dequantised_mm
                x [T, K], w [N, K]; x_scale f32 [] or [T, 1], w_scale f32 [] or [N, 1]. y [T, N] of `out`.
block_scaled_mm x [T, K], w [N, K]; x_scale [T, K / block], w_scale [ceil(N / block_rows), K / block],
                both f32 or both uint8: the exponent of a power of two with bias 127, and 255 is NaN (OCP
                Microscaling Formats 1.0, E8M0). y [T, N] of `out`.
grouped_mm      x [T, K], w [G, K, N], ends int32 [G], ascending: group g owns the rows from the end
                before (0 for the first) up to its own. A row that no group owns is 0. y [T, N].
routed_mm       x [T, K], chosen int64 [T, top], w [E, N, K]. y [T, top, N].
split_attention arguments and shapes of `attention`. along: heads (of q), queries or keys, which are cut
                into `parts` runs of neighbours as even as can be, the longer ones first. What hides every key
                of one part adds nothing to the rest.
"""

from __future__ import annotations

from parity.case.op_entry import Op

__all__ = ["PRODUCTS"]

_INT, _BOOL, _STR = (int,), (bool,), (str,)
_NONE = type(None)
_SCALED = ("x", "w", "x_scale", "w_scale")

PRODUCTS: tuple[Op, ...] = (
    Op(
        id="scaled_mm",
        formula="(x @ w.T) x_scale w_scale",
        inputs=_SCALED,
        compute=("f32",),
        attrs={"out": _STR},
    ),
    Op(
        id="dequantised_mm",
        formula="(x x_scale) @ (w w_scale).T, both operands rounded to `out` before the product",
        inputs=_SCALED,
        compute=("f32",),
        attrs={"out": _STR},
    ),
    Op(
        id="block_scaled_mm",
        formula="sum over blocks of K of (x_b @ w_b.T) x_scale_b w_scale_b",
        inputs=_SCALED,
        compute=("f32",),
        attrs={"block": _INT, "block_rows": _INT, "out": _STR},
    ),
    Op(id="grouped_mm", formula="x[t] @ w[g] for the group g that owns row t", inputs=("x", "w", "ends")),
    Op(id="routed_mm", formula="x[t] @ w[chosen[t, j]].T", inputs=("x", "chosen", "w")),
    Op(
        id="split_attention",
        formula="attention in parts; those along keys give maximum, sum and product, merged in f32",
        inputs=("q", "k", "v", "mask?"),
        compute=("f32",),
        attrs={
            "causal": _BOOL,
            "window": (int, _NONE),
            "scale": (float, _NONE),
            "along": _STR,
            "parts": _INT,
        },
    ),
)
