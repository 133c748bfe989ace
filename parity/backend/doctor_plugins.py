"""Does each vendor's plugin fit its torch, its SDK and this machine?

Versions are held against the vendors' tables; what stands in none is unknown, which is a warning.
Imports happen in children. Does not judge torch itself; `doctor_torch` does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from parity.backend import installed
from parity.backend.doctor_facts import (
    CANN_OF_TORCH_NPU,
    DEVICE_NODES,
    PLUGINS,
    TORCH_OF_GAUDI,
    DeviceNode,
    Plugin,
    release,
)
from parity.backend.doctor_torch import VENDOR_REMEDY
from parity.backend.doctor_trial import Trial, attempt
from parity.backend.finding import Finding, State

__all__ = [
    "examine_conflicts",
    "examine_nodes",
    "examine_plugin",
    "plugins_here",
]

_CANN = "torch_npu.npu.utils:get_cann_version:CANN"  # DEVICES.md 3.4, provenance
_NO_LIBRARY = re.compile(r"(\S+\.so[\d.]*): cannot open shared object file")


def plugins_here() -> list[Plugin]:
    """Return the vendors' plugins that are installed, found without importing them."""
    return [plugin for plugin in PLUGINS if installed.module(plugin.package) is not None]


def examine_plugin(
    plugin: Plugin, build: installed.TorchBuild | None, *, timeout_s: float
) -> Iterator[Finding]:
    """Compare its version with torch's, then import it in a child; `build` is None for a broken torch."""
    version = installed.distribution(plugin.distribution)
    if build is None:
        yield Finding(
            subject=f"{plugin.family} plugin",
            state=State.WARNING,
            detail=f"{plugin.module} was not imported: torch cannot be",
            remedy="repair torch first",
        )
        return
    yield from _fits_torch(plugin, version, build)
    questions = [_CANN] if plugin.family == "npu" else []
    trial = attempt("torch", plugin.module, autoload=False, questions=questions, timeout_s=timeout_s)
    yield _import(plugin, version, trial)
    yield from _sdk(plugin, trial)
    if plugin.family == "npu" and trial.ok:
        yield _cann(version, trial.answers.get(_CANN))


def _import(plugin: Plugin, version: str | None, trial: Trial) -> Finding:
    name = f"{plugin.distribution} {version or 'of an unknown version'}"
    if trial.ok:
        return Finding(subject=f"{plugin.family} plugin", state=State.OK, detail=f"{name} can be imported")
    library = _NO_LIBRARY.search(trial.failure)
    if library:
        return Finding(
            subject=f"{plugin.family} SDK",
            state=State.BROKEN,
            detail=f"{name} does not find {library[1]}: the vendor's SDK is missing or not set up",
            remedy=plugin.sdk_remedy,
        )
    return Finding(
        subject=f"{plugin.family} plugin",
        state=State.BROKEN,
        detail=f"importing {plugin.module}, of {name}: {trial.failure}",
        remedy=f"reinstall the plugin that belongs to this torch, or {VENDOR_REMEDY}",
    )


def _sdk(plugin: Plugin, trial: Trial) -> Iterator[Finding]:
    if not plugin.sdk_variable or _NO_LIBRARY.search(trial.failure):
        return
    place = os.environ.get(plugin.sdk_variable)
    if place and Path(place).is_dir():
        yield Finding(subject=f"{plugin.family} SDK", state=State.OK, detail=f"{plugin.sdk_variable}={place}")
        return
    what = f"{plugin.sdk_variable}={place} is no folder" if place else f"{plugin.sdk_variable} is not set"
    yield Finding(
        subject=f"{plugin.family} SDK",
        # An import that works has found its libraries in another way.
        state=State.WARNING if trial.ok else State.BROKEN,
        detail=f"{what}: the SDK is missing or not set up",
        remedy=plugin.sdk_remedy,
    )


def _fits_torch(plugin: Plugin, version: str | None, build: installed.TorchBuild) -> Iterator[Finding]:
    match plugin.family:
        case "hpu":
            yield from _gaudi_fork(build)
            yield _gaudi_release(version, build)
        case "npu" | "xla":
            # "Exact torch match required" (DEVICES.md §2); "must equal torch" (3.6).
            yield _same_release(plugin, version, build, needs_equal=True)
        case "musa":
            # At least its own torch, and a warning unless it is exactly that (3.8).
            yield _same_release(plugin, version, build, needs_equal=False)
        case _:  # mlu: no table is public
            return


def _gaudi_fork(build: installed.TorchBuild) -> Iterator[Finding]:
    """Report a torch that is not Gaudi's fork, which lazy mode asserts (DEVICES.md 3.3)."""
    local = build.version.partition("+")[2]
    if local.startswith("git"):
        return
    if not local:
        detail = f"torch {build.version} is a public wheel: without a local version the plugin's import fails"
    else:
        detail = f"torch {build.version} is a public wheel, not Gaudi's own build, which lazy mode needs"
    eager = bool(local) and os.environ.get("PT_HPU_LAZY_MODE") == "0"
    yield Finding(
        subject="hpu build",
        state=State.WARNING if eager else State.BROKEN,
        detail=detail,
        remedy=VENDOR_REMEDY,
    )


