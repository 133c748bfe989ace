"""A call of a torch function as JSON, and back: what a step of op `torch:<name>` says that was done.

    text, tensors = encode_call(torch.softmax, (x,), {"dim": -1})
    # '{"function":"softmax","args":[{"tensor":0}],"kwargs":{"dim":-1},"writes":[]}', (x,)
    call = decode_call(text)              # of attrs["call"]; resolves names that torch lists, nothing else
    outputs = call.run(inputs)            # the step's outputs, from tensors in the order of its inputs
    outputs = call.run([x.double() ...], widen=lambda dtype: torch.float64)
    function, args, kwargs = call.bind(inputs)

Numbers, strings, None, lists and `{name: value}` stand for themselves where JSON has them; everything
else is an object with one key: `tensor` (the number of a step's input), `dtype`, `device`, `tuple`,
`slice`, `ellipsis`, `float`, `complex`, `dict`, `layout`, `memory_format`. A complex tensor is recorded
as its real view `[..., 2]` and marked `"complex": true`. `writes` lists inputs that the call writes to.
Does not run anything by itself, and nothing that torch does not list as a function of tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.backend.base import Unsupported
from parity.backend.torch_names import call_name, function_named
from parity.backend.torch_tensor import dtype_of, torch_dtype
from parity.case.dtype import DTYPES
from parity.errors import GoldenError

__all__ = ["Call", "decode_call", "encode_call", "flat_tensors", "real_view"]

_Widen = Callable[[torch.dtype], torch.dtype]

# Methods whose name is the type that they convert to.
_CONVERSIONS = {
    "Tensor.bfloat16": torch.bfloat16,
    "Tensor.double": torch.float64,
    "Tensor.float": torch.float32,
    "Tensor.half": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """Stands for a step's input; a complex one is held as its real view."""

    index: int
    is_complex: bool = False


class _Device:
    """Stands for the device that the call is run on, whichever it was recorded on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A decoded call; `name` is torch's own without the leading `torch.`, `writes` as in the JSON."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    writes: tuple[int, ...] = ()

    def bind(
        self, inputs: Sequence[Tensor], *, device: torch.device | None = None, widen: _Widen | None = None
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return the function and its arguments with the step's inputs in place, uncopied.

        `device` is where factories make tensors, by default where the first input is. `widen` maps the
        dtypes that the call itself names, for an evaluation at a higher precision. Raises GoldenError
        when the call names an input that is not there.
        """
        place = device or (inputs[0].device if inputs else torch.device("cpu"))

        def put(value: Any) -> Any:
            if isinstance(value, _Input):
                if value.index >= len(inputs):
                    raise GoldenError(
                        f"the call of {self.name} reads input {value.index}, but there are {len(inputs)}"
                    )
                held = inputs[value.index]
                return torch.view_as_complex(held.contiguous()) if value.is_complex else held
            if isinstance(value, _Device):
                return place
            if isinstance(value, torch.dtype) and widen is not None:
                return widen(value)
            if isinstance(value, (list, tuple)):
                return type(value)(put(item) for item in value)
            return {k: put(v) for k, v in value.items()} if isinstance(value, dict) else value

        function, args, kwargs = function_named(self.name), put(self.args), put(dict(self.kwargs))
        if widen is not None and self.name in _CONVERSIONS:
            function, args, kwargs = Tensor.to, (args[0], widen(_CONVERSIONS[self.name])), {}
        return function, args, kwargs

    def run(
        self, inputs: Sequence[Tensor], *, device: torch.device | None = None, widen: _Widen | None = None
    ) -> tuple[Tensor, ...]:
        """Return what the step gives: the tensors of the result, then what was written to if not among them.

        Inputs are never changed: those that the call writes to are copied first.
        """
        held = [t.clone() if i in self.writes else t for i, t in enumerate(inputs)]
        function, args, kwargs = self.bind(held, device=device, widen=widen)
        results = flat_tensors(function(*args, **kwargs))
        written = [held[i] for i in self.writes]
        return tuple(real_view(t) for t in (*results, *(w for w in written if not _among(w, results))))


def _among(tensor: Tensor, others: Sequence[Tensor]) -> bool:
    return any(tensor is other for other in others)


