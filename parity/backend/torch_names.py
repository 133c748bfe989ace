# ruff: noqa: SLF001 - torch keeps the table of its own bindings to itself
"""Names of torch functions, as recordings write them, and the functions that they name here.

Only what torch lists as a function of tensors, its own bindings and its operators are named: nothing that
calls back, opens a file or takes an address. Does not call any of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import get_overridable_functions, resolve_name

from parity.backend.base import Unsupported
from parity.case.opinfo_db import PREFIX as OPINFO
from parity.case.opinfo_db import function_of

__all__ = ["FACTORIES", "call_name", "function_named"]

# Make tensors from numbers alone, always the same ones.
FACTORIES = frozenset(
    (
        *("arange", "eye", "full", "linspace", "logspace", "ones", "tril_indices", "triu_indices", "zeros"),
        *("bartlett_window", "blackman_window", "hamming_window", "hann_window"),
    )
)
# Listed as overridable, but they call back into Python, touch memory by address or belong to autograd.
_REFUSED = frozenset(
    (
        *("apply_", "backward", "data_ptr", "from_file", "map2_", "map_", "module_load", "numpy", "set_"),
        *("record_stream", "register_hook", "register_post_accumulate_grad_hook", "share_memory_"),
        *("resize_as_sparse_", "untyped_storage"),
    )
)


def call_name(function: Callable[..., Any]) -> str | None:
    """Return the name under which a function can be recorded and found again, None where it has none."""
    name: str | None = resolve_name(function)
    if name is None:
        short = getattr(function, "__name__", "")
        return short if short and _builtin(short) == function else None
    name = name.removeprefix("torch.")
    try:
        function_named(name)
    except Unsupported:
        return None
    return name


def function_named(name: str) -> Callable[..., Any]:
    """Return the function of that name. Raises Unsupported for all that torch does not list as one."""
    parts = name.split(".")
    if name.startswith(OPINFO):  # of torch's own op database, which wraps several functions in Python
        found = function_of(name)
    elif parts[0] == "aten" and 2 <= len(parts) <= 3 and not _REFUSED & set(parts):
        packet = getattr(torch.ops.aten, parts[1], None)
        found = packet if len(parts) == 2 else getattr(packet, parts[2], None)
    else:
        found = _listed().get(name) or _builtin(name)
    if found is None:
        raise Unsupported(f"torch {torch.__version__} lists no function '{name}' that a step may call")
    return found


def _builtin(name: str) -> Callable[..., Any] | None:
    """Return torch's own binding of that name: factories, and functions that it keeps to itself."""
    return (
        None
        if name in _REFUSED or name.startswith("__")
        else getattr(torch._C._VariableFunctions, name, None)
    )


@functools.cache
def _listed() -> Mapping[str, Callable[..., Any]]:
    named: dict[str, Callable[..., Any]] = {}
    for functions in get_overridable_functions().values():
        for function in functions:
            name = (resolve_name(function) or "").removeprefix("torch.")
            if name and not _REFUSED & set(name.split(".")) and "__reduce" not in name:
                named.setdefault(name, function)
    return named
