"""Is everything here that parity needs, is it what was installed, and does it work?

Looks at files, records and variables, and imports in children with a time limit: no vendor's code
runs in this process, and numpy need not work. Does not run a case; `parity check` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import parity
from parity.backend import installed
from parity.backend.doctor_facts import FLOORS, VARIABLES, release
from parity.backend.doctor_plugins import (
    examine_conflicts,
    examine_nodes,
    examine_plugin,
    plugins_here,
)
from parity.backend.doctor_torch import Torch, examine_autoload, examine_files, examine_import, find
from parity.backend.doctor_trial import AUTOLOAD_GROUP, Trial, attempt
from parity.backend.finding import Finding, State

__all__ = ["Finding", "State", "examine"]

# torch prints this when its C++ side cannot use the numpy that is installed, and then goes on.
_NO_BRIDGE = "Failed to initialize NumPy"


def examine(*, timeout_s: float = 120.0, root: Path = Path("/")) -> list[Finding]:
    """Return every finding in a stable order, what parity itself needs first.

    `timeout_s` is for each import: a cold vendor stack on a network disk may take a minute.
    Device nodes are looked for below `root`.
    """
    return [
        *_own_files(),
        *(_package(name, timeout_s=timeout_s) for name in ("numpy", "pyarrow")),
        *_torch_and_plugins(timeout_s=timeout_s, root=root),
        *_variables(),
    ]


def _own_files() -> Iterator[Finding]:
    """Count the case files and golden sets that come with parity, bundled or beside the checkout."""
    package = Path(parity.__file__).parent
    counts = {}
    for name, pattern in (("cases", "*.py"), ("golden", "manifest.toml")):
        places = (package / "_bundled" / name, package.parent / name)
        place = next((place for place in places if place.is_dir()), None)
        counts[name] = len(list(place.rglob(pattern))) if place else 0
    found = f"{counts['cases']} case files and {counts['golden']} golden sets in {package}"
    if all(counts.values()):
        yield Finding(subject="parity", state=State.OK, detail=f"{parity.__version__}, {found}")
        return
    yield Finding(
        subject="parity",
        state=State.BROKEN,
        detail=f"{parity.__version__}, {found}: its own files are missing",
        remedy="install chip-parity again, from a wheel or a whole checkout",
    )


def _package(name: str, *, timeout_s: float) -> Finding:
    remedy = f"python3 -m pip install '{name}>={'.'.join(map(str, FLOORS[name]))}' (in a vendor's image with "
    remedy += "-c installed.txt, as README says)"
    if installed.module(name) is None:
        return Finding(subject=name, state=State.BROKEN, detail=f"{name} is not installed", remedy=remedy)
    trial = attempt(name, timeout_s=timeout_s)
    if not trial.ok:
        return Finding(subject=name, state=State.BROKEN, detail=trial.failure, remedy=remedy)
    version = trial.answers[name]
    numbers = release(version)
    if numbers is None or numbers < FLOORS[name]:
        return Finding(
            subject=name,
            state=State.BROKEN,
            detail=f"{version or 'an unknown version'} is older than parity works with",
            remedy=remedy,
        )
    return Finding(subject=name, state=State.OK, detail=version)


def _torch_and_plugins(*, timeout_s: float, root: Path) -> Iterator[Finding]:
    here = plugins_here()
    torch = find(has_plugin=bool(here))
    yield from examine_files(torch)
    usable = False
    if torch.place is not None:
        trial = attempt("torch", timeout_s=timeout_s)
        # Where nothing is loaded by itself, a second attempt would say nothing about plugins.
        alone = trial.ok or not entry_points(group=AUTOLOAD_GROUP)
        bare = trial if alone else attempt("torch", autoload=False, timeout_s=timeout_s)
        usable = bare.ok
        yield examine_import(torch, trial, bare)
        yield from _bridge(torch, bare)
        if bare.ok and not trial.ok:
            yield from examine_autoload(timeout_s=timeout_s)
    yield from examine_conflicts(here, torch.build)
    for plugin in here:
        yield from examine_plugin(plugin, torch.build if usable else None, timeout_s=timeout_s)
    nodes = list(examine_nodes(torch.build, root=root))
    yield from nodes
    if not (here or nodes or _is_accelerated(torch)):
        yield Finding(
            subject="accelerator",
            state=State.ABSENT,
            detail="no vendor's plugin and no device nodes: checks run on the host",
            remedy="what each backend would need: parity devices",
        )


def _is_accelerated(torch: Torch) -> bool:
    build = torch.build
    return build is not None and any((build.cuda, build.hip, build.xpu))


def _bridge(torch: Torch, trial: Trial) -> Iterator[Finding]:
    words = next((text for text in trial.warnings if _NO_BRIDGE in text), None)
    if words is not None:
        yield Finding(
            subject="torch, numpy",
            state=State.BROKEN,
            detail=f"they cannot exchange arrays: {words}",
            remedy=torch.remedy if torch.is_vendor else "install the numpy that this torch was built with",
        )


def _variables() -> Iterator[Finding]:
    seen = False
    for variable in VARIABLES:
        value = os.environ.get(variable.name)
        if value is None or value.lower() in variable.harmless:
            continue
        seen = True
        yield Finding(
            subject="environment",
            state=State.WARNING,
            detail=f"{variable.name}={value}: {variable.effect}",
            remedy=f"unset {variable.name}, unless the deployment that is tested sets it too",
        )
    if not seen:
        yield Finding(
            subject="environment", state=State.OK, detail="no variable is set that changes arithmetic"
        )
