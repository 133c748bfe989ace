"""Which backends exist: our own, and those that other packages bring as entry points.

Imports no SDK, and no third party's code before that family is asked for. Does not open devices.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from parity.backend.base import Availability, Backend
from parity.backend.spec import BackendSpec, Setting
from parity.errors import BackendError, ParityError, UsageError, near_miss

__all__ = ["GROUP", "Factory", "available", "create", "default_target", "families"]

GROUP = "parity.backends"
Factory = Callable[[BackendSpec, Setting], Backend]

_BUILT_IN: Mapping[str, str] = {
    "accelerator": "parity.backend.accelerator:AcceleratorBackend",
    "cpu": "parity.backend.cpu:CpuBackend",
    "cuda": "parity.backend.cuda:CudaBackend",
    "hpu": "parity.backend.hpu:HpuBackend",
    "mlu": "parity.backend.accelerator:AcceleratorBackend",
    "mps": "parity.backend.accelerator:AcceleratorBackend",
    "musa": "parity.backend.accelerator:AcceleratorBackend",
    "neuron": "parity.backend.accelerator:AcceleratorBackend",
    "npu": "parity.backend.npu:NpuBackend",
    "onnxruntime": "parity.backend.runtimes.onnxruntime:OnnxRuntimeBackend",
    "openvino": "parity.backend.runtimes.openvino:OpenVinoBackend",
    "sim": "parity.backend.sim.backend:SimBackend",
    "tpu": "parity.backend.accelerator:AcceleratorBackend",
    "xla": "parity.backend.xla:XlaBackend",
    "xpu": "parity.backend.xpu:XpuBackend",
}


def families() -> dict[str, str]:
    """Return `module:name` of the factory of every family, sorted; a built-in one is never replaced."""
    others = {point.name: point.value for point in entry_points(group=GROUP)}
    return dict(sorted({**others, **_BUILT_IN}.items()))


def create(spec: BackendSpec, setting: Setting) -> Backend:
    """Return the backend, not yet opened.

    Raises UsageError for a family or mode that does not exist, BackendError where another
    package's backend cannot be imported or built.
    """
    known = families()
    if spec.family not in known:
        raise UsageError(
            f"unknown backend '{spec.family}'{near_miss(spec.family, known)}; known: {', '.join(known)}"
        )
    value = known[spec.family]
    try:
        return _load(value)(spec, setting)
    except ParityError:
        raise
    except Exception as error:
        if spec.family in _BUILT_IN:
            raise
        raise BackendError(
            f"backend '{spec.family}' ({value}, from an entry point in '{GROUP}') cannot be used: "
            f"{type(error).__name__}: {error}; repair or uninstall the package that brings it"
        ) from error


def default_target() -> str:
    """Return the first family with an accelerator that is here, else `cpu`.

    A backend says that it drives one by a true attribute `is_accelerator`.
    """
    for family in families():
        try:
            backend = create(BackendSpec(family), Setting.STRICT)
            if getattr(backend, "is_accelerator", False) and backend.available().ok:
                return family
        except Exception:  # noqa: BLE001, S112 - a broken family is not the default; `devices` says why
            continue
    return "cpu"


def _load(value: str) -> Factory:
    module, _, name = value.partition(":")
    factory: Factory = getattr(importlib.import_module(module), name)
    return factory


def available() -> list[tuple[str, Availability]]:
    """Return every family with whether it can be used here; a broken one says why."""
    found: list[tuple[str, Availability]] = []
    for family in families():
        try:
            state = create(BackendSpec(family), Setting.STRICT).available()
        except Exception as error:  # noqa: BLE001 - one package's failure must not hide other families
            text = str(error) if isinstance(error, ParityError) else f"{type(error).__name__}: {error}"
            state = Availability(ok=False, reason=text)
        found.append((family, state))
    return found
