"""Faults that can be added to any chip: what real devices do when a kernel or the device is broken.

`PARITY_SIM_FAULTS` is a list with commas. Each entry is

    name[=seconds][@op][@#N]

and applies to steps of the op `op` of the op table (`hang@matmul`), to the Nth step that this
process runs, counted from 1 (`segfault@#7`), or to every step. `seconds` is for slow_compile (2 by
default) and poisoned (5). A numeric fault changes what kernels compute while its steps run; every
other one acts before its step. PARITY_SIM_STATE names a folder for what outlives a process.

stale_padding    K is padded to whole tiles, and the pad holds what the product before left there
off_by_one_mask  an attention mask shows each query one key more
wrong_tile_edge  the loop over K ends at the last whole tile
nondeterminism   the first tile of K is lost in every second product, as when a sum is not awaited
slow_compile     compiling the step takes its time
hang             the step never returns
segfault, abort, kill   the process ends by that signal
out_of_memory    the allocation fails with torch's own exception
poisoned         the process aborts, and for some seconds none can open the device
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from parity.case.op import OPS
from parity.errors import BackendError, UsageError, near_miss

__all__ = [
    "FAULTS_VARIABLE",
    "NUMERIC",
    "STATE_VARIABLE",
    "TILE",
    "Fault",
    "Faults",
    "check_not_poisoned",
    "parse",
]

FAULTS_VARIABLE = "PARITY_SIM_FAULTS"
STATE_VARIABLE = "PARITY_SIM_STATE"
NUMERIC = ("stale_padding", "off_by_one_mask", "wrong_tile_edge", "nondeterminism")
_SECONDS = {"slow_compile": 2.0, "poisoned": 5.0}
_NAMES = (*NUMERIC, *_SECONDS, "hang", "segfault", "abort", "kill", "out_of_memory")
_ENTRY = re.compile(
    r"(?P<name>\w+)(?:=(?P<seconds>\d+(?:\.\d+)?))?(?:@(?P<op>[a-z]\w*))?(?:@#(?P<number>[1-9]\d*))?"
)
TILE = 16  # of K


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of the list; `op` empty and `number` None mean every step."""

    name: str
    op: str = ""
    number: int | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        seconds = f"={self.seconds:g}" if self.name in _SECONDS else ""
        number = f"@#{self.number}" if self.number is not None else ""
        return self.name + seconds + (f"@{self.op}" if self.op else "") + number

    def strikes(self, op: str, number: int) -> bool:
        """Whether it acts on the `number`th step of this process, which is an `op`."""
        return self.op in ("", op) and self.number in (None, number)


def parse(text: str) -> tuple[Fault, ...]:
    """Read a list of faults. Raises UsageError for what is none, with the near miss."""
    return tuple(_entry(item.strip()) for item in text.split(",") if item.strip())


def _entry(text: str) -> Fault:
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise UsageError(f"{FAULTS_VARIABLE}: '{text}' is not a fault; write name[=seconds][@op][@#N]")
    name, seconds = match["name"], match["seconds"]
    if name not in _NAMES:
        raise UsageError(
            f"{FAULTS_VARIABLE}: unknown fault '{name}'{near_miss(name, _NAMES)}; known: {', '.join(_NAMES)}"
        )
    if seconds is not None and name not in _SECONDS:
        raise UsageError(f"{FAULTS_VARIABLE}: '{name}' has no seconds; {', '.join(_SECONDS)} have")
    if match["op"] is not None and match["op"] not in OPS:
        raise UsageError(
            f"{FAULTS_VARIABLE}: '{text}' names no op of the op table{near_miss(match['op'], sorted(OPS))}"
        )
    return Fault(
        name=name,
        op=match["op"] or "",
        number=int(match["number"]) if match["number"] else None,
        seconds=float(seconds) if seconds is not None else _SECONDS.get(name, 0.0),
    )


