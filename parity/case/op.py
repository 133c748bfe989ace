"""The one table of canonical op ids: arguments, typed attributes, outputs.

Backends say how an op is run, the judge what it should give; both are keyed by these ids. What a
decoder is made of stands in `op_decoder`, what kernels fuse in `op_fused`, scaled and grouped products in
`op_product`. Does not hold any implementation.

Shapes, where the formula leaves them open:
attention       q [B, H, T, D], k [B, G, S, D], v [B, G, S, E]; query head h reads head h // (H / G).
                Query i stands at position S - T + i: causal keeps keys j <= position, a window w
                keeps j > position - w. A boolean mask keeps where it is True, a float one is added.
rope            x [..., T, D], positions int64 [T]. Half-split pairs i with i + D/2, interleaved
                2i with 2i + 1.
index           index int64 of any shape on the first dimension; a negative one counts from the end.
index_put       index int64 [n] on the first dimension, values [n, ...].
conv1d          x [N, C, L], w [O, C / groups, K]; stride, padding and dilation in elements. causal pads
                dilation (K - 1) zeros before x instead, none after.
conv2d          x [N, C, H, W], w [O, C / groups, R, S]; one stride, padding and dilation for both.
int8_linear     x [T, K], w [N, K], x_scale f32 [T, 1], w_scale f32 [N].
int8_weight_linear, int4_weight_linear
                x [T, K]; w int8 [N, K] with scale [N, 1], or uint8 [N, K/2] with scale
                [N, K/group]; scale has the dtype of x.
"""

from __future__ import annotations

from parity.case.op_decoder import DECODER
from parity.case.op_entry import Attr, Op
from parity.case.op_function import FUNCTIONS
from parity.case.op_fused import FUSED
from parity.case.op_indexing import INDEXING
from parity.case.op_product import PRODUCTS

__all__ = ["OPS", "Attr", "Op"]

_INT, _FLOAT, _BOOL, _STR = (int,), (int, float), (bool,), (str,)
_NONE = type(None)

