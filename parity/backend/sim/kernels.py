"""What a chip computes for each ATen call, on CPU tensors; shared by the device and the dispatch mode.

Where a chip declares nothing for an operation, the host's own kernel runs and gives its bits.
Knows neither devices nor steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from parity.backend.arithmetic import Arithmetic, Flush
from parity.backend.base import Node
from parity.backend.sim.calls import ELEMENTWISE, MOVES, PRODUCTS, Call, each, leaves
from parity.backend.sim.chip import IDEAL, Chip, Gap
from parity.backend.sim.elementwise import flushed_inputs, flushed_results, saturated
from parity.backend.sim.faults import Faults
from parity.backend.sim.replacements import Replacements
from parity.backend.spec import Setting
from parity.backend.torch_tensor import name_of, torch_dtype
from parity.case.dtype import DTYPES

__all__ = ["Kernels"]

# Where a finite result may be too large. Infinities by definition, as of log(0), stay everywhere.
_OVERFLOWS = (ELEMENTWISE - {"log", "rsqrt", "reciprocal"}) | PRODUCTS
_OVERFLOWS |= {"sum", "mean", "cumsum", "scatter_add", "_to_copy", "copy", "native_layer_norm"}


class Kernels:
    """The kernels of one chip in one setting and mode. `fallen` collects what it ran elsewhere."""

    def __init__(self, chip: Chip, setting: Setting, mode: str, faults: Faults | None = None) -> None:
        active = chip.active(setting, mode)
        self.chip = chip
        self.arithmetic: Arithmetic = chip.arithmetic(setting, mode)
        self.faults = faults or Faults()
        self.fallen: list[Node] = []
        self._gaps: tuple[Gap, ...] = tuple(gap for quirk in active for gap in quirk.gaps)
        self._casts = {
            torch_dtype(DTYPES[asked]): torch_dtype(DTYPES[given])
            for quirk in active
            for asked, given in quirk.casts.items()
        }
        facts = self.arithmetic
        self._unsupported = {
            name
            for name, fact in (("i64", facts.int64), ("f64", facts.float64), ("e4m3fn", facts.fp8))
            if fact == "unsupported"
        }
        self._replaced = Replacements(facts, self.faults)
        self._is_host = facts == IDEAL and not self._gaps

    def arrived(self, tensor: Tensor) -> Tensor:
        """Return a fresh tensor of the host as the chip's memory holds it. Raises NotImplementedError."""
        self._check_types({name_of(tensor.dtype)}, "a copy to the device")
        whole = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
        self._narrow([whole])
        return tensor

    def asked(self, call: Call) -> Call:
        """Return the call that the chip makes of a call: a conversion may give another dtype."""
        wanted = call.kwargs.get("dtype")
        if call.name != "_to_copy" or wanted not in self._casts:
            return call
        return Call(call.func, call.args, {**call.kwargs, "dtype": self._casts[wanted]})

    def check(self, call: Call) -> str:
        """Return where a call runs instead of the chip, empty for the chip itself.

        Raises NotImplementedError for one that it refuses. Looks at no values.
        """
        dtypes = call.dtypes()
        self._check_types(dtypes, f"aten::{call.name}")
        gap = next((g for g in self._gaps if g.covers(call.name, dtypes)), None)
        if gap is None:
            return ""
        if not gap.runs_on:
            raise NotImplementedError(
                f"aten::{call.name} is not supported for {', '.join(sorted(dtypes))} on sim/{self.chip.name}"
            )
        return gap.runs_on

    def run(self, call: Call) -> Any:
        """Return what the chip computes for a call on CPU tensors."""
        if self._is_host and not self.faults.is_armed() and not call.outs():
            return call.run()
        elsewhere = self.check(call)
        if elsewhere:
            self._note(call, elsewhere)
            return call.run()
        if call.is_view:
            return call.run()
        written = call.written()
        if self.arithmetic.float64 == "f32" and "f64" in call.dtypes() and not written:
            return self._in_float32(call)
        result = self._into(call, written) if written else self._computed(call)
        self._narrow(written or [t for t in leaves(result) if isinstance(t, Tensor)])
        return result

    def _check_types(self, dtypes: Iterable[str], what: str) -> None:
        refused = self._unsupported.intersection(dtypes)
        if refused:
            raise NotImplementedError(
                f"{what} is not supported for {', '.join(sorted(refused))} on sim/{self.chip.name}"
            )

    def _note(self, call: Call, where: str) -> None:
        floats = [t for t in call.tensors() if t.is_floating_point()] or call.tensors()
        precision = name_of(floats[0].dtype) if floats else "?"
        self.fallen.append(Node(kind=f"aten::{call.name}", device=where, precision=precision))

    def _into(self, call: Call, written: list[Tensor]) -> Any:
        """Compute a call that writes into its arguments, on copies, then write once.

        Raises RuntimeError where torch would resize what was given as `out=`: a tensor of the
        device cannot be, and would silently keep its shape.
        """
        outs = {id(t) for t in call.outs()}
        copies = {id(t): t.new_empty(0) if id(t) in outs else t.clone() for t in written}
        result = self._computed(call.mapped(lambda x: copies.get(id(x), x)))
        made = [t for t in leaves(result) if isinstance(t, Tensor)]
        if len(made) != len(written):  # such as running statistics, which are not returned
            made = [copies[id(t)] for t in written]
        for target, value in zip(written, made, strict=True):
            if id(target) in outs and target.shape != value.shape:
                raise RuntimeError(
                    f"aten::{call.name}: out= has shape {list(target.shape)} and the result "
                    f"{list(value.shape)}, which this device cannot resize it to. Pass one of that shape"
                )
            target.copy_(value)
        originals = {id(value): target for target, value in zip(written, made, strict=True)}
        return each(lambda x: originals.get(id(x), x), result)

    def _in_float32(self, call: Call) -> Any:
        """Compute in float32 what is asked in float64; the results are called float64 again."""
        dtypes = [t.dtype for t in leaves(call.run()) if isinstance(t, Tensor)]
        narrow = call.mapped(_narrowed)
        made = iter(dtypes)
        return each(lambda x: x.to(next(made)) if isinstance(x, Tensor) else x, self._computed(narrow))

    def _computed(self, call: Call) -> Any:
        name, facts = call.name, self.arithmetic
        if name in ELEMENTWISE:
            call = call.mapped(lambda x: _per_dtype(flushed_inputs, x, facts.flush))
        result = self._replaced.run(call)
        if result is None:
            result = call.run()
        if name in _OVERFLOWS and "max" in facts.overflow.values():
            inputs = _finite_evidence(call)
            result = each(lambda y: self._saturated(y, inputs), result)
        if name in ELEMENTWISE:
            result = each(lambda y: _per_dtype(flushed_results, y, facts.flush), result)
        return each(self._moved, result) if name in MOVES else result

    def _saturated(self, y: Any, inputs: list[Tensor]) -> Any:
        limited = isinstance(y, Tensor) and self.arithmetic.overflow.get(name_of(y.dtype)) == "max"
        return saturated(y, inputs) if limited else y

    def _moved(self, y: Any) -> Any:
        if not isinstance(y, Tensor) or name_of(y.dtype) not in ("f32", "bf16", "f16"):
            return y
        if self.arithmetic.movement == "flushes":
            return flushed_results(y, Flush.RESULTS)
        return _quiet(y) if self.arithmetic.movement == "quiets" else y

    def _narrow(self, results: list[Tensor]) -> None:
        for tensor in results:
            if tensor.dtype == torch.int64 and self.arithmetic.int64 == "i32":
                tensor.copy_(tensor.to(torch.int32))
            elif tensor.dtype == torch.float64 and self.arithmetic.float64 == "f32":
                tensor.copy_(tensor.to(torch.float32))


def _narrowed(x: Any) -> Any:
    if isinstance(x, Tensor) and x.dtype == torch.float64:
        return x.to(torch.float32)
    return torch.float32 if x is torch.float64 else x


def _per_dtype(change: Any, x: Any, flush: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    how = flush.get(name_of(x.dtype), Flush.NEVER)
    return x if how is Flush.NEVER else change(x, how)


def _finite_evidence(call: Call) -> list[Tensor]:
    """Return what must be finite for an infinite result to be an overflow."""
    if call.name != "div":
        return [t for t in call.tensors() if t.is_floating_point()]
    bound = call.bound()
    a, b = (torch.as_tensor(bound[name]) for name in ("self", "other"))
    return [a, torch.where(b == 0, torch.inf, b)]


_QUIET = {
    torch.float32: (torch.int32, 1 << 22),
    torch.bfloat16: (torch.int16, 1 << 6),
    torch.float16: (torch.int16, 1 << 9),
}


def _quiet(x: Tensor) -> Tensor:
    bits, quiet = _QUIET[x.dtype]
    codes = x.contiguous().view(bits)
    return torch.where(x.isnan(), codes | quiet, codes).view(x.dtype)
