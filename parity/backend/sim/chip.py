"""What a simulated chip is declared to be: quirks, each one line with its source.

A quirk changes fields of `Arithmetic`, or says what the chip has no kernel for, or how it runs
graphs. Declarations that are unknown or contradict each other raise. Computes nothing: `kernels`
does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from parity.backend.arithmetic import Arithmetic, Flush, Products
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["FUNCTIONS", "IDEAL", "MODES", "Chip", "Gap", "Quirk", "gap"]

MODES = ("eager", "lazy")
FUNCTIONS = ("exp", "erf", "tanh", "rsqrt")
_BOTH = (Setting.STRICT, Setting.PRODUCTION)

# What the host's own kernels do, where it is known: a chip is these facts and its quirks. How the
# host's libraries order their sums depends on the machine, and what its casts do beyond the largest fp8 on
# torch's version, so nothing is said of either.
IDEAL = Arithmetic(
    flush=MappingProxyType({"f32": Flush.NEVER, "bf16": Flush.NEVER, "f16": Flush.NEVER}),
    overflow=MappingProxyType({"f32": "inf", "bf16": "inf", "f16": "inf"}),
    int64="i64",
    float64="f64",
    fp8="e4m3fn",
    gelu="erf",
    division="ieee",
    negative_index="wraps",
    masked_row="zero",
    run_to_run=True,
    movement="exact",
)

_VALUES: Mapping[str, tuple[Any, ...]] = {
    "int64": ("i64", "i32", "unsupported"),
    "float64": ("f64", "f32", "unsupported"),
    "fp8": ("e4m3fn", "e4m3fnuz", "e4m3_gaudi2", "unsupported"),
    "fp8_overflow": ("saturate", "native"),
    "gelu": ("erf", "tanh"),
    "division": ("ieee", "reciprocal"),
    "negative_index": ("wraps", "clamps", "error"),
    "masked_row": ("nan", "zero", "mean"),
    "run_to_run": (True, False),
    "batch": (True, False),
    "threads": (True, False),
    "movement": ("exact", "quiets", "flushes"),
}
_FLOATS = ("f32", "bf16", "f16")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "products": (*_FLOATS, *(f"conv.{name}" for name in _FLOATS)),
    "flush": _FLOATS,
    "overflow": _FLOATS,
    "ulps": FUNCTIONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """ATen operations without a kernel for some dtypes of their tensors; empty means any.

    `ops` are names without overload and trailing underscore, such as `mm`. `runs_on` is where they
    run instead, empty where they are refused.
    """

    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    runs_on: str = ""

    def __post_init__(self) -> None:
        unknown = [name for name in self.dtypes if name not in DTYPES]
        if unknown:
            raise ValueError(f"a gap names the dtype '{unknown[0]}': known are {', '.join(DTYPES)}")
        if not self.ops and not self.dtypes:
            raise ValueError("a gap of every operation at every dtype leaves no chip: name ops or dtypes")

    def covers(self, op: str, dtypes: Iterable[str]) -> bool:
        """Whether a call of `op` on tensors of `dtypes` has no kernel."""
        return (not self.ops or op in self.ops) and (
            not self.dtypes or any(name in self.dtypes for name in dtypes)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """One way in which a chip differs from the host, active in some settings and modes.

    `arithmetic` are fields of `Arithmetic` with their values here, mappings key by key; `gaps` is
    what has no kernel; `casts` maps a dtype that is asked for to the one that a conversion gives;
    `graphs` says that every new shape of a graph is compiled anew.
    """

    name: str
    text: str
    source: str
    settings: tuple[Setting, ...] = _BOTH
    modes: tuple[str, ...] = MODES
    arithmetic: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    gaps: tuple[Gap, ...] = ()
    casts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    graphs: bool = False

    def __post_init__(self) -> None:
        if not (self.name and self.text and self.source):
            raise ValueError(f"quirk '{self.name}' needs a name, a text and a source")
        if not (self.arithmetic or self.gaps or self.casts or self.graphs):
            raise ValueError(f"quirk '{self.name}' changes nothing: say what it changes or remove it")
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown:
            raise ValueError(
                f"quirk '{self.name}' names the mode '{unknown[0]}': known are {', '.join(MODES)}"
            )
        for name, value in self.arithmetic.items():
            _check_field(self.name, name, value)
        for asked, given in self.casts.items():
            if asked not in DTYPES or given not in DTYPES:
                raise ValueError(f"quirk '{self.name}' casts '{asked}' to '{given}': both must be dtypes")

    def is_active(self, setting: Setting, mode: str) -> bool:
        """Whether it shows in a setting and mode."""
        return setting in self.settings and mode in self.modes


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A simulated chip. `modes` are those it runs in; a lazy one collects a graph until it must answer."""

    name: str
    title: str
    quirks: tuple[Quirk, ...] = ()
    modes: tuple[str, ...] = ("eager",)

    def __post_init__(self) -> None:
        names = [quirk.name for quirk in self.quirks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{self.name}: two quirks are called '{twice}': name each differently")
        for setting in _BOTH:
            for mode in self.modes:
                self.arithmetic(setting, mode)

    def active(self, setting: Setting, mode: str) -> tuple[Quirk, ...]:
        """Return the quirks that show in a setting and mode."""
        return tuple(quirk for quirk in self.quirks if quirk.is_active(setting, mode))

    def without(self, name: str) -> Chip:
        """Return the chip with one quirk removed. Raises ValueError when it has none of that name."""
        if name not in [quirk.name for quirk in self.quirks]:
            raise ValueError(f"{self.name} has no quirk '{name}'")
        return dataclasses.replace(self, quirks=tuple(q for q in self.quirks if q.name != name))

    def arithmetic(self, setting: Setting, mode: str) -> Arithmetic:
        """Return the ideal arithmetic changed by the active quirks.

        Raises ValueError where two of them change the same field or key.
        """
        changed: dict[str, Any] = {}
        for quirk in self.active(setting, mode):
            for name, value in quirk.arithmetic.items():
                if name not in _KEYS and name in changed:
                    raise ValueError(f"{self.name}: quirk '{quirk.name}' declares {name} a second time")
                known = changed.get(name, {})
                changed[name] = _merged(self.name, name, known, value) if name in _KEYS else value
        products: Mapping[str, Products] = changed.get("products", {})
        unordered = any(how.ordered is False for how in products.values())
        if unordered and changed.setdefault("run_to_run", False):
            raise ValueError(f"{self.name}: run_to_run cannot be True beside products without an order")
        for name in _KEYS:
            changed[name] = {**getattr(IDEAL, name), **changed.get(name, {})}
        return dataclasses.replace(IDEAL, **changed)


def gap(
    name: str, text: str, source: str, *, ops: Sequence[str] = (), dtypes: Sequence[str] = ()
) -> tuple[Quirk, Quirk]:
    """Return what a chip has no kernel for: refused under strict, run on the host in production.

    That is how vendors set it, where they can: strict turns the fallback off.
    """
    missing = Gap(ops=tuple(ops), dtypes=tuple(dtypes))
    return (
        Quirk(
            name=f"{name}_refused",
            text=f"{text}: refused",
            source=source,
            settings=(Setting.STRICT,),
            gaps=(missing,),
        ),
        Quirk(
            name=f"{name}_on_host",
            text=f"{text}: on the host",
            source=source,
            settings=(Setting.PRODUCTION,),
            gaps=(dataclasses.replace(missing, runs_on="cpu"),),
        ),
    )


def _merged(chip: str, name: str, known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    twice = known.keys() & more.keys()
    if twice:
        raise ValueError(f"{chip}: {name} of {min(twice)} is declared twice")
    return {**known, **more}


def _check_field(quirk: str, name: str, value: Any) -> None:
    if name in _VALUES:
        if value not in _VALUES[name]:
            raise ValueError(f"quirk '{quirk}': {name} cannot be {value!r}; it is one of {_VALUES[name]}")
        return
    if name not in _KEYS:
        raise ValueError(f"quirk '{quirk}': Arithmetic has no field '{name}'")
    for key, part in value.items():
        if key not in _KEYS[name]:
            raise ValueError(f"quirk '{quirk}': {name} has no key '{key}'; it is one of {_KEYS[name]}")
        _check_part(quirk, name, part)


def _check_part(quirk: str, name: str, part: Any) -> None:
    fits = {
        "products": isinstance(part, Products),
        "flush": isinstance(part, Flush),
        "overflow": part in ("inf", "max"),
        "ulps": isinstance(part, (int, float)) and 0 <= part == int(part),
    }[name]
    if not fits:
        raise ValueError(f"quirk '{quirk}': {part!r} is no value of {name}")
    # Two sums are the same in either order, so nothing would change from call to call.
    if isinstance(part, Products) and part.ordered is False and (part.splits or 1) < 3:
        raise ValueError(f"quirk '{quirk}': products without an order need at least 3 splits")
