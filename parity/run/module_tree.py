"""Find the tensors in what a module is given and gives: containers, dataclasses, caches, any object.

Each comes with the path at which it lies, such as `past_key_values.layers.0.keys`. Does not look into
modules: their tensors are weights.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["argument_tensors", "tensors_at"]

_DEPTH = 6  # deeper than any cache of a model; what refers to itself ends here
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, nn.Module)


def tensors_at(value: Any, path: str = "", *, depth: int = _DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a value with the path of each below `path`, in order."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, _PLAIN) or depth == 0:
        return
    else:
        for key, item in _items(value):
            yield from tensors_at(item, f"{path}.{key}" if path else key, depth=depth - 1)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, (tuple, list)):
        names: Sequence[str] = getattr(value, "_fields", ())
        yield from zip(names or map(str, range(len(value))), value, strict=True)
    elif isinstance(value, (set, frozenset)):
        return  # no order that two sides share
    elif dataclasses.is_dataclass(value):
        yield from ((f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value))
    else:
        held = getattr(value, "__dict__", None)
        yield from held.items() if isinstance(held, dict) else ()


def argument_tensors(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, Tensor]]:
    """Return the tensors among the arguments of a call under the names of its parameters."""
    try:
        bound = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # written in C, or called wrongly, which it will say itself
        bound = {str(i): arg for i, arg in enumerate(args)} | dict(kwargs)
    return list(tensors_at(bound))
