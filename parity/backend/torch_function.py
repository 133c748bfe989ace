"""How functions, divisions, moments and ranges of the op table are written in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.torch_attention import rope
from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import dtype

__all__ = ["FUNCTION_OPS"]


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _trunc_divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _norm(x: Tensor, *, dim: int, keepdim: bool) -> Tensor:
    y: Tensor = torch.linalg.vector_norm(x, 2, dim, keepdim)
    return y


def _var(x: Tensor, *, dim: int, keepdim: bool, correction: int) -> Tensor:
    return torch.var(x, dim, correction=correction, keepdim=keepdim)


def _group_norm(
    x: Tensor, g: Tensor | None = None, b: Tensor | None = None, *, groups: int, eps: float
) -> Tensor:
    return F.group_norm(x, groups, g, b, eps)


def _max(x: Tensor, *, dim: int, keepdim: bool) -> tuple[Tensor, ...]:
    return tuple(torch.max(x, dim, keepdim))


def _min(x: Tensor, *, dim: int, keepdim: bool) -> tuple[Tensor, ...]:
    return tuple(torch.min(x, dim, keepdim))


def _argsort(x: Tensor, *, dim: int, descending: bool, stable: bool) -> Tensor:
    return torch.argsort(x, dim=dim, descending=descending, stable=stable)


def _arange(*, start: float, end: float, step: float, out: str) -> Tensor:
    return torch.arange(start, end, step, dtype=torch_dtype(dtype(out)))


def _linspace(*, start: float, end: float, steps: int, out: str) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch_dtype(dtype(out)))


def _one_hot(ids: Tensor, *, classes: int) -> Tensor:
    return F.one_hot(ids, classes)


def _tril_indices(*, rows: int, columns: int, offset: int) -> Tensor:
    return torch.tril_indices(rows, columns, offset)


def _meshgrid(a: Tensor, b: Tensor, *, indexing: str) -> tuple[Tensor, ...]:
    return tuple(torch.meshgrid(a, b, indexing=indexing))


def _rope_partial(x: Tensor, positions: Tensor, *, base: float, interleaved: bool, turned: int) -> Tensor:
    rotated = rope(x[..., :turned], positions, base=base, interleaved=interleaved)
    return torch.cat((rotated, x[..., turned:]), -1)


FUNCTION_OPS: dict[str, Callable[..., Any]] = {
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "relu_squared": _relu_squared,
    "softplus": F.softplus,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "pow": torch.pow,
    "pow_scalar": lambda x, *, exponent: torch.pow(x, exponent),
    "sub": torch.sub,
    "floor_divide": torch.floor_divide,
    "trunc_divide": _trunc_divide,
    "remainder": torch.remainder,
    "var": _var,
    "norm": _norm,
    "group_norm": _group_norm,
    "cumprod": lambda x, *, dim: torch.cumprod(x, dim),
    "amax": torch.amax,
    "amin": torch.amin,
    "max": _max,
    "min": _min,
    "argsort": _argsort,
    "arange": _arange,
    "linspace": _linspace,
    "one_hot": _one_hot,
    "tril_indices": _tril_indices,
    "meshgrid": _meshgrid,
    "rope_partial": _rope_partial,
}
