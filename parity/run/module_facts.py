# ruff: noqa: SLF001 - torch keeps to itself how functorch marks its tensors, Python its frames
"""What is known of a torch function before it is called: whether it views, makes, writes or draws.

Only names and schemas; what a call really did is seen afterwards, by storage. Does not call anything.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from parity.backend.base import Witness
from parity.backend.torch_call import flat_tensors
from parity.backend.torch_names import FACTORIES, call_name
from parity.run.module_calls import short_name

__all__ = ["Facts", "Kind", "draws", "look_up", "region_kind", "written_by"]


class Kind(Enum):
    """What a function does to memory."""

    METADATA = "metadata"  # tells something of a tensor
    VIEW = "view"  # another view of memory that is there
    BLANK = "blank"  # memory that nobody wrote
    CONSTANT = "constant"  # memory that holds what the program wrote down
    FACTORY = "factory"  # memory computed from numbers alone
    SHARING = "sharing"  # lets others than torch write to memory
    CALL = "call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`name` as `torch_call` writes it, None for what it cannot; `short` as sites are named by."""

    name: str | None
    short: str
    kind: Kind
    in_place: bool


_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            *(
                "__format__",
                "__hash__",
                "__len__",
                "__repr__",
                "dense_dim",
                "dim",
                "element_size",
                "get_device",
            ),
            *(
                "is_complex",
                "is_conj",
                "is_contiguous",
                "is_floating_point",
                "is_inference",
                "is_neg",
                "is_set_to",
            ),
            *("is_pinned", "is_same_size", "is_shared", "is_signed", "is_storage", "is_tensor", "ndimension"),
            *("nelement", "numel", "requires_grad_", "result_type", "size", "sparse_dim", "storage_offset"),
            *("storage_type", "stride", "sym_size", "_is_view", "has_names"),
        ),
        Kind.METADATA,
    ),
    **dict.fromkeys(
        (
            *(
                "T",
                "H",
                "adjoint",
                "as_strided",
                "chunk",
                "detach",
                "detach_",
                "diagonal",
                "expand",
                "expand_as",
            ),
            *("hsplit", "imag", "mH", "mT", "moveaxis", "movedim", "narrow", "permute", "real", "select"),
            *(
                "split",
                "split_with_sizes",
                "squeeze",
                "swapaxes",
                "swapdims",
                "t",
                "tensor_split",
                "transpose",
            ),
            *(
                "unbind",
                "unflatten",
                "unfold",
                "unsqueeze",
                "view",
                "view_as",
                "view_as_complex",
                "view_as_real",
            ),
            *("vsplit", "data"),
        ),
        Kind.VIEW,
    ),
    **dict.fromkeys(
        (
            *("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"),
            "resize_",
        ),
        Kind.BLANK,
    ),
    **dict.fromkeys(
        ("as_tensor", "asarray", "from_dlpack", "frombuffer", "new_tensor", "tensor"), Kind.CONSTANT
    ),
    **dict.fromkeys(
        ("full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"), Kind.FACTORY
    ),
    **dict.fromkeys(("__array__", "__dlpack__", "data_ptr", "numpy", "untyped_storage"), Kind.SHARING),
    **dict.fromkeys(FACTORIES, Kind.FACTORY),
}
# Getters that give a tensor; any other tells something of one.
_VIEWING_GETTERS = ("T", "H", "mT", "mH", "real", "imag", "data")
_DRAWS = frozenset(
    (
        *("bernoulli", "binomial", "cauchy", "exponential", "geometric", "gumbel_softmax", "log_normal"),
        *("multinomial", "normal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn"),
        *("randn_like", "random", "randperm", "uniform"),
    )
)


