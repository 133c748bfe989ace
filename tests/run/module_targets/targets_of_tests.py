"""Modules that cases of tests name as their subject."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.silu(self.up(x)))


class Counting(Mlp):
    """Gives something else each time: it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Shy(Mlp):
    """Computes another way as long as somebody looks."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if torch._C._len_torch_function_stack() else y + y * 1.0001


class Breaking(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ x


class Raising(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        raise KeyError("no such expert")
        return y


X = torch.linspace(-3, 3, 24).reshape(3, 8)


def mlp() -> tuple[Any, ...]:
    return Mlp(), (X,)


def named() -> tuple[Any, ...]:
    return Mlp(), (), {"x": X}


def held() -> SimpleNamespace:
    return SimpleNamespace(model=Mlp(), inputs={"x": X})


def counting() -> tuple[Any, ...]:
    return Counting(), (X,)


def noisy() -> tuple[Any, ...]:
    return nn.Sequential(Mlp(), nn.Dropout(0.5)), (X,)


def shy() -> tuple[Any, ...]:
    return Shy(), (X,)


def breaking() -> tuple[Any, ...]:
    return Breaking(), (X,)


def raising() -> tuple[Any, ...]:
    return Raising(), (X,)


def nothing() -> int:
    return 3


def failing() -> None:
    raise OSError("the weights are not here\nand more")


not_a_function = 3
