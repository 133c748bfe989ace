"""The arithmetic that torch declares on a CPU of functions that have no op of their own, by name.

Each source is an emulation in plain torch that gives the bits. Does not probe.
"""

from __future__ import annotations

from parity.backend.profile import Declared

__all__ = ["CALLS", "rounded"]


def rounded(fact: str, op: str, source: str) -> tuple[Declared, ...]:
    """A value that an op keeps in the dtype of its 16-bit input."""
    return tuple(
        Declared(fact=fact, ops=(op,), dtypes=(name,), value=name, source=source) for name in ("bf16", "f16")
    )


CALLS: tuple[Declared, ...] = (
    *rounded(
        "accumulates_in",
        "torch:prod",
        "torch 2.13: factors multiplied in order, each product rounded to the tensor's dtype, give every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:add",
        "torch 2.13: alpha times the second operand, rounded to the tensor's dtype before it is added, gives "
        "every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:sub",
        "torch 2.13: alpha times the second operand, rounded to the tensor's dtype before it is taken off, "
        "gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:xlogy",
        "torch 2.13: x times a logarithm rounded to the tensor's dtype gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:batch_norm",
        "torch 2.13: of strided inputs, (x - mean) times 1 / sqrt(var + eps) with every result in the "
        "tensor's dtype gives every bit; a profile does not tell layouts apart",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:cross",
        "torch 2.13: products rounded to the tensor's dtype before they are subtracted give every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:instance_norm",
        "torch 2.13: a mean and an inverse deviation rounded to the tensor's dtype give every bit in f16",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:scatter_reduce",
        "torch 2.13: a mean's float32 sum rounded to the tensor's dtype before it is divided gives every bit",
    ),
    *rounded(
        "numbers_rounded",
        "torch:pow",
        "torch 2.13: an exponent rounded to the tensor's dtype gives every bit",
    ),
    *rounded(
        "accumulates_in",
        "torch:fold",
        "torch 2.13: overlapping columns added in order in the tensor's dtype give every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:floor_divide",
        "torch 2.13, c10/util/generic_math.h, div_floor_floating: (a - fmod(a, b)) / b, each result in the "
        "tensor's dtype, gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:softmin",
        "torch 2.13, torch/nn/functional.py: it is softmax of -x, whose exponentials along dimensions other "
        "than the last are rounded to the tensor's dtype (see softmax above)",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:mse_loss",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: the square of a difference rounded to bf16, itself rounded before it is summed, "
        "gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:pow",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: a cube as a square rounded to bf16 times x gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "torch:linspace",
        "torch 2.13: a step and products with it in the result's dtype, from both ends, give every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:xlog1py",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: x times a logarithm rounded to bf16 gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:ldexp",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: x times a power of 2 rounded to bf16 gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:binary_cross_entropy_with_logits", "torch:huber_loss", "torch:soft_margin_loss"),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: each as its chain of tensor operations, every result of which is rounded to "
        "bf16, gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:binary_cross_entropy",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: logarithms, products with them and their difference, each rounded to bf16, "
        "give every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:logit",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: 1 - x, its ratio with x and the logarithm, each rounded to bf16, give every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:entr",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: x times a logarithm rounded to bf16 gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:rsub",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: alpha times the first operand, rounded to bf16 before it is taken off, gives"
        " every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:dist",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: a difference rounded to bf16 before its norm is taken gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:div",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: a quotient rounded to bf16 before it is cut gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:mvlgamma",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: the chain of arange, add, lgamma, sum and add, each rounded to bf16, gives "
        "every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:renorm",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: a factor rounded to bf16 before it is multiplied gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:addr",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: alpha, beta, both products with each and the outer product, each rounded to "
        "bf16, give every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:addbmm",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: addmm of one pair after another, each result rounded to bf16, gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:logsumexp",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: the chain of masked tensor operations, each rounded to bf16, gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:log_softmax", "torch:linear_cross_entropy"),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: the logarithm of a sum is in bf16 (see log_softmax above): log_softmax of "
        "what is masked, or of linear's result, gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:softmax",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: exponentials along dimensions other than the last are rounded to bf16 (see "
        "softmax above): softmax of what is masked gives every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:native_batch_norm", "torch:native_batch_norm_legit"),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: the sum of squares and its mean rounded to bf16 before the inverse deviation is "
        "taken, and that and the mean rounded before x is scaled and shifted, give every bit",
    ),
    Declared(
        fact="accumulates_in",
        ops=("torch:unsafe_masked_index_put_accumulate",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: values added in order, each sum rounded to bf16, give every bit",
    ),
    Declared(
        fact="accumulates_in",
        ops=("torch:adaptive_avg_pool3d",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: terms added in order in bf16, then divided by each side's length in bf16, "
        "give every bit",
    ),
    Declared(
        fact="accumulates_in",
        ops=("torch:conv_transpose2d", "torch:conv_transpose3d"),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: of groups and dilations, columns of W^T x rounded to bf16 and added in bf16 "
        "give every bit",
    ),
    Declared(
        fact="accumulates_in",
        ops=("torch:nll_loss",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: the first term apart and the others added in order in bf16, then both, "
        "give every bit of up to 16 terms",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("torch:nll_loss",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: a weight's product rounded to bf16 before it is added gives every bit",
    ),
    Declared(
        fact="accumulates_in",
        ops=("torch:conv_transpose1d", "torch:conv_transpose2d"),
        dtypes=("f16",),
        value="f16",
        source="torch 2.13: columns of W^T x rounded to f16 and added in f16 give every bit",
    ),
)