@functools.lru_cache(maxsize=4096)
def look_up(function: Callable[..., Any]) -> Facts:
    """Return what is known of a function, by whatever name it was imported."""
    name = call_name(function)
    operator = getattr(
        getattr(function, "_schema", None), "name", getattr(function, "_qualified_op_name", "")
    )
    full = name or operator.replace("::", ".") or resolve_name(function) or getattr(function, "__name__", "")
    full = full or type(function).__name__
    parts = full.split(".")
    getter = parts[-1] in ("__get__", "__set__", "__delete__")
    last = parts[-2] if getter else parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[-1]
    if operator and not operator.startswith("aten::"):  # somebody else's, whatever it is called
        return Facts(name=None, short=short_name(full), kind=Kind.CALL, in_place=False)
    kind = _KINDS.get(last, Kind.CALL)
    if getter:
        kind = Kind.VIEW if last in _VIEWING_GETTERS else Kind.METADATA
    return Facts(name=name, short=short_name(full), kind=kind, in_place=_is_in_place(last))


def _is_in_place(last: str) -> bool:
    if last.startswith("__"):
        functional = f"__{last[3:]}"
        return last == "__setitem__" or (
            last.startswith("__i") and hasattr(Tensor, functional) and last != "__invert__"
        )
    return last.endswith("_")


# Norms that update running statistics, which torch's own count of writes does not see: where these stand
# among the arguments, and which argument switches it on, by default or not.
_STATISTICS = {"batch_norm": (1, "training", False), "instance_norm": (1, "use_input_stats", True)}


def written_by(
    function: Callable[..., Any], facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Return the arguments that a call will write to, as far as its name and schema tell."""
    found = list(flat_tensors(kwargs["out"])) if kwargs.get("out") is not None else []
    schema = getattr(function, "_schema", None)
    if schema is not None and schema.is_mutable:
        found += _by_schema(schema, args, kwargs)
    elif facts.in_place or kwargs.get("inplace") is True:
        found += flat_tensors(args[0] if args else next(iter(kwargs.values()), None))
    elif facts.short in ("batch_norm", "instance_norm"):  # running statistics, in training
        found += flat_tensors(args[1:3]) + flat_tensors(
            [kwargs.get("running_mean"), kwargs.get("running_var")]
        )
    return found


def _by_schema(schema: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from flat_tensors(args[i] if i < len(args) else kwargs.get(argument.name))


def draws(facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any], witness: Witness | None) -> bool:
    """Whether a call drew random numbers, by its name or by what torch says of what it dispatched."""
    if facts.short == "scaled_dot_product_attention":
        return bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    nodes = witness.executed if witness is not None else ()
    return facts.short in _DRAWS or any(_is_seeded(node.kind) for node in nodes)


@functools.cache
def _is_seeded(kind: str) -> bool:
    if "scaled_dot_product" in kind:  # torch says so whether it drops anything or not
        return False
    packet = getattr(torch.ops.aten, kind.removeprefix("aten::"), None) if kind.startswith("aten::") else None
    names = packet.overloads() if packet is not None else ()
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, name).tags for name in names)


def region_kind(tensors: Sequence[Tensor]) -> str:
    """Return `functorch` or `compiled` for a call inside a region that is one step, else an empty string.

    To be asked by the function mode itself: the frames above it are the caller's.
    """
    if torch._C._functorch.maybe_current_level() is not None:
        return "functorch"
    if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors):
        return "functorch"
    if "torch._dynamo.eval_frame" not in sys.modules:
        return ""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(_FORWARDING):
        frame = frame.f_back
    file = frame.f_code.co_filename if frame is not None else ""
    if any(part in file for part in ("/_inductor/", "torchinductor_", "/_functorch/", "/_dynamo/")):
        return "compiled"
    if file.startswith("<eval_with_key>"):  # a graph, which a compiler runs or the model is
        for _ in range(8):
            frame = frame.f_back if frame is not None else None
            if frame is not None and "/_dynamo/" in frame.f_code.co_filename:
                return "compiled"
    return ""


# Between a model's code and the mode stand the functions that torch writes in Python.
_FORWARDING = ("torch/nn/functional.py", "torch/overrides.py", "torch/_tensor.py", "torch/functional.py")
