"""Ops that kernels fuse and model code writes as several calls: one op, one oracle, whoever computes it.

Part of the one table in `op`. Which intermediates are rounded to the type of the tensors is left open,
since a chain of calls stores them and a fused kernel does not. Does not hold any implementation.

Shapes: T tokens, H query heads, G key heads, D their size, E that of values, K channels.
add_rms_norm    x and residual [..., K], g [K]. sum is rounded to the type; y may be the norm of what
                was rounded or of what was not.
norm_rotate     qkv [T, (H + 2 G) D], heads of q, then of k, then of v; q_weight and k_weight [D], cos
                and sin [T, D/2]. A head is normalised, weighed, and its pairs i with i + D/2 are
                turned. q [T, H, D], k [T, G, D]; v [T, G, D] is moved bit for bit.
hstu_attention  q and k [T, H, D], v [T, H, E], bias [H, T, T] added to the scores. Token i sees itself
                and those before it. length is the n that weights are divided by. y [T, H, E].
"""

from __future__ import annotations

from parity.case.op_entry import Op

__all__ = ["FUSED"]

_INT, _FLOAT = (int,), (int, float)

FUSED: tuple[Op, ...] = (
    Op(
        id="add_rms_norm",
        formula="s = x + residual, and s / sqrt(mean(s^2) + eps) g",
        inputs=("x", "residual", "g"),
        outputs=("sum", "y"),
        compute=("f32",),
        attrs={"eps": _FLOAT},
    ),
    Op(
        id="norm_rotate",
        formula="heads of q and k over their root mean square, weighed, then turned by cos and sin; v moved",
        inputs=("qkv", "q_weight", "k_weight", "cos", "sin"),
        outputs=("q", "k", "v"),
        compute=("f32",),
        attrs={"heads": _INT, "kv_heads": _INT, "eps": _FLOAT},
    ),
    Op(
        id="hstu_attention",
        formula="silu(scale q k^T + bias), 0 where a key is later than its query, over n, times v",
        inputs=("q", "k", "v", "bias?"),
        compute=("f32",),
        attrs={"scale": _FLOAT, "length": _INT},
    ),
)
