"""The arithmetic that OpenVINO's CPU plugin declares: one place to add a sourced fact.

What a program of one op stores between the nodes that it is compiled to is read off its execution
graph (`witness` shows the nodes). Facts are named in `judge`. Does not probe.
"""

from __future__ import annotations

from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["DECLARED", "ULPS", "openvino_profile"]

_PRODUCTS = (
    *("addmm", "attention", "bmm", "conv1d", "conv2d", "int8_weight_linear", "linear", "matmul"),
    *("experts", "hstu_attention", "latent_attention", "paged_attention", "route"),
    *("grouped_mm", "routed_mm", "split_attention"),
)
_EXPONENTIALS = (
    "exp",
    "gated",
    "hstu_attention",
    "log_softmax",
    "logsumexp",
    "sigmoid",
    "silu",
    "softmax",
    "swiglu",
)
_ARITHMETIC = (
    *_PRODUCTS,
    *_EXPONENTIALS,
    *("cumsum", "gelu_erf", "gelu_tanh", "layer_norm", "mean", "rms_norm", "rope", "sum", "tanh"),
    *("add", "div", "erf", "mul", "rsqrt"),
    *("add_rms_norm", "norm_rotate", "rotate", "scaled_embedding", "softcap", "weighted_rms_norm"),
    *("group_norm", "norm", "penalties", "pow", "pow_scalar", "reciprocal", "relu_squared"),
    *("remainder", "sin", "sub", "var"),
)


def _stored(fact: str, op: str, nodes: str) -> Declared:
    """A value that leaves one node of a bf16 program for the next, and so is rounded to bf16."""
    source = f"OpenVINO 2026.4, execution graph of {op} in bf16: {nodes}, with bf16 between them"
    return Declared(fact=fact, ops=(op,), dtypes=("bf16",), value="bf16", source=source)


DECLARED: tuple[Declared, ...] = (
    _stored("product_stored", "addmm", "MatMul, then a Subgraph that adds beta c"),
    _stored("product_stored", "conv1d", "Convolution, then an Eltwise that adds the bias"),
    _stored("product_stored", "conv2d", "Convolution, then an Eltwise that adds the bias"),
    _stored("product_stored", "linear", "MatMul, then a Subgraph that adds the bias"),
    _stored("normalized_rounded", "layer_norm", "MVN, then a Subgraph that applies gain and bias"),
    _stored("normalized_rounded", "group_norm", "MVN, then a Subgraph that applies gain and bias"),
    _stored("normalized_rounded", "rms_norm", "RMS, then a Subgraph that multiplies by the gain"),
    *(
        Declared(
            fact=fact,
            ops=("attention", "split_attention"),
            dtypes=("bf16",),
            value="bf16",
            source="OpenVINO 2026.4: rounding the scaled keys, the scores and the softmax weights to bf16 "
            "reproduces every bit",
        )
        for fact in ("scores_rounded", "p_rounded")
    ),
    _stored(
        "normalized_rounded", "add_rms_norm", "Subgraph (add), RMS, then a Subgraph that applies the gain"
    ),
    _stored("normalized_rounded", "norm_rotate", "RMS, then a Subgraph that applies the gain"),
    _stored("normalized_rounded", "weighted_rms_norm", "Subgraph (RMS), then one that applies the gain"),
    Declared(
        fact="scale_rounded",
        ops=("paged_attention", "latent_attention"),
        dtypes=("bf16", "f16"),
        source="torch.export gives the scale as a constant of the tensors' type: rounding it to that "
        "reproduces every bit",
    ),
    Declared(
        fact="keys_scaled",
        ops=("paged_attention", "latent_attention"),
        dtypes=("bf16",),
        source="OpenVINO 2026.4: rounding the scaled keys, the product (where there is a cap, what it gives, "
        "which is a post-op of the product's node) and the softmax weights to bf16 reproduces every bit",
    ),
    _stored("intermediates_rounded", "logsumexp", "Reduce, Subgraph (subtract, exp), Reduce, Log, Subgraph"),
    _stored(
        "intermediates_rounded", "log_softmax", "Reduce, Subgraph (subtract, exp), Reduce, Log, Subgraph"
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("trunc_divide",),
        dtypes=("bf16",),
        value="bf16",
        source="OpenVINO 2026.4: rounding the quotient to bf16 before it is truncated reproduces every bit",
    ),
    _stored("weights_dequantised", "int8_weight_linear", "a Subgraph that scales the weights, then MatMul"),
    Declared(
        fact="results_flushed",
        ops=_ARITHMETIC,
        dtypes=("bf16",),
        source="Intel SDM volume 2, VCVTNEPS2BF16, with which bf16 is stored: denormals are flushed to zero, "
        "MXCSR is not consulted",
    ),
    Declared(
        fact="inputs_flushed",
        ops=_PRODUCTS,
        dtypes=("bf16",),
        source="Intel SDM volume 2, VDPBF16PS: denormals are treated as zero whatever MXCSR says; "
        "the plugin's bf16 products are brgemm_avx512_bf16",
    ),
    Declared(
        fact="products_flushed",
        ops=_PRODUCTS,
        dtypes=("bf16",),
        source="Intel SDM volume 2, VDPBF16PS: denormal results are flushed to zero",
    ),
    Declared(
        fact="exp_flushes",
        ops=_EXPONENTIALS,
        dtypes=("f32", "f16", "bf16"),
        value=str(2**-125.5),
        source="oneDNN, src/cpu/x64/injectors/jit_uni_eltwise_injector.cpp, exp_compute_vector_fwd: e^x is "
        "2 * 2^(n-1) * p(r), n = floor(x log2 e + 1/2), and 2^(n-1) is made by shifting its exponent, "
        "which gives 0 for n = -126: this emulation loses the same results",
    ),
)

# Largest error per function in units in the last place of float32, where OpenVINO documents one.
ULPS: dict[str, float] = {}


def openvino_profile(setting: Setting) -> Profile:
    """Return the profile. Production declares nothing more: a lower precision shows in the witness."""
    del setting
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), ulps=ULPS, declared=DECLARED)
