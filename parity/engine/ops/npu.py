"""Rewrites for Ascend, by kernels that torch_npu registers with torch; without it they do not apply.

Not tried on a chip. AclnnAddRmsNorm is fast and not batch-invariant (DEVICES.md 7, N17): `force`
takes the two ops that it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from parity.engine.ops import reference

__all__ = ["add_rms_norm"]


def _is_here(bound: Mapping[str, Any]) -> bool:
    return not bound["offset"] and hasattr(torch.ops.npu, "npu_add_rms_norm")


@reference.add_rms_norm.impl("npu", when=_is_here)
def add_rms_norm(x: Tensor, y: Tensor, *, w: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """torch_npu's kernel, which returns the norm, the reciprocal root and the sum."""
    del offset
    normal, _, total = torch.ops.npu.npu_add_rms_norm(x, y, w, eps)
    return total, normal
