"""Whether an NVIDIA or AMD accelerator is here, and which driver it has.

Reads files and asks the vendor's tool, but no torch.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from parity.backend.base import Availability
from parity.backend.installed import TorchBuild
from parity.backend.vendor_api import UNKNOWN

__all__ = ["available", "driver"]

_SMI_TIMEOUT_S = 10.0
_OWN_ENVIRONMENT = "in an environment of its own; a vendor's image keeps the torch that it has"


def driver(*, is_hip: bool, root: Path = Path("/")) -> str:
    """Return the version of the kernel's driver, `unknown` where neither a file nor a tool says it."""
    if is_hip:
        return _first_line(root / "sys/module/amdgpu/version")  # DEVICES.md 3.2
    said = re.search(r"Kernel Module\s.*?(\d+\.\d+(?:\.\d+)?)\s", _text(root / "proc/driver/nvidia/version"))
    return said[1] if said else _nvidia_smi()


def _nvidia_smi() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]  # DEVICES.md 3.1
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    lines = done.stdout.split() if done.returncode == 0 else []
    return lines[0] if lines else UNKNOWN


def _first_line(path: Path) -> str:
    return next(iter(_text(path).splitlines()), "").strip() or UNKNOWN


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def available(
    build: TorchBuild | None, *, environ: Mapping[str, str], dev: Path = Path("/dev")
) -> Availability:
    """Whether torch's build and the device nodes say that there is one; opens nothing."""
    if build is None:
        return Availability(
            ok=False,
            reason="torch is not installed",
            hint=f"install a CUDA or ROCm wheel of torch {_OWN_ENVIRONMENT}",
        )
    amd, nvidia = (dev / "kfd").exists(), any(dev.glob("nvidia[0-9]*")) or _other_nvidia(dev)
    if not (build.cuda or build.hip):
        wheel = "ROCm (+rocm…)" if amd and not nvidia else "CUDA (+cu…)"
        seen = "" if amd or nvidia else "; no device node of NVIDIA or AMD is here either"
        return Availability(
            ok=False,
            reason=f"torch {build.version} has no CUDA support{seen}",
            hint=f"install the {wheel} wheel of torch {_OWN_ENVIRONMENT}",
        )
    kind, here = ("ROCm", amd) if build.hip else ("CUDA", nvidia)
    reason = f"torch {build.version} for {kind} {build.hip or build.cuda}"
    if os.name == "posix" and not here:
        node, driver_of = ("/dev/kfd", "AMD's") if build.hip else ("/dev/nvidia0", "NVIDIA's")
        return Availability(
            ok=False,
            reason=f"{reason}, but there is no {node}",
            hint=f"load {driver_of} driver, or start the container with its devices",
        )
    return _not_hidden(reason, is_hip=bool(build.hip), environ=environ)


def _other_nvidia(dev: Path) -> bool:
    """Whether the nodes of NVIDIA's other platforms are here: the Linux of Windows, and Tegra."""
    return (dev / "dxg").exists() or (dev / "nvhost-gpu").exists()


def _not_hidden(reason: str, *, is_hip: bool, environ: Mapping[str, str]) -> Availability:
    names = ["CUDA_VISIBLE_DEVICES"]
    if is_hip:
        names += ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]
    for name in names:
        if environ.get(name, "0").strip() in ("", "-1"):
            return Availability(
                ok=False, reason=f"{name}='{environ[name]}' hides every device", hint=f"unset {name}"
            )
    return Availability(ok=True, reason=f"{reason}, and its device nodes are here")
