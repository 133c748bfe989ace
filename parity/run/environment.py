"""What a side runs in: the recorded environment, the child's variables, and facts of the host.

A vendor reads its variables once, at import, so they are set before the child's Python starts.
Does not start the child; `child` does.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from parity.backend.base import Backend
from parity.store.recording import Environment

__all__ = ["child_environ", "environment", "host_facts"]


def environment(backend: Backend) -> Environment:
    """Return the side's environment as it stands after `open`."""
    return Environment(
        backend=str(backend.spec),
        setting=backend.setting.value,
        profile=backend.profile(),
        provenance=dict(backend.provenance()),
    )


def child_environ(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's variables with a backend's over them, and its import path.

    The child then finds the same `parity` and the same third-party backends from any folder. Its
    own standard library and site-packages stay where Python puts them: named in PYTHONPATH they
    would move before the standard library. A PYTHONPATH of the backend is kept, after ours.
    """
    path = [*_own_import_path(), *variables.get("PYTHONPATH", "").split(os.pathsep)]
    environ = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    if not environ["PYTHONPATH"]:
        del environ["PYTHONPATH"]
    return environ


def _own_import_path() -> list[str]:
    paths = sysconfig.get_paths()
    standard = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    standard += [f"{paths['stdlib']}/lib-dynload", *site.getsitepackages(), site.getusersitepackages()]
    resolved = {Path(entry).resolve() for entry in standard}
    own = dict.fromkeys(Path(entry).resolve() for entry in sys.path)
    # Every path also names a `python311.zip`, which is seldom there.
    return [str(entry) for entry in own if entry not in resolved and entry.exists()]


def host_facts() -> dict[str, str]:
    """Return what changes from run to run and host to host; for a manifest, never for a recording."""
    now = dt.datetime.now(dt.timezone.utc)
    return {
        "date": now.isoformat(timespec="seconds"),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python": platform.python_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"model name", "Processor"}:
                return value.strip()
    return platform.processor() or "?"
