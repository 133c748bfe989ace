"""What an Ascend host tells without torch_npu being imported, and what its names and failures mean.

Does not import it; `npu` does.
"""

from __future__ import annotations

import re
from pathlib import Path

from parity.backend import installed
from parity.backend.base import Availability
from parity.backend.chip_name import short_name
from parity.backend.installed import TorchBuild
from parity.backend.vendor_api import UNKNOWN
from parity.errors import BackendError

__all__ = ["DEV", "availability", "failed_import", "flavour"]

DEV = Path("/dev")
_SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"  # DEVICES.md 3.4, registration
_CPU_TORCH = "use an environment with the CPU build of torch in torch_npu's version"
# DEVICES.md 3.4: Ascend910B3, Ascend910_9382 (A3), Ascend310P3, Ascend950….
_FLAVOURS = (
    (r"ascend910b", "ascend910b"),
    (r"ascend910_93", "ascend910c"),
    (r"ascend310p", "ascend310p"),
    (r"ascend950", "ascend950"),
)


def flavour(device: str) -> str:
    """Return the generation of a device's name; of another name, what is left of it."""
    name = device.strip().lower()
    for pattern, short in _FLAVOURS:
        if re.match(pattern, name):
            return short
    return short_name(name) or UNKNOWN


def availability(*, dev: Path = DEV) -> Availability:
    """Whether this host has torch_npu, the torch that it was built for, and a device node."""
    if installed.module("torch_npu") is None:
        return Availability(
            ok=False,
            reason="torch_npu is not installed",
            hint="use the vendor's Ascend image, or install torch_npu in the exact version of torch",
        )
    build = installed.torch_build()
    if build is None:
        return Availability(ok=False, reason="torch is not installed", hint=_CPU_TORCH)
    refused = _refused(build)
    if refused:
        return Availability(ok=False, reason=refused, hint=_CPU_TORCH)
    # As vendors' container commands name them: --device /dev/davinci0.
    nodes = list(dev.glob("davinci[0-9]*"))
    if not nodes:
        return Availability(
            ok=False,
            reason="torch_npu is installed, but there is no /dev/davinci*",
            hint="load the Ascend driver, or start the container with --device /dev/davinci0",
        )
    return Availability(ok=True, reason=f"torch_npu is installed, {len(nodes)} device nodes")


def _refused(build: TorchBuild) -> str:
    """Say why torch_npu will not load into a torch, empty when it may."""
    other = next((name for name in ("cuda", "hip", "xpu") if getattr(build, name)), None)
    if other:
        # DEVICES.md 1.1: it raises for a torch whose accelerator is neither cpu nor npu.
        return f"torch {build.version} is built for {other}, and one process has one accelerator"
    plugin = installed.distribution("torch-npu")
    return "" if plugin is None else _mismatch(plugin, build.version)


def _mismatch(plugin: str, torch: str) -> str:
    """Say how two versions differ that must be the same (DEVICES.md 2), empty when they do not."""
    wanted, found = (re.match(r"\d+\.\d+\.\d+", version) for version in (plugin, torch))
    if wanted is None or found is None or wanted[0] == found[0]:
        return ""
    return f"torch_npu {plugin} needs torch {wanted[0]}, and this is torch {torch}"


def failed_import(error: Exception, *, torch: str) -> BackendError:
    """Word why torch_npu could not be imported."""
    words = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    plugin = installed.distribution("torch-npu")
    why = _mismatch(plugin, torch) if plugin else ""
    if why:
        return BackendError(f"torch_npu cannot be loaded: {why} ({said}); {_CPU_TORCH}")
    if "Two accelerators" in words:
        return BackendError(f"torch_npu cannot be loaded: {words}; {_CPU_TORCH}")
    if isinstance(error, (ImportError, OSError)):
        return BackendError(
            f"torch_npu cannot be loaded: {said}. If a library of CANN is missing: {_SET_ENV}"
        )
    return BackendError(f"torch_npu cannot be loaded: {said}")
