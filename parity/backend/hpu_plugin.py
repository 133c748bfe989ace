"""What the Gaudi plugin's answers mean: its refusals, its count of host fallbacks, who changed torch.

Does not import it; `hpu` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from parity.backend.base import Node
from parity.backend.vendor_api import find

__all__ = ["fallbacks", "patched", "refusal"]

# With PT_HPU_PLACE_ON_CPU=none (worded so in the plugin's fallback_helper.h), and with
# PT_HPU_USE_EAGER_FALLBACK=0 (DEVICES.md 3.3, execution).
_REFUSAL = re.compile(r"[^\n]*(?:is not yet supported on HPU|Eager fallbacks found)[^\n]*")
# DEVICES.md 3.3, third-party monkeypatches.
_PATCHED = ("gather", "take_along_dim", "scatter", "linalg.cholesky", "compile")


def refusal(error: Exception) -> str | None:
    """Return the plugin's words where it refuses to leave the chip or the compiled graph, else None."""
    # Where torch's own words were already taken for an inability, the plugin's are beneath.
    found = _REFUSAL.search(f"{error.__cause__}\n{error}")
    return found[0].strip() if found else None


def fallbacks(stats: Mapping[str, Any]) -> list[Node]:
    """Return what the metric `cpu_fallback` counted: {"TotalNumber": 1, "FallbackOps": {op: 1}}."""
    ops = stats.get("FallbackOps") or {}
    if not ops and stats.get("TotalNumber"):
        ops = {"an operator that the metric does not name": stats["TotalNumber"]}
    return [Node(kind=str(op), device="cpu", precision="?") for op in ops]


def patched(torch: Any) -> str:
    """Name the functions of torch that another library replaced: it is then that library that is tested.

    transformers replaces some of them once it has seen an HPU.
    """
    owners = {name: str(find(torch, f"{name}.__module__")) for name in _PATCHED}
    others = {name: owner for name, owner in owners.items() if owner.partition(".")[0] != "torch"}
    return ", ".join(f"torch.{name} by {owner}" for name, owner in others.items()) or "none"