def real_view(tensor: Tensor) -> Tensor:
    """Return a complex tensor as real pairs `[..., 2]`, another one as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def flat_tensors(value: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a result that is one or holds some in tuples, lists or dicts, in order."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return tuple(tensor for item in value for tensor in flat_tensors(item))
    return ()


def encode_call(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    writes: Sequence[Tensor] = (),
    name: str | None = None,
) -> tuple[str, tuple[Tensor, ...]]:
    """Return the JSON of a call and the tensors among its arguments, each once, in order of first use.

    `writes` are the arguments that it writes to, `name` what `decode_call` finds it by, where that is known
    already. Raises Unsupported for a function without a name that
    `decode_call` would find, and for an argument that is code or an object of somebody's own.
    """
    name = name or call_name(function)
    if name is None:
        raise Unsupported(f"{getattr(function, '__name__', function)} is no function that torch lists")
    tensors: list[Tensor] = []
    document = {
        "function": name,
        "args": [_encode(value, tensors) for value in args],
        "kwargs": {key: _encode(value, tensors) for key, value in kwargs.items()},
    }
    if any(tensor.is_complex() for tensor in writes):
        raise Unsupported(f"{name} writes to a complex tensor")
    document["writes"] = [i for i, tensor in enumerate(tensors) if _among(tensor, writes)]
    return json.dumps(document, separators=(",", ":"), allow_nan=False), tuple(tensors)


def _encode(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        index = next((i for i, held in enumerate(tensors) if held is value), len(tensors))
        tensors += [value] * (index == len(tensors))
        return {"tensor": index, "complex": True} if value.is_complex() else {"tensor": index}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (tuple, list)):
        items = [_encode(item, tensors) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, tensors) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(part, tensors) for part in (value.start, value.stop, value.step)]}
    return _encode_leaf(value)


def _encode_leaf(value: Any) -> Any:
    match value:
        case complex():
            return {"complex": [value.real, value.imag]}
        case torch.dtype():
            return {"dtype": _dtype_name(value)}
        case torch.device():
            return {"device": value.type}
        case torch.layout() | torch.memory_format():
            kind = "layout" if isinstance(value, torch.layout) else "memory_format"
            return {kind: str(value).removeprefix("torch.")}
        case type() if issubclass(value, (bool, int, float)):  # `x.to(float)`
            return {"type": value.__name__}
        case _:
            pass
    if value is Ellipsis:
        return {"ellipsis": True}
    raise Unsupported(f"an argument of type {type(value).__name__} cannot be written down")


def _dtype_name(value: torch.dtype) -> str:
    try:
        return dtype_of(value).name
    except Unsupported:
        return str(value).removeprefix("torch.")


def decode_call(text: str) -> Call:
    """Return the call that `encode_call` wrote.

    Raises GoldenError for text that it could not have written, Unsupported for a function that this torch
    does not list.
    """
    try:
        document = json.loads(text)
        name, writes = document["function"], tuple(document["writes"])
        args = tuple(_decode(value) for value in document["args"])
        kwargs = {key: _decode(value) for key, value in document["kwargs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GoldenError(f"a step's call is not as parity writes calls ({error}): record it again") from None
    if not isinstance(name, str) or not all(isinstance(i, int) and i >= 0 for i in writes):
        raise GoldenError(f"a step's call has no function or wrong writes: {text[:80]}: record it again")
    function_named(name)
    return Call(name=name, args=args, kwargs=kwargs, writes=writes)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        if type(value["tensor"]) is not int or value["tensor"] < 0:
            raise ValueError(f"input {value['tensor']!r}")
        return _Input(index=value["tensor"], is_complex=value.get("complex") is True)
    ((kind, held),) = value.items()
    return _decode_leaf(kind, held)


def _decode_leaf(kind: str, held: Any) -> Any:
    match kind:
        case "tuple":
            return tuple(_decode(item) for item in held)
        case "dict":
            return {key: _decode(item) for key, item in held.items()}
        case "slice":
            return slice(*(_decode(part) for part in held))
        case "ellipsis":
            return Ellipsis
        case "float":
            return float(held)
        case "complex":
            return complex(*held)
        case "device":
            return _Device()
        case "type":
            return {"bool": bool, "int": int, "float": float}[held]
        case "dtype":
            return _torch_value(held, torch.dtype) if held not in DTYPES else torch_dtype(DTYPES[held])
        case "layout":
            return _torch_value(held, torch.layout)
        case "memory_format":
            return _torch_value(held, torch.memory_format)
        case _:
            raise ValueError(f"an unknown kind of value '{kind}'")


def _torch_value(name: str, kind: type) -> Any:
    value = getattr(torch, name, None)
    if not isinstance(value, kind):
        raise ValueError(f"torch has no {kind.__name__} '{name}'")  # noqa: TRY004 - of text, not of a type
    return value
