"""Find a chip by name: ours, and files of the folder that PARITY_SIM_CHIPS names.

A file `name.py` there defines `CHIP`, a `Chip` of that name. Imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

from parity.backend.sim.chip import Chip
from parity.errors import UsageError, near_miss

__all__ = ["CHIPS_VARIABLE", "chips", "find"]

CHIPS_VARIABLE = "PARITY_SIM_CHIPS"
_BUILT_IN = ("ascend310p", "ascend910b", "gaudi2", "ideal")


def chips() -> tuple[str, ...]:
    """Return the names of all chips, sorted."""
    return tuple(sorted({*_BUILT_IN, *_own()}))


def find(name: str) -> Chip:
    """Return a chip. Raises UsageError for a name that is none, or a file that declares none."""
    own = _own()
    if name in own:
        return _from_file(own[name])
    if name not in _BUILT_IN:
        raise UsageError(
            f"'sim/{name}' is not a simulated chip{near_miss(name, chips())}; there are {', '.join(chips())}"
        )
    found: Chip = importlib.import_module(f"parity.backend.sim.chips.{name}").CHIP
    return found


def _own() -> dict[str, Path]:
    folder = os.environ.get(CHIPS_VARIABLE)
    if not folder:
        return {}
    if not Path(folder).is_dir():
        raise UsageError(f"{CHIPS_VARIABLE}={folder}: there is no such folder; make it or unset the variable")
    return {path.stem: path for path in Path(folder).glob("*.py") if not path.stem.startswith("_")}


def _from_file(path: Path) -> Chip:
    spec = importlib.util.spec_from_file_location(f"parity_sim_chip_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}. Correct the declaration") from error
    found = getattr(module, "CHIP", None)
    if not isinstance(found, Chip) or found.name != path.stem:
        raise UsageError(f"{path}: it defines no CHIP named '{path.stem}'. See parity/backend/sim/chips")
    return found
