"""What a Gaudi host tells without its plugin being imported: whether it can, its driver, its modules.

Also words the ways in which importing the plugin fails. Does not import it; `hpu` does.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from parity.backend import installed
from parity.backend.base import Availability
from parity.backend.vendor_api import UNKNOWN
from parity.errors import BackendError

__all__ = ["DEV", "IMAGE", "availability", "failed_import", "hl_smi", "module_of", "parse_hl_smi"]

DEV = Path("/dev")
# DEVICES.md 3.3: the plugin is not on PyPI, and in lazy mode asserts the vendor's own torch.
IMAGE = "use the vendor's Gaudi image or install script, and never let pip replace its torch"
_SMI_LIMIT_S = 30.0


def availability(*, lazy: bool, dev: Path = DEV) -> Availability:
    """Whether this host has the plugin, a torch that it accepts, and a device node."""
    if installed.module("habana_frameworks") is None:
        return Availability(ok=False, reason="habana_frameworks is not installed", hint=IMAGE)
    if installed.distribution("habana-torch-plugin") is None:
        reason = "habana_frameworks is there, but the distribution habana-torch-plugin is not"
        return Availability(ok=False, reason=reason, hint=IMAGE)
    build = installed.torch_build()
    if build is None:
        return Availability(ok=False, reason="torch is not installed", hint=IMAGE)
    refused = _refused(build.version, lazy=lazy)
    if refused:
        return Availability(ok=False, reason=refused, hint=IMAGE)
    nodes = [*dev.glob("accel/accel[0-9]*"), *dev.glob("hl[0-9]*")]
    if not nodes:
        return Availability(
            ok=False,
            reason="habana_frameworks is installed, but there is no /dev/accel/accel* and no /dev/hl*",
            hint="load the habanalabs driver, or start the container with the habana runtime",
        )
    return Availability(ok=True, reason=f"habana_frameworks is installed, {len(nodes)} device nodes")


def _refused(torch: str, *, lazy: bool) -> str:
    """Say why the plugin will not accept a torch by its version, empty when it may."""
    local = torch.partition("+")[2]
    if not local:
        return f"torch {torch} has no local version, which the plugin reads: it was replaced"
    if lazy and not local.startswith("git"):
        return f"lazy mode needs the vendor's torch (local version git…), and this is torch {torch}"
    return ""


def failed_import(error: Exception, *, torch: str, lazy: bool) -> BackendError:
    """Word why the plugin could not be imported; DEVICES.md 3.3, registration."""
    words = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, (AttributeError, AssertionError)):
        why = _refused(torch, lazy=lazy) or f"the plugin was built for another torch than {torch}"
        return BackendError(f"the Gaudi plugin refuses this torch: {why} ({said}). {IMAGE}")
    return BackendError(f"the Gaudi plugin cannot be loaded with torch {torch}: {said}. {IMAGE}")


def module_of(index: int, environ: Mapping[str, str]) -> str:
    """Return the module that device `index` is: of those that the environment shows, if it says so.

    Raises BackendError when it shows fewer.
    """
    shown = [part.strip() for part in environ.get("HABANA_VISIBLE_MODULES", "").split(",") if part.strip()]
    if not shown:
        return str(index)
    if index >= len(shown):
        raise BackendError(
            f"'hpu:{index}' is not visible: HABANA_VISIBLE_MODULES={','.join(shown)} shows {len(shown)} "
            f"of the modules. Ask for an index below {len(shown)}, or unset the variable"
        )
    return shown[index]


def hl_smi() -> dict[str, str]:
    """Run the vendor's tool and return what `parse_hl_smi` reads; nothing known where there is none."""
    try:
        ran = subprocess.run(
            ["hl-smi"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SMI_LIMIT_S,
            check=False,
            # Without it the tool's libraries log to a file instead (DEVICES.md 3.3, provenance).
            env={**os.environ, "ENABLE_CONSOLE": "true"},
        )
    except (OSError, subprocess.SubprocessError):
        return parse_hl_smi("")
    return parse_hl_smi(ran.stdout)


def parse_hl_smi(text: str) -> dict[str, str]:
    """Read versions of the tool, the firmware and the driver; `unknown` for what is not there."""
    tool = re.search(r"HL-SMI Version:\s*([^\s|]+)", text)
    driver = re.search(r"Driver Version:\s*([^\s|]+)", text)
    firmware = re.search(r"-fw-([^\s|]+)", tool[1]) if tool else None
    return {
        "hl_smi": tool[1] if tool else UNKNOWN,
        "driver": driver[1] if driver else UNKNOWN,
        "firmware": firmware[1] if firmware else UNKNOWN,
    }
