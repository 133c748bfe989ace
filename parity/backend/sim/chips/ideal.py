"""A chip without quirks: bit-equal to the host's CPU, so that every difference is a declared one."""

from __future__ import annotations

from parity.backend.sim.chip import Chip

__all__ = ["CHIP"]

CHIP = Chip(name="ideal", title="a chip that computes as the host does", modes=("eager", "lazy"))
