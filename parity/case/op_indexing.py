"""The ops of indexing, of views and of choosing a token, beside those that `op` has.

Part of the one table in `op`. Lists of integers are texts, `2x3` for a shape and `1,-2` where one may
be negative; a value is text as well (`0.1`, `-inf`, `min`), since a recording holds no infinite
attribute. Does not hold any implementation.

Shapes and bounds:
take_along_dim    index int64, broadcast with x along every other dimension; a negative one counts
                  from the end.
index_select      index int64 or int32 [n], none negative.
scatter, scatter_reduce
                  index int64, at most as large as src; y[index[i, j], j] is written (for dim 0). Where
                  an index repeats, scatter keeps any of the values. Without include_self an element
                  that is written to forgets its own value.
nonzero           y int64 [n, dimensions], row-major.
unique            values ascending, NaN last and each by itself; inverse has the shape of x.
bincount          x integers >= 0; y int64 [max(minlength, 1 + largest)], or of the type of weights.
searchsorted      sequence ascending along its last dimension, [N] or [..., N] beside values [..., M];
                  y int64: elements below the value, or not above it with right. NaN is above all.
roll              dim None rolls the elements in row-major order.
split             sizes of three parts, which may be 0.
pad               widths before and after the last dimension, then the one before it; negative ones cut.
as_strided        stride and offset count elements of x in row-major memory.
slice_move        x[target] = x[source] within a clone of x, as x was before; cloned copies x[source] first.
negate_view       v = y[index] of a clone y of x, of its last two dimensions swapped where `swapped`; v is
                  negated in place (booleans: inverted) and y read.
far_rows          x [R, C] is written to rows first, first + step, … of a buffer of zeros [first + R step,
                  C]; y [2R, C] holds these rows, then those `back` rows before each.
top_p_mask        p [..., V], descending; y boolean: kept where the sum of what precedes is at most
                  `threshold`.
penalties         logits [B, V], tokens int64 [B, T] of which V is padding.
"""

from __future__ import annotations

from parity.case.op_entry import Op

__all__ = ["INDEXING"]

_INT, _FLOAT, _BOOL, _STR = (int,), (int, float), (bool,), (str,)
_NONE = type(None)


INDEXING: tuple[Op, ...] = (
    Op(
        id="take_along_dim",
        formula="x taken at index along dim, both broadcast elsewhere",
        inputs=("x", "index"),
        attrs={"dim": _INT},
        exact=True,
    ),
    Op(
        id="index_select",
        formula="the slices of x at index along dim",
        inputs=("x", "index"),
        attrs={"dim": _INT},
        exact=True,
    ),
    Op(
        id="scatter",
        formula="x with src written at index along dim",
        inputs=("x", "index", "src"),
        attrs={"dim": _INT},
        exact=True,
    ),
    Op(
        id="scatter_reduce",
        formula="x with src reduced into it at index along dim: sum, prod, mean, amin or amax",
        inputs=("x", "index", "src"),
        attrs={"dim": _INT, "reduce": _STR, "include_self": _BOOL},
    ),
    Op(
        id="masked_fill",
        formula="value where mask, else x",
        inputs=("x", "mask"),
        attrs={"value": _STR},
        exact=True,
    ),
    Op(
        id="masked_select", formula="the elements of x where mask, in order", inputs=("x", "mask"), exact=True
    ),
    Op(id="nonzero", formula="the positions of what is not zero", inputs=("x",), exact=True),
    Op(
        id="unique",
        formula="the distinct values in order, where each element went, how many did",
        inputs=("x",),
        outputs=("values", "inverse", "counts"),
        exact=True,
    ),
    Op(
        id="bincount",
        formula="how often each number is in x, or the sum of its weights",
        inputs=("x", "weights?"),
        attrs={"minlength": _INT},
    ),
    Op(
        id="searchsorted",
        formula="where each value belongs in an ascending sequence",
        inputs=("sequence", "values"),
        attrs={"right": _BOOL},
        exact=True,
    ),
    Op(
        id="roll",
        formula="x with elements shift places later along dim, around the end",
        inputs=("x",),
        attrs={"shift": _INT, "dim": (int, _NONE)},
        exact=True,
    ),
    Op(id="flip", formula="x reversed along dims", inputs=("x",), attrs={"dims": _STR}, exact=True),
    Op(id="stack", formula="tensors joined along a new dim", inputs=("x*",), attrs={"dim": _INT}, exact=True),
    Op(
        id="split",
        formula="three parts of x along dim",
        inputs=("x",),
        outputs=("first", "second", "third"),
        attrs={"sizes": _STR, "dim": _INT},
        exact=True,
    ),
    Op(
        id="pad",
        formula="x with value around it, or less of x",
        inputs=("x",),
        attrs={"widths": _STR, "value": _STR},
        exact=True,
    ),
    Op(id="repeat", formula="x as tiles", inputs=("x",), attrs={"repeats": _STR}, exact=True),
    Op(id="expand", formula="x broadcast to shape", inputs=("x",), attrs={"shape": _STR}, exact=True),
    Op(
        id="as_strided",
        formula="the elements of x at offset + sum of index times stride",
        inputs=("x",),
        attrs={"shape": _STR, "stride": _STR, "offset": _INT},
        exact=True,
    ),
    Op(
        id="slice_move",
        formula="a clone of x in which x[target] = x[source], as it was before",
        inputs=("x",),
        attrs={"target": _STR, "source": _STR, "cloned": _BOOL},
        exact=True,
    ),
    Op(
        id="negate_view",
        formula="a clone of x of which a view was negated in place",
        inputs=("x",),
        attrs={"index": _STR, "swapped": _BOOL},
        exact=True,
    ),
    Op(
        id="far_rows",
        formula="rows of x written far into a buffer of zeros, read back with what lies before them",
        inputs=("x",),
        attrs={"first": _INT, "step": _INT, "back": _INT},
        exact=True,
    ),
    Op(
        id="top_p_mask",
        formula="whether the sum of the probabilities before one is at most threshold",
        inputs=("p",),
        compute=("f32",),
        attrs={"threshold": _FLOAT},
        exact=True,
    ),
    Op(
        id="penalties",
        formula="l (l / repetition if l > 0 else l repetition, where seen) - frequency count - presence seen",
        inputs=("logits", "tokens"),
        compute=("f32",),
        attrs={"repetition": _FLOAT, "frequency": _FLOAT, "presence": _FLOAT},
    ),
)