class Faults:
    """The faults of one open device, and what they keep between steps."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self.faults = faults
        self._steps = 0
        self._products = 0
        self._numeric: frozenset[str] = frozenset()
        self._left: tuple[Tensor, Tensor] | None = None  # the pads of the product before

    def begin(self, op: str, *, phase: Callable[[str], None]) -> None:
        """Count a step, strike with what acts before it, and arm what acts inside."""
        self._steps += 1
        striking = [fault for fault in self.faults if fault.strikes(op, self._steps)]
        self._numeric = frozenset(fault.name for fault in striking if fault.name in NUMERIC)
        for fault in striking:
            if fault.name not in NUMERIC:
                _strike(fault, phase)

    def is_armed(self, name: str = "") -> bool:
        """Whether a numeric fault, or any, changes the step that runs now."""
        return name in self._numeric if name else bool(self._numeric)

    def changes_products(self) -> bool:
        """Whether a matrix product must be computed with the operands of `operands`."""
        return bool(self._numeric - {"off_by_one_mask"})

    def operands(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return a [..., M, K] and b [..., K, N] as the broken kernel reads them."""
        whole = a.shape[-1] // TILE * TILE
        if self.is_armed("wrong_tile_edge") and whole:
            a, b = a[..., :whole], b[..., :whole, :]
        if self.is_armed("nondeterminism"):
            self._products += 1
            if self._products % 2 == 0 and a.shape[-1] > TILE:
                a, b = a[..., TILE:], b[..., TILE:, :]
        return self._padded(a, b) if self.is_armed("stale_padding") else (a, b)

    def _padded(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        left, self._left = self._left, (a.detach().clone(), b.detach().clone())
        size, used = -a.shape[-1] % TILE, a.shape[-1] % TILE
        if left is None or not size:
            return a, b
        # The tile's columns beyond K still hold what the last product of this dtype had there.
        rows = _column_tail(left[0].reshape(-1, left[0].shape[-1]), used, size)
        columns = _column_tail(left[1].transpose(-1, -2).reshape(-1, left[1].shape[-2]), used, size)
        pad_a = _fitted(rows, a.shape[-2]).to(a.dtype).expand(*a.shape[:-1], size)
        pad_b = _fitted(columns, b.shape[-1]).to(b.dtype).t().expand(*b.shape[:-2], size, b.shape[-1])
        return torch.cat((a, pad_a), dim=-1), torch.cat((b, pad_b), dim=-2)


def _column_tail(rows: Tensor, used: int, size: int) -> Tensor:
    """Return columns used … used + size of the last tile of a matrix, zero where it had none."""
    start = max((rows.shape[-1] - 1) // TILE * TILE, 0) + used
    found = rows[:, start : start + size]
    return torch.nn.functional.pad(found, (0, size - found.shape[-1]))


def _fitted(rows: Tensor, count: int) -> Tensor:
    """Return `count` rows, those beyond the ones there are being zero."""
    found = rows[:count]
    return torch.nn.functional.pad(found, (0, 0, 0, count - found.shape[0]))


def _strike(fault: Fault, phase: Callable[[str], None]) -> None:
    match fault.name:
        case "slow_compile":
            phase("compile")
            time.sleep(fault.seconds)
            phase("run")
        case "hang":
            threading.Event().wait()
        case "out_of_memory":
            raise torch.OutOfMemoryError("sim out of memory. Tried to allocate more than the chip has")
        case "poisoned":
            _poison(fault.seconds)
            os.abort()
        case _:
            os.kill(os.getpid(), _SIGNALS[fault.name])
            threading.Event().wait()  # a signal may take a moment to arrive


_SIGNALS = {"segfault": signal.SIGSEGV, "abort": signal.SIGABRT, "kill": signal.SIGKILL}


def _marker() -> Path | None:
    folder = os.environ.get(STATE_VARIABLE)
    return Path(folder) / "poisoned" if folder else None


def _poison(seconds: float) -> None:
    marker = _marker()
    if marker is not None:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{time.time() + seconds}\n")


def check_not_poisoned() -> None:
    """Raise BackendError while the device that a crash has poisoned cannot be opened."""
    marker = _marker()
    if marker is None or not marker.exists():
        return
    left_s = float(marker.read_text()) - time.time()
    if left_s > 0:
        raise BackendError(f"the device is poisoned by a crash: it opens again in {left_s:.1f} s. Wait")