OPS: dict[str, Op] = {
    op.id: op
    for op in (
        # products and sums
        Op(id="matmul", formula="a @ b, batches broadcast", inputs=("a", "b")),
        Op(id="bmm", formula="a[i] @ b[i]", inputs=("a", "b")),
        Op(id="linear", formula="x @ w.T + bias", inputs=("x", "w", "bias?")),
        Op(
            id="addmm",
            formula="beta c + alpha a @ b",
            inputs=("c", "a", "b"),
            attrs={"alpha": _FLOAT, "beta": _FLOAT},
        ),
        Op(
            id="conv1d",
            formula="sum of w x over channels of a group and taps, + bias",
            inputs=("x", "w", "bias?"),
            attrs={"stride": _INT, "padding": _INT, "dilation": _INT, "groups": _INT, "causal": _BOOL},
        ),
        Op(
            id="conv2d",
            formula="sum of w x over channels of a group and taps, + bias",
            inputs=("x", "w", "bias?"),
            attrs={"stride": _INT, "padding": _INT, "dilation": _INT, "groups": _INT},
        ),
        Op(id="sum", formula="sum over dim", inputs=("x",), attrs={"dim": _INT, "keepdim": _BOOL}),
        Op(id="mean", formula="sum over dim / n", inputs=("x",), attrs={"dim": _INT, "keepdim": _BOOL}),
        Op(id="cumsum", formula="running sum along dim", inputs=("x",), attrs={"dim": _INT}),
        Op(
            id="logsumexp",
            formula="log(sum(exp(x))) over dim",
            inputs=("x",),
            attrs={"dim": _INT, "keepdim": _BOOL},
        ),
        Op(id="softmax", formula="exp(x - max) / sum", inputs=("x",), attrs={"dim": _INT}),
        Op(id="log_softmax", formula="x - logsumexp(x)", inputs=("x",), attrs={"dim": _INT}),
        # normalization, over the last dimension
        Op(
            id="rms_norm",
            formula="x / sqrt(mean(x^2) + eps) * g",
            inputs=("x", "g?"),
            compute=("f32",),
            attrs={"eps": _FLOAT},
        ),
        Op(
            id="layer_norm",
            formula="(x - mean) / sqrt(var + eps) * g + b",
            inputs=("x", "g?", "b?"),
            attrs={"eps": _FLOAT},
        ),
        # pointwise
        Op(id="add", formula="a + b, broadcast; integers wrap", inputs=("a", "b")),
        Op(id="mul", formula="a b, broadcast; integers wrap", inputs=("a", "b")),
        Op(id="div", formula="a / b, broadcast, of floats", inputs=("a", "b")),
        Op(id="erf", formula="2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x", inputs=("x",)),
        Op(id="rsqrt", formula="1 / sqrt(x)", inputs=("x",)),
        Op(id="exp", formula="e^x", inputs=("x",)),
        Op(id="sigmoid", formula="1 / (1 + e^-x)", inputs=("x",)),
        Op(id="tanh", formula="tanh(x)", inputs=("x",)),
        Op(id="silu", formula="x sigmoid(x)", inputs=("x",)),
        Op(id="gelu_erf", formula="x/2 (1 + erf(x / sqrt 2))", inputs=("x",)),
        Op(
            id="gelu_tanh",
            formula="x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
            inputs=("x",),
        ),
        Op(id="swiglu", formula="silu(gate) * up, rounded once", inputs=("gate", "up"), compute=("f32",)),
        # attention and positions
        Op(
            id="attention",
            formula="softmax(scale q k^T + mask) v; heads of k and v repeat for grouped queries",
            inputs=("q", "k", "v", "mask?"),
            compute=("f32",),
            attrs={"causal": _BOOL, "window": (int, _NONE), "scale": (float, _NONE)},
        ),
        Op(
            id="rope",
            formula="x cos(p base^(-2i/d)) + rotate(x) sin(...), in f32, rounded once",
            inputs=("x", "positions"),
            compute=("f32",),
            attrs={"base": _FLOAT, "interleaved": _BOOL},
        ),
        # lookup, movement, selection: exact
        Op(id="embedding", formula="table[ids]", inputs=("table", "ids"), exact=True),
        Op(
            id="gather",
            formula="x gathered along dim",
            inputs=("x", "index"),
            attrs={"dim": _INT},
            exact=True,
        ),
        Op(id="index", formula="x[index]", inputs=("x", "index"), exact=True),
        Op(
            id="index_put",
            formula="x with x[index] = values, or += when accumulate",
            inputs=("x", "index", "values"),
            attrs={"accumulate": _BOOL},
        ),
        Op(
            id="scatter_add",
            formula="x with src added at index along dim",
            inputs=("x", "index", "src"),
            attrs={"dim": _INT},
        ),
        Op(id="where", formula="a where condition else b", inputs=("condition", "a", "b"), exact=True),
        Op(id="cat", formula="tensors joined along dim", inputs=("x*",), attrs={"dim": _INT}, exact=True),
        Op(
            id="slice",
            formula="x indexed as Python code writes it, e.g. 'x[..., ::2]'",
            inputs=("x",),
            attrs={"index": _STR},
            exact=True,
        ),
        Op(
            id="slice_assign",
            formula="a clone of x with x[index] = values",
            inputs=("x", "values"),
            attrs={"index": _STR},
            exact=True,
        ),
        Op(
            id="tril", formula="x below diagonal, else 0", inputs=("x",), attrs={"diagonal": _INT}, exact=True
        ),
        Op(
            id="triu", formula="x above diagonal, else 0", inputs=("x",), attrs={"diagonal": _INT}, exact=True
        ),
        Op(
            id="triu_indices",
            formula="rows and columns of the upper triangle, int64[2, n]",
            inputs=(),
            attrs={"rows": _INT, "columns": _INT, "offset": _INT},
            exact=True,
        ),
        # order
        Op(
            id="topk",
            formula="the k largest (or smallest) along dim, sorted, with their indices",
            inputs=("x",),
            outputs=("values", "indices"),
            attrs={"k": _INT, "dim": _INT, "largest": _BOOL},
            exact=True,
        ),
        Op(
            id="argmax",
            formula="index of a largest element along dim",
            inputs=("x",),
            attrs={"dim": _INT, "keepdim": _BOOL},
            exact=True,
        ),
        Op(
            id="sort",
            formula="elements in order along dim, with their indices",
            inputs=("x",),
            outputs=("values", "indices"),
            attrs={"dim": _INT, "descending": _BOOL, "stable": _BOOL},
            exact=True,
        ),
        # types
        Op(id="cast", formula="x converted to dtype `to`", inputs=("x",), attrs={"to": _STR}, exact=True),
        Op(
            id="int8_linear",
            formula="(x_i8 @ w_i8.T as int32) * x_scale * w_scale",
            inputs=("x", "w", "x_scale", "w_scale"),
            compute=("f32",),
            attrs={"out": _STR},
        ),
        Op(
            id="int8_weight_linear",
            formula="x @ (w_i8 * scale).T",
            inputs=("x", "w", "scale"),
            compute=("f32",),
        ),
        Op(
            id="int4_weight_linear",
            formula="x @ ((nibbles(w) - 8) * scale by group).T; low nibble first",
            inputs=("x", "w", "scale"),
            compute=("f32",),
            attrs={"group": _INT},
        ),
        *DECODER,
        *FUNCTIONS,
        *FUSED,
        *INDEXING,
        *PRODUCTS,
    )
}
