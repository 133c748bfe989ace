"""Functions, divisions, moments and ranges: what model code calls beside products and softmax.

Part of the one table in `op`. Named as torch names them where it has the function. Does not hold any
implementation.

pow              an exponent for each element; pow_scalar has one for all of them.
floor_divide, trunc_divide, remainder
                 broadcast; a remainder has the sign of b (Python's). Integers are never divided by 0.
var, norm        over one dimension; correction is what is taken from n.
group_norm       x [N, C, ...], g and b [C]; a group is C / groups neighbouring channels and all that
                 follows them.
max, min         over one dimension, with the index of an extreme element; a NaN is the extreme.
arange, linspace no tensors; `out` is the dtype of the result. arange ends before `end`, linspace at it.
one_hot          ids int64 of any shape, y int64 [..., classes].
meshgrid         a [M], b [N]; both results [M, N] for ij, [N, M] for xy.
rope_partial     x [..., T, D], positions int64 [T]: the first `turned` of D dimensions as `rope` with
                 D = turned, the rest kept.
"""

from __future__ import annotations

from parity.case.op_entry import Op

__all__ = ["FUNCTIONS"]

_INT, _FLOAT, _BOOL, _STR = (int,), (int, float), (bool,), (str,)
_OVER = {"dim": _INT, "keepdim": _BOOL}


def _of_one(name: str, formula: str) -> Op:
    return Op(id=name, formula=formula, inputs=("x",))


FUNCTIONS: tuple[Op, ...] = (
    _of_one("sqrt", "the square root of x"),
    _of_one("reciprocal", "1 / x"),
    _of_one("relu_squared", "max(x, 0)^2"),
    _of_one("softplus", "log(1 + e^x), beyond 20 x itself"),
    _of_one("expm1", "e^x - 1"),
    _of_one("log", "the natural logarithm of x"),
    _of_one("log1p", "log(1 + x)"),
    _of_one("sin", "sin(x), x in radians"),
    _of_one("cos", "cos(x), x in radians"),
    Op(id="pow", formula="a^b, broadcast", inputs=("a", "b")),
    Op(
        id="pow_scalar",
        formula="x^exponent; integers wrap",
        inputs=("x",),
        attrs={"exponent": _FLOAT},
    ),
    Op(id="sub", formula="a - b, broadcast; integers wrap", inputs=("a", "b")),
    Op(id="floor_divide", formula="floor(a / b)", inputs=("a", "b")),
    Op(id="trunc_divide", formula="a / b, its fraction dropped", inputs=("a", "b")),
    Op(id="remainder", formula="a - b floor(a / b)", inputs=("a", "b")),
    Op(
        id="var",
        formula="sum((x - mean)^2) / (n - correction) over dim",
        inputs=("x",),
        compute=("f32", "f64"),
        attrs={**_OVER, "correction": _INT},
    ),
    Op(id="norm", formula="sqrt(sum(x^2)) over dim", inputs=("x",), attrs=_OVER),
    Op(
        id="group_norm",
        formula="(x - mean) / sqrt(var + eps) g + b, mean and var of each group of channels",
        inputs=("x", "g?", "b?"),
        attrs={"groups": _INT, "eps": _FLOAT},
    ),
    Op(id="cumprod", formula="running product along dim", inputs=("x",), attrs={"dim": _INT}),
    *(
        Op(id=name, formula=f"the {extreme} element over dim", inputs=("x",), attrs=_OVER, exact=True)
        for name, extreme in (("amax", "largest"), ("amin", "smallest"))
    ),
    *(
        Op(
            id=name,
            formula=f"the {extreme} element over dim and its index",
            inputs=("x",),
            outputs=("values", "indices"),
            attrs=_OVER,
            exact=True,
        )
        for name, extreme in (("max", "largest"), ("min", "smallest"))
    ),
    Op(
        id="argsort",
        formula="indices of the elements in order along dim",
        inputs=("x",),
        attrs={"dim": _INT, "descending": _BOOL, "stable": _BOOL},
        exact=True,
    ),
    Op(
        id="arange",
        formula="start + i step for i < (end - start) / step",
        inputs=(),
        compute=("f32", "f64"),
        attrs={"start": _FLOAT, "end": _FLOAT, "step": _FLOAT, "out": _STR},
    ),
    Op(
        id="linspace",
        formula="start + i (end - start) / (steps - 1) for i < steps; the last one is end",
        inputs=(),
        compute=("f32", "f64"),
        attrs={"start": _FLOAT, "end": _FLOAT, "steps": _INT, "out": _STR},
    ),
    Op(
        id="one_hot",
        formula="1 at the id, else 0",
        inputs=("ids",),
        attrs={"classes": _INT},
        exact=True,
    ),
    Op(
        id="tril_indices",
        formula="rows and columns of the lower triangle, int64[2, n]",
        inputs=(),
        attrs={"rows": _INT, "columns": _INT, "offset": _INT},
        exact=True,
    ),
    Op(
        id="meshgrid",
        formula="a and b repeated along each other's dimension",
        inputs=("a", "b"),
        outputs=("first", "second"),
        attrs={"indexing": _STR},
        exact=True,
    ),
    Op(
        id="rope_partial",
        formula="rope of the first `turned` dimensions, the rest kept",
        inputs=("x", "positions"),
        compute=("f32",),
        attrs={"base": _FLOAT, "interleaved": _BOOL, "turned": _INT},
    ),
)
