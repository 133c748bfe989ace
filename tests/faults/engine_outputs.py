"""Faults of any kernel of the engine: what happens to a result after it was computed right.

Each takes the result and what the same site gave before (None at first), and returns what the
kernel leaves instead, or None where the fault does not apply. Rows are tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from faults.engine_kernels import grid
from torch import Tensor

__all__ = ["OUTPUT_FAULTS"]

Fault = Callable[[Tensor, "Tensor | None"], "Tensor | None"]
_TILE = 16


def _rows(y: Tensor) -> Tensor:
    return y.reshape(len(y), -1)


def _set(y: Tensor, change: Callable[[Tensor], object]) -> Tensor:
    made = y.clone()
    change(_rows(made))
    return made


def _one_element(y: Tensor, _: Tensor | None) -> Tensor:
    def change(rows: Tensor) -> None:
        rows[len(rows) // 2, rows.shape[1] // 3] = rows[0, -1] + rows.abs().max()

    return _set(y, change)


def _stale_row(y: Tensor, _: Tensor | None) -> Tensor | None:
    def change(rows: Tensor) -> None:
        rows[len(rows) // 2] = rows[len(rows) // 2 - 1]

    return _set(y, change) if len(y) > 1 else None


def _last_row_stale(y: Tensor, before: Tensor | None) -> Tensor | None:
    if before is None or before.shape[1:] != y.shape[1:]:
        return None
    return torch.cat((y[:-1], before[-1:]))


def _tail_zero(y: Tensor, _: Tensor | None) -> Tensor:
    return _set(y, lambda rows: rows[:, rows.shape[1] - (rows.shape[1] % _TILE or 8) :].zero_())


def _tile_zero(y: Tensor, _: Tensor | None) -> Tensor | None:
    width = y[0].numel()
    return _set(y, lambda rows: rows[:, _TILE : 2 * _TILE].zero_()) if width > 2 * _TILE else None


def _rows_beyond_tile_zero(y: Tensor, _: Tensor | None) -> Tensor | None:
    return _set(y, lambda rows: rows[_TILE:].zero_()) if len(y) > _TILE else None


def _interleaved(y: Tensor, _: Tensor | None) -> Tensor | None:
    size = y.shape[-1]
    if size % 2:
        return None
    return torch.stack((y[..., : size // 2], y[..., size // 2 :]), -1).flatten(-2)


def _deinterleaved(y: Tensor, _: Tensor | None) -> Tensor | None:
    return None if y.shape[-1] % 2 else torch.cat((y[..., 0::2], y[..., 1::2]), -1)


def _heads_transposed(y: Tensor, _: Tensor | None) -> Tensor | None:
    return y.transpose(1, 2).reshape(y.shape) if y.ndim == 3 else None


def _halves_swapped(y: Tensor, _: Tensor | None) -> Tensor | None:
    return None if y.shape[-1] % 2 else y.roll(y.shape[-1] // 2, -1)


def _poisoned(value: float) -> Fault:
    def fault(y: Tensor, _: Tensor | None) -> Tensor:
        return _set(y, lambda rows: rows[len(rows) // 2].fill_(value))

    return fault


def _cut(y: Tensor, _: Tensor | None) -> Tensor | None:
    """Rounded to zero where it is kept in 16 bits: one step down for half of the elements."""
    if y.dtype not in (torch.bfloat16, torch.float16):
        return None
    bits = y.view(torch.int16)
    half = torch.rand(y.shape, generator=torch.Generator().manual_seed(y.numel())) < 0.5
    down = half & (y != 0) & y.isfinite()
    return torch.where(down, bits - 1, bits).view(y.dtype)


def _narrow(name: str) -> Fault:
    def fault(y: Tensor, _: Tensor | None) -> Tensor | None:
        if y.dtype is {"bf16": torch.bfloat16, "f16": torch.float16}.get(name):
            return None
        return grid(y.float(), name).to(y.dtype)

    return fault


def _channel(y: Tensor, _: Tensor | None) -> Tensor:
    def change(rows: Tensor) -> None:
        rows[:, rows.shape[1] // 4] *= 2

    return _set(y, change)


OUTPUT_FAULTS: dict[str, Fault] = {
    "scaled_1.01": lambda y, _: (y.float() * 1.01).to(y.dtype),
    "scaled_half": lambda y, _: y / 2,
    "scaled_1.0001": lambda y, _: None if y.dtype is not torch.float32 else y * 1.0001,
    "offset": lambda y, _: (y.float() + 0.05 * y.float().std()).to(y.dtype),
    "sign": lambda y, _: -y,
    "absolute": lambda y, _: y.abs(),
    "one_channel_doubled": _channel,
    "columns_rolled": lambda y, _: y.roll(1, -1),
    "rows_rolled": lambda y, _: y.roll(1, 0) if len(y) > 1 else None,
    "columns_flipped": lambda y, _: y.flip(-1),
    "halves_swapped": _halves_swapped,
    "interleaved": _interleaved,
    "deinterleaved": _deinterleaved,
    "heads_transposed": _heads_transposed,
    "one_element": _one_element,
    "one_row_stale": _stale_row,
    "last_row_of_the_call_before": _last_row_stale,
    "tail_zero": _tail_zero,
    "tile_zero": _tile_zero,
    "rows_beyond_tile_zero": _rows_beyond_tile_zero,
    "saturated_e4m3": lambda y, _: y.clamp(-448, 448),
    "saturated_e4m3_240": lambda y, _: y.clamp(-240, 240),
    "flushed_f16": lambda y, _: torch.where(y.abs() < 2**-14, torch.zeros_like(y), y),
    "flushed_coarsely": lambda y, _: torch.where(y.abs() < 2**-7, torch.zeros_like(y), y),
    "grid_bf16": _narrow("bf16"),
    "grid_f16": _narrow("f16"),
    "grid_tf32": _narrow("tf32"),
    "grid_e4m3": _narrow("e4m3"),
    "grid_e5m2": _narrow("e5m2"),
    "rounded_down": _cut,
    "row_of_nan": _poisoned(float("nan")),
    "row_of_inf": _poisoned(float("inf")),
}
