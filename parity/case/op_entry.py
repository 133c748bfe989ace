"""What one op of the table is: its arguments, typed attributes and outputs.

Does not hold the table; `op` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parity.errors import UsageError, near_miss

__all__ = ["Attr", "Op"]

Attr = bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation. `formula` is what it means; `inputs` ending in `?` may be absent, in `*` repeat.

    `attrs` maps each attribute to the types it may have. `exact` ops move, select or count: their
    result has no rounding to forgive. `compute` names float types that the formula itself computes
    in, beside those of its tensors.
    """

    id: str
    formula: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("y",)
    attrs: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    exact: bool = False
    compute: tuple[str, ...] = ()

    def check(
        self,
        inputs: Sequence[str | None],
        outputs: Sequence[str],
        attrs: Mapping[str, Attr],
        *,
        where: str,
    ) -> None:
        """Raise UsageError unless arguments, outputs and attribute types fit this op."""
        required = [n for n in self.inputs if not n.endswith(("?", "*"))]
        most = None if self.inputs[-1:] and self.inputs[-1].endswith("*") else len(self.inputs)
        if len(inputs) < len(required) or (most is not None and len(inputs) > most):
            raise UsageError(
                f"{where}: {self.id} takes {', '.join(self.inputs) or 'no tensors'}; "
                f"got {len(inputs)} tensors"
            )
        if len(outputs) != len(self.outputs):
            raise UsageError(
                f"{where}: {self.id} gives {len(self.outputs)} outputs, got {len(outputs)} names"
            )
        for name, value in attrs.items():
            if name not in self.attrs:
                raise UsageError(f"{where}: {self.id} has no attribute '{name}'{near_miss(name, self.attrs)}")
            if not isinstance(value, self.attrs[name]) or (
                isinstance(value, bool) and bool not in self.attrs[name]
            ):
                raise UsageError(f"{where}: {self.id} attribute '{name}' cannot be {value!r}")
        absent = [name for name in self.attrs if name not in attrs]
        if absent:
            raise UsageError(f"{where}: {self.id} needs attribute '{absent[0]}'")