def _gaudi_release(version: str | None, build: installed.TorchBuild) -> Finding:
    numbers = release(version) or ()
    keys = [".".join(map(str, numbers[:length])) for length in (3, 2)]
    wanted = next((TORCH_OF_GAUDI[key] for key in keys if key in TORCH_OF_GAUDI), None)
    return _verdict(
        "hpu torch",
        what=f"habana-torch-plugin {version or 'of an unknown version'}",
        wanted=wanted,
        # The plugin compares major and minor.
        here=".".join(map(str, (release(build.version) or ())[:2])),
        torch=build.version,
    )


def _verdict(subject: str, *, what: str, wanted: str | None, here: str, torch: str) -> Finding:
    if wanted is None:
        return Finding(
            subject=subject,
            state=State.WARNING,
            detail=f"unknown whether {what} fits torch {torch}: no table that we know has it",
            remedy="compare both with the vendor's support matrix",
        )
    if wanted != here:
        return Finding(
            subject=subject,
            state=State.BROKEN,
            detail=f"{what} is built for torch {wanted}, here is {torch}",
            remedy=VENDOR_REMEDY,
        )
    return Finding(subject=subject, state=State.OK, detail=f"{what} is built for torch {wanted}")


def _same_release(
    plugin: Plugin, version: str | None, build: installed.TorchBuild, *, needs_equal: bool
) -> Finding:
    ours, torch = release(version), release(build.version)
    subject = f"{plugin.family} torch"
    if ours is None or torch is None:
        return _verdict(subject, what=f"{plugin.module}", wanted=None, here="", torch=build.version)
    if ours == torch:
        return Finding(subject=subject, state=State.OK, detail=f"{plugin.module} {version} belongs to it")
    number = ".".join(map(str, ours))
    return Finding(
        subject=subject,
        state=State.BROKEN if needs_equal or torch < ours else State.WARNING,
        detail=f"{plugin.module} {version} needs torch {number}, here is {build.version}",
        remedy=f"install the {plugin.distribution} that belongs to this torch, or {VENDOR_REMEDY}",
    )


def _cann(version: str | None, here: str | None) -> Finding:
    wanted = CANN_OF_TORCH_NPU.get((version or "").partition("+")[0])
    if wanted is None or not here:
        return Finding(
            subject="npu CANN",
            state=State.WARNING,
            detail=f"unknown whether torch_npu {version} and CANN {here or 'of an unknown version'} belong "
            "together",
            remedy="compare both with the vendor's compatibility table",
        )
    if here.lower() != wanted.lower():
        return Finding(
            subject="npu CANN",
            state=State.WARNING,
            detail=f"torch_npu {version} belongs to CANN {wanted}, here is {here}",
            remedy="install the CANN release of this torch_npu, or source the set_env.sh of another one",
        )
    return Finding(subject="npu CANN", state=State.OK, detail=f"CANN {here}, as torch_npu {version} needs")


def examine_conflicts(here: Sequence[Plugin], build: installed.TorchBuild | None) -> Iterator[Finding]:
    """Report accelerators that share an environment: a process can use one (DEVICES.md §1.1)."""
    toolkits = [name for name in ("cuda", "hip", "xpu") if build is not None and getattr(build, name)]
    names = [plugin.module for plugin in here] + [f"torch built with {name}" for name in toolkits]
    if len(names) < 2:
        return
    # torch_npu refuses to be imported beside another accelerator; of the others it is not known.
    refuses = any(plugin.family == "npu" for plugin in here)
    yield Finding(
        subject="accelerators",
        state=State.BROKEN if refuses else State.WARNING,
        detail=f"{' and '.join(names)} are in one environment: a process can use one accelerator",
        remedy="keep one accelerator in one environment, such as the vendor's image",
    )


def examine_nodes(build: installed.TorchBuild | None, *, root: Path) -> Iterator[Finding]:
    """Report device nodes whose chip nothing installed here can drive."""
    for node in DEVICE_NODES:
        found = sorted(path for pattern in node.patterns for path in root.glob(pattern))
        if found and not _is_driven(node, build):
            yield Finding(
                subject=f"{node.family} device",
                state=State.ABSENT,
                detail=f"/{found[0].relative_to(root)} is there, but not {node.needs}",
                remedy="to use it, start from the vendor's image, or install what its installation page says "
                "in an environment of its own",
            )


def _is_driven(node: DeviceNode, build: installed.TorchBuild | None) -> bool:
    if node.package:
        return installed.module(node.package) is not None
    return build is not None and getattr(build, node.toolkit) is not None
