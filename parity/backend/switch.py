"""Switches of torch that change arithmetic, as rows: what to set for exactness, how to read it back.

A row names a place below `torch`, so the tables of vendors need no torch. What a version does not
have is left alone and reads `unknown`. Does not know any vendor's switches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from types import ModuleType

from parity.backend.vendor_api import ask, find, said

__all__ = ["Switch", "pin", "read", "read_back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One switch: an attribute path below torch, or a reading function when it ends in `()`.

    `exact` are the most exact value and, for older versions that refuse it, the next best; empty
    for a switch that is only read. `setter` is the function that sets where there is no attribute.
    """

    path: str
    exact: tuple[object, ...] = ()
    setter: str = ""
    source: str

    @property
    def name(self) -> str:
        """The path without what torch puts before all of them, such as `cuda.matmul.allow_tf32`."""
        return self.path.removeprefix("backends.").removesuffix("()")


def read(torch: ModuleType, switch: Switch) -> str:
    """Return a switch as it is now, `unknown` where this version has no reader or the reader fails.

    Torch refuses to read what its older and its newer interface have both set.
    """
    path = switch.path.removesuffix("()")
    return said(ask(torch, path) if path != switch.path else find(torch, path))


def read_back(torch: ModuleType, switches: Iterable[Switch]) -> dict[str, str]:
    """Return every switch as it is now, by name."""
    return {switch.name: read(torch, switch) for switch in switches}


def pin(torch: ModuleType, switches: Iterable[Switch]) -> dict[str, str]:
    """Set every switch that this version has to its most exact value, in order.

    Returns, by name, the words of what exists and could not be set.
    """
    refused: dict[str, str] = {}
    for switch in switches:
        if switch.exact and _exists(torch, switch.setter or switch.path):
            words = _set(torch, switch)
            if words:
                refused[switch.name] = words
    return refused


def _exists(torch: ModuleType, path: str) -> bool:
    try:
        attrgetter(path)(torch)
    except AttributeError:
        return False
    except Exception:  # noqa: BLE001  # there, but not readable in the state that it is in
        return True
    return True


def _set(torch: ModuleType, switch: Switch) -> str:
    words = ""
    for value in switch.exact:
        try:
            if switch.setter:
                attrgetter(switch.setter)(torch)(value)
            else:
                owner, _, name = switch.path.rpartition(".")
                setattr(attrgetter(owner)(torch), name, value)
        except Exception as error:  # noqa: BLE001  # each vendor refuses in its own way
            words = words or (str(error).splitlines() or [type(error).__name__])[0]
        else:
            return ""
    return words
