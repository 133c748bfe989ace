"""The arithmetic that OpenVINO's CPU plugin declares: one place to add a sourced fact.

Facts are named in `judge`. Does not probe.
"""

from __future__ import annotations

from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["DECLARED", "ULPS", "openvino_profile"]

# Add `Declared(fact=…, ops=(…), dtypes=(…), value=…, source=…)`; the source is a page of OpenVINO's
# documentation, a file of its sources with the version, or an emulation that reproduces the bits.
DECLARED: tuple[Declared, ...] = ()

# Largest error per function in units in the last place of float32, where OpenVINO documents one.
ULPS: dict[str, float] = {}


def openvino_profile(setting: Setting) -> Profile:
    """Return the profile. Production declares nothing more: a lower precision shows in the witness."""
    del setting
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), ulps=ULPS, declared=DECLARED)
