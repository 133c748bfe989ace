"""The arithmetic that is documented for Ascend: what widens a budget, and what a probe is held against.

Does not probe, and reads no switch; it is told what they permit.
"""

from __future__ import annotations

from parity.backend.arithmetic import Arithmetic, Products, Reads
from parity.backend.profile import Accumulator, Declared, Profile
from parity.case.dtype import DTYPES

__all__ = ["npu_arithmetic", "npu_profile"]

_PRODUCTS = ("matmul", "bmm", "linear", "addmm", "attention")
_CONVOLUTIONS = ("conv1d", "conv2d")
_HF32_BITS = "12"  # one implicit and the 11 explicit ones of `arithmetic.Reads.HF32`


def npu_profile(*, products: str | None, convolutions: str | None) -> Profile:
    """Return the profile: float32 sums, and HF32 operands where a switch permits them.

    By default it permits them to convolutions (DEVICES.md 3.4, torch.npu.conv.allow_hf32).
    """
    declared = tuple(
        Declared(
            fact="inputs_rounded",
            ops=ops,
            dtypes=("f32",),
            value=_HF32_BITS,
            source=f"DEVICES.md 3.4, numeric switches: torch.npu.{owner}.allow_hf32",
        )
        for owner, ops, permitted in (
            ("matmul", _PRODUCTS, products),
            ("conv", _CONVOLUTIONS, convolutions),
        )
        if permitted == "hf32"
    )
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), declared=declared)


def npu_arithmetic(flavour: str, *, products: str | None, inf_nan: bool | None) -> Arithmetic:
    """Return what DEVICES.md 1, 2 and 3.4 say; `inf_nan` is whether overflow gives infinity.

    In saturation mode only float16 is exemplified, exp(12) giving 65504.
    """
    reads = {None: Reads.IEEE, "hf32": Reads.HF32}.get(products)
    overflow = {} if inf_nan is None else {"f16": "inf" if inf_nan else "max"}
    return Arithmetic(
        products={} if reads is None else {"f32": Products(reads=reads)},
        overflow=overflow,
        int64="i64",
        fp8="e4m3fn" if flavour == "ascend950" else None,
    )
