"""Ascend 310P: saturation mode in place of infinities, no bf16. From `DEVICES.md`.

Its other half, that a NaN becomes zero, has no field in `Arithmetic` and is not simulated.
"""

from __future__ import annotations

from parity.backend.sim.chip import Chip, Quirk, gap

__all__ = ["CHIP"]

CHIP = Chip(
    name="ascend310p",
    title="Ascend 310P as documented",
    quirks=(
        Quirk(
            name="saturates",
            text="a result beyond the largest finite value becomes that value: exp(12) in float16 is 65504",
            source="DEVICES.md 1.4, 3.4 INF_NAN_MODE_ENABLE",
            arithmetic={"overflow": {"f32": "max", "f16": "max"}},
        ),
        Quirk(
            name="float64_is_float32",
            text="float64 is computed as float32",
            source="DEVICES.md 2 (fp64), 3.4 Dtypes",
            arithmetic={"float64": "f32"},
        ),
        *gap("bf16", "no bf16", "DEVICES.md 2 (bf16: not 910A/310P)", dtypes=("bf16",)),
    ),
)
