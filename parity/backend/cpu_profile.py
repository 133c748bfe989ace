"""The arithmetic that torch declares on a CPU: one place to add a sourced fact.

Facts are named in `judge`. Does not probe.
"""

from __future__ import annotations

from parity.backend.arithmetic import Arithmetic, Flush, Products
from parity.backend.cpu_profile_calls import CALLS, rounded
from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["DECLARED", "ULPS", "cpu_arithmetic", "cpu_profile"]

# Add `Declared(fact=…, ops=(…), dtypes=(…), value=…, source=…)`; the source is a file of torch,
# oneDNN or MKL with its version, or an emulation that reproduces the bits.
_PRODUCTS = (
    *("matmul", "bmm", "linear", "addmm", "attention", "conv1d", "conv2d"),
    *("experts", "grouped_mm", "hstu_attention", "latent_attention", "paged_attention", "route", "routed_mm"),
    "split_attention",
)


DECLARED: tuple[Declared, ...] = (
    *rounded(
        "intermediates_rounded",
        "logsumexp",
        "torch 2.13, aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl: a chain of tensor "
        "operations, each of which stores the tensor's dtype",
    ),
    *rounded(
        "log_sum_rounded",
        "log_softmax",
        "torch 2.13, aten/src/ATen/native/cpu/SoftMaxKernel.cpp: tmp_sum_scalar holds the sum, then "
        "its logarithm, in the tensor's dtype",
    ),
    *rounded(
        "p_rounded",
        "attention",
        "torch 2.13, aten/src/ATen/native/cpu/FlashAttentionKernel.cpp: qk_reduced_data holds the "
        "weights in the tensor's dtype for the product with v",
    ),
    *rounded(
        "p_rounded",
        "split_attention",
        "attention of each part of the heads or queries, as above; parts of the keys keep float32",
    ),
    *rounded(
        "inner_exp_rounded",
        "softmax",
        "torch 2.13: rounding exp(x - max) to the tensor's dtype, with the sum in float32 of the "
        "unrounded ones, reproduces every bit along dimensions other than the last",
    ),
    *rounded(
        "product_rounded",
        "linear",
        "torch 2.13, aten/src/ATen/native/Linear.cpp: an input that is not one contiguous matrix goes "
        "through matmul, whose result is stored before the bias is added",
    ),
    *rounded(
        "accumulates_in",
        "index_put",
        "torch 2.13, aten/src/ATen/native/cpu/IndexKernel.cpp, index_put_kernel: adds in the tensor's dtype",
    ),
    *rounded(
        "intermediates_rounded",
        "scatter_reduce",
        "torch 2.13: a mean's float32 sum rounded to the tensor's dtype before it is divided gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "floor_divide",
        "torch 2.13, c10/util/generic_math.h, div_floor_floating: (a - fmod(a, b)) / b, each result in the "
        "tensor's dtype, gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "trunc_divide",
        "torch 2.13: a / b rounded to the tensor's dtype before its fraction is dropped gives every bit",
    ),
    *rounded(
        "intermediates_rounded",
        "linspace",
        "torch 2.13, aten/src/ATen/native/RangeFactories.cpp: a step and products with it in the result's "
        "dtype, from both ends, give every bit",
    ),
    Declared(
        fact="intermediates_rounded",
        ops=("pow_scalar",),
        dtypes=("bf16",),
        value="bf16",
        source="torch 2.13: a cube as a square rounded to bf16 times x gives every bit",
    ),
    Declared(
        fact="base_rounded",
        ops=("arange",),
        dtypes=("f32", "bf16", "f16"),
        value="32",
        source="torch 2.13, aten/src/ATen/cpu/vec, Vectorized::arange: lanes are added to a first element in "
        "the result's dtype; 8 lanes of float32 and 16 of bf16 reproduce every bit of whole steps, and "
        "64-byte vectors have at most 32",
    ),
    Declared(
        fact="results_flushed",
        ops=("gelu_erf",),
        dtypes=("bf16",),
        source="torch 2.13, aten/src/ATen/native/Activation.cpp: bf16 goes to oneDNN, whose kernels "
        "flush subnormal results",
    ),
    Declared(
        fact="inputs_flushed",
        ops=_PRODUCTS,
        dtypes=("bf16",),
        source="Intel SDM volume 2, VDPBF16PS: denormals are treated as zero whatever MXCSR says; "
        "oneDNN uses it for bf16 products",
    ),
    Declared(
        fact="products_flushed",
        ops=_PRODUCTS,
        dtypes=("bf16",),
        source="Intel SDM volume 2, VDPBF16PS: denormal results are flushed to zero",
    ),
)

DECLARED += CALLS

# Largest error per function in units in the last place of float32, where torch or its library documents one.
ULPS: dict[str, float] = {
    # oneMKL, vector mathematics, accuracy modes: less than 1 ulp in HA, in which torch calls it
    # (aten/src/ATen/cpu/vml.h). 0.75 is reached: 20 % of uniform float32 are not the nearest root.
    "sqrt": 1.0,
}


def cpu_profile(setting: Setting) -> Profile:
    """Return the profile; both settings compute alike, since torch's defaults are the exact ones."""
    del setting
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), ulps=ULPS, declared=DECLARED)


def cpu_arithmetic(setting: Setting) -> Arithmetic:
    """Return what torch says of its arithmetic on a CPU, for the probe to confirm; the rest is unknown."""
    floats = ("f32", "bf16", "f16")
    strict = setting is Setting.STRICT
    return Arithmetic(
        # docs of torch.set_float32_matmul_precision: `highest`, which strict pins, keeps all 24 bits.
        products={"f32": Products()} if strict else {},
        # docs of torch.set_flush_denormal: off unless somebody turns it on.
        flush=dict.fromkeys(floats, Flush.NEVER),
        # c10/util/BFloat16.h and Half.h: conversions from float32 round to infinity, as IEEE 754 does.
        overflow=dict.fromkeys(floats, "inf"),
        # docs of torch.Tensor, data types: 64-bit integer (signed), 64-bit floating point.
        int64="i64",
        float64="f64",
        # c10/util/Float8_e4m3fn.h: 1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinities.
        fp8="e4m3fn",
        # docs of torch.nn.functional.gelu: without `approximate`, x Phi(x).
        gelu="erf",
        # aten/src/ATen/cpu/vec/vec512/vec512_float.h: operator/ is the processor's division.
        division="ieee",
        # aten/src/ATen/native/cpu/IndexKernelUtils.h, Indexer::get: adds the size to a negative index.
        negative_index="wraps",
        # aten/src/ATen/native/transformers/attention.cpp since 2.5: _safe_softmax gives such rows zeros.
        masked_row="zero",
        # docs of torch.use_deterministic_algorithms, which strict pins beside one thread.
        run_to_run=True if strict else None,
    )
