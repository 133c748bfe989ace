"""The short name of a chip, as flavours are written, from the name that its driver gives."""

from __future__ import annotations

import re
from itertools import takewhile

__all__ = ["short_name"]

# Makers, product lines and generic words, which tell no chips apart.
_GENERIC = frozenset((
    *("amd", "apple", "intel", "nvidia", "cambricon", "mtt"),
    *("arc", "geforce", "instinct", "quadro", "radeon", "tesla"),
    *("center", "data", "device", "gpu", "graphics"),
))  # fmt: skip
# What stands after a model's number and makes it another chip.
_VARIANTS = frozenset((
    *("ada", "d", "gre", "laptop", "max", "mobile", "pro", "sff", "super", "ti", "ultra", "xt", "xtx"),
))  # fmt: skip


def short_name(name: str) -> str:
    """Return `h200` of `NVIDIA H200`, `mi300x` of `AMD Instinct MI300X`; empty where nothing is left.

    The words up to the first with a digit, without generic ones, then what tells variants of one
    number apart. Sizes and forms of the same chip (`80GB HBM3`, `SXM4`, `PCIe`) are left out.
    """
    bare = re.sub(r"\(.*?\)|\[.*?\]", " ", name.lower())
    words = [word for word in re.split(r"[\s/-]+", bare) if word and word not in _GENERIC]
    numbers = [place for place, word in enumerate(words) if re.search(r"\d", word)]
    model = numbers[0] + 1 if numbers else len(words)
    short = "".join((*words[:model], *takewhile(_VARIANTS.__contains__, words[model:])))
    return re.sub(r"[^a-z0-9._]", "", short)
