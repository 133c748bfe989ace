"""Ascend 910B (A2) as documented in `DEVICES.md`; INF_NAN mode is its default, so nothing saturates."""

from __future__ import annotations

from parity.backend.arithmetic import Products, Reads
from parity.backend.sim.chip import Chip, Gap, Quirk
from parity.backend.spec import Setting

__all__ = ["CHIP"]

CHIP = Chip(
    name="ascend910b",
    title="Ascend 910B as documented",
    quirks=(
        Quirk(
            name="conv_hf32",
            text="float32 convolution reads hf32 by default; strict sets conv.allow_hf32=False",
            source="DEVICES.md 1.4, 3.4",
            settings=(Setting.PRODUCTION,),
            arithmetic={"products": {"conv.f32": Products(reads=Reads.HF32)}},
        ),
        Quirk(
            name="float64_is_float32",
            text="float64 is computed as float32",
            source="DEVICES.md 2 (fp64), 3.4 Dtypes",
            arithmetic={"float64": "f32"},
        ),
        Quirk(
            name="to_double_gives_float",
            text="a conversion to float64 gives float32, with one warning",
            source="DEVICES.md 1.4, 3.4 Dtypes (ToKernelNpu.cpp)",
            casts={"f64": "f32"},
        ),
        Quirk(
            name="fp8_casts_on_host",
            text="conversions of 8-bit floats run on the host",
            source="DEVICES.md 3.4 Dtypes (should_fallback_to_cpu_cast)",
            gaps=(
                Gap(
                    ops=("_to_copy", "copy"),
                    dtypes=("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"),
                    runs_on="cpu",
                ),
            ),
        ),
        Quirk(
            name="integer_sort_on_aicpu",
            text="integers are sorted on the AI CPU",
            source="DEVICES.md 3.4 Dtypes (int32/int64 argsort), 1.6",
            gaps=(Gap(ops=("sort", "argsort"), dtypes=("i32", "i64"), runs_on="aicpu"),),
        ),
    ),
)
