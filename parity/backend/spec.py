"""How a side is written: `family[/flavour][:index][+mode]`, a folder of recordings, or `oracle`.

Does not know which families exist; `registry` does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from parity.errors import BackendError, UsageError, near_miss

__all__ = ["BackendSpec", "Setting", "check_flavour", "check_mode", "check_spec"]

_SPEC = re.compile(
    r"(?P<family>[a-z][a-z0-9_]*)(?:/(?P<flavour>[A-Za-z0-9._-]+))?"
    r"(?::(?P<index>\d+(?:-\d+)?))?(?:\+(?P<mode>[a-z][a-z0-9_-]*))?"
)


class Setting(Enum):
    """Which switches that change arithmetic are pinned."""

    STRICT = "strict"  # every one, to the most exact value
    PRODUCTION = "production"  # none: the vendor's defaults


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A parsed backend name; `index` is the devices named, empty for the default one."""

    family: str
    flavour: str | None = None
    index: tuple[int, ...] = ()
    mode: str = "eager"

    @classmethod
    def parse(cls, text: str) -> BackendSpec:
        """Read `cuda`, `cuda/h200`, `hpu:0-7`, `hpu+lazy`. Raises UsageError for anything else."""
        match = _SPEC.fullmatch(text)
        if match is None:
            raise UsageError(
                f"'{text}' is not a backend: expected family[/flavour][:index][+mode], "
                "such as cpu, cuda/h200 or hpu:0-7"
            )
        first, _, last = (match["index"] or "").partition("-")
        index = tuple(range(int(first), int(last or first) + 1)) if first else ()
        if first and not index:
            raise UsageError(f"'{text}': device range {first}-{last} is empty")
        return cls(match["family"], match["flavour"], index, match["mode"] or "eager")

    def __str__(self) -> str:
        text = self.family
        if self.flavour:
            text += f"/{self.flavour}"
        if self.index:
            text += f":{self.index[0]}" + (f"-{self.index[-1]}" if len(self.index) > 1 else "")
        return text if self.mode == "eager" else f"{text}+{self.mode}"


def check_mode(spec: BackendSpec, *, modes: Sequence[str]) -> None:
    """Raise UsageError for a mode that a backend does not have."""
    if spec.mode not in modes:
        raise UsageError(
            f"'{spec}': {spec.family} has no mode '{spec.mode}'{near_miss(spec.mode, modes)}; "
            f"modes: {', '.join(modes)}"
        )


def check_spec(spec: BackendSpec, *, modes: Sequence[str]) -> None:
    """Raise UsageError for a mode that a one-device backend does not have, or another device."""
    check_mode(spec, modes=modes)
    if spec.index not in ((), (0,)):
        raise UsageError(f"'{spec}': {spec.family} is one device; write '{spec.family}' without an index")


def check_flavour(spec: BackendSpec, *, here: str) -> None:
    """Raise BackendError when the flavour that was asked for is another machine's."""
    if spec.flavour not in (None, here):
        raise BackendError(
            f"'{spec}' was asked for, but this machine is {spec.family}/{here}; "
            f"write '{spec.family}', or run on the other machine"
        )
