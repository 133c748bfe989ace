"""The arithmetic that torch declares on a CPU: one place to add a sourced fact.

Facts are named in `judge`. Does not probe.
"""

from __future__ import annotations

from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["DECLARED", "ULPS", "cpu_profile"]

# Add `Declared(fact=…, ops=(…), dtypes=(…), value=…, source=…)`; the source is a file of torch,
# oneDNN or MKL with its version, or an emulation that reproduces the bits.
_PRODUCTS = ("matmul", "bmm", "linear", "addmm", "attention")


def _rounded(fact: str, op: str, source: str) -> tuple[Declared, ...]:
    """A value that an op keeps in the dtype of its 16-bit input."""
    return tuple(
        Declared(fact=fact, ops=(op,), dtypes=(name,), value=name, source=source) for name in ("bf16", "f16")
    )


DECLARED: tuple[Declared, ...] = (
    *_rounded(
        "intermediates_rounded",
        "logsumexp",
        "torch 2.13, aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl: a chain of tensor "
        "operations, each of which stores the tensor's dtype",
    ),
    *_rounded(
        "log_sum_rounded",
        "log_softmax",
        "torch 2.13, aten/src/ATen/native/cpu/SoftMaxKernel.cpp: tmp_sum_scalar holds the sum, then "
        "its logarithm, in the tensor's dtype",
    ),
    *_rounded(
        "p_rounded",
        "attention",
        "torch 2.13, aten/src/ATen/native/cpu/FlashAttentionKernel.cpp: qk_reduced_data holds the "
        "weights in the tensor's dtype for the product with v",
    ),
    *_rounded(
        "inner_exp_rounded",
        "softmax",
        "torch 2.13: rounding exp(x - max) to the tensor's dtype, with the sum in float32 of the "
        "unrounded ones, reproduces every bit along dimensions other than the last",
    ),
    *_rounded(
        "product_rounded",
        "linear",
        "torch 2.13, aten/src/ATen/native/Linear.cpp: an input that is not one contiguous matrix goes "
        "through matmul, whose result is stored before the bias is added",
    ),
    *_rounded(
        "accumulates_in",
        "index_put",
        "torch 2.13, aten/src/ATen/native/cpu/IndexKernel.cpp, index_put_kernel: adds in the tensor's dtype",
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

# Largest error per function in units in the last place of float32, where torch documents one.
ULPS: dict[str, float] = {}


def cpu_profile(setting: Setting) -> Profile:
    """Return the profile; both settings compute alike, since torch's defaults are the exact ones."""
    del setting
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), ulps=ULPS, declared=DECLARED)
