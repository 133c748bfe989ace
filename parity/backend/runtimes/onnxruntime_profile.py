"""The arithmetic that ONNX Runtime's CPU provider declares: one place to add a sourced fact.

Facts are named in `judge`. Does not probe.
"""

from __future__ import annotations

from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["DECLARED", "SIGMOID_OFFSET", "ULPS", "onnxruntime_profile"]

_KERNEL = "ONNX Runtime 1.31, onnxruntime/core/providers/cpu/llm/attention.cc"
# Of all float32 arguments from 0.25 to 18 in magnitude the worst is 15.93478775, 2.985 * 2^-24 off. Beyond
# 18 the argument is clamped, which costs e^-18, a quarter of 2^-24; below 0.25 nothing cancels.
SIGMOID_OFFSET = 3 * 2.0**-24


def _stored(fact: str, ops: tuple[str, ...], source: str) -> Declared:
    """A value that the f16 kernel of `Attention` stores in the type of its tensors."""
    return Declared(fact=fact, ops=ops, dtypes=("f16",), value="f16", source=source)


DECLARED: tuple[Declared, ...] = (
    Declared(
        fact="sigmoid_offset",
        ops=("experts", "gated", "route", "sigmoid", "silu", "swiglu"),
        dtypes=("f32", "f16", "bf16"),
        value=str(SIGMOID_OFFSET),
        source="ONNX Runtime 1.31, onnxruntime/core/mlas/lib/logistic.cpp: 1/2 + p(x)/q(x) in float32, x "
        "clamped to 18; this emulation gives 3,199,999 of 3,200,000 results to the bit",
    ),
    _stored(
        "scores_rounded",
        ("attention", "split_attention"),
        f"{_KERNEL}, AttentionGemm: the float32 product is converted back to MLFloat16",
    ),
    _stored(
        "p_rounded",
        ("attention", "split_attention"),
        "ONNX Runtime 1.31, onnxruntime/core/providers/cpu/llm/attention_softmax.h: the float32 softmax is "
        "converted back to MLFloat16",
    ),
    _stored(
        "scores_stored",
        ("paged_attention", "latent_attention"),
        f"{_KERNEL}, AttentionGemm and ComputeAttentionSoftcapInplace: scaled product, cap and softmax are "
        "each computed in float32 and converted back to MLFloat16",
    ),
)

# Largest error per function in units in the last place of float32, where ONNX Runtime documents one.
ULPS: dict[str, float] = {}


def onnxruntime_profile(setting: Setting) -> Profile:
    """Return the profile; both settings compute in float32 what the graph says."""
    del setting
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), ulps=ULPS, declared=DECLARED)
