"""OpenVINO's CPU plugin: each step is exported from torch, converted, compiled and inferred.

Importing this module imports neither OpenVINO nor torch: `open` does, in the child. Mode `eager`
keeps the shapes that torch.export recorded, `dynamic` leaves them open, as `convert_model` does
by default; kernels and fusions differ. Does not take strides: `put` lays a tensor out row-major,
since the layout is the framework's, and weights are inputs of the graph, never constants.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from parity.backend.base import Availability, Handle, Witness
from parity.backend.cpu import STRICT_ENV
from parity.backend.profile import Profile
from parity.backend.runtimes.openvino_profile import openvino_profile
from parity.backend.spec import BackendSpec, Setting, check_flavour, check_spec
from parity.case.case import Step
from parity.case.tensor import HostTensor

if TYPE_CHECKING:
    from parity.backend.runtimes.openvino_sdk import OpenVino

__all__ = ["OpenVinoBackend"]

# The converter imports `packaging` without declaring it.
_NEEDED = ("torch", "openvino", "packaging")


class OpenVinoBackend:
    """The protocol `Backend` on OpenVINO's CPU plugin; `flavour` as for `cpu`."""

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        check_spec(spec, modes=("eager", "dynamic"))
        self.spec = spec
        self.setting = setting
        self.flavour = ""
        self._sdk: OpenVino | None = None

    def env(self) -> Mapping[str, str]:
        """As for `cpu` under strict, since torch exports and oneDNN computes; else nothing."""
        return STRICT_ENV if self.setting is Setting.STRICT else {}

    def available(self) -> Availability:
        """Whether everything that a conversion imports is installed."""
        for name in _NEEDED:
            if importlib.util.find_spec(name) is None:
                return Availability(
                    ok=False, reason=f"{name} is not installed", hint="pip install 'chip-parity[openvino]'"
                )
        return Availability(ok=True, reason="openvino is installed")

    def open(self) -> None:
        """Import OpenVINO and torch, and pin the plugin's switches under strict.

        Raises BackendError when the flavour that was asked for is another machine's.
        """
        # Not at the top of the module: the launcher asks `env` and `available` without the SDK.
        from parity.backend import torch_switches
        from parity.backend.runtimes.openvino_sdk import OpenVino

        strict = self.setting is Setting.STRICT
        if strict:
            torch_switches.pin()
        self.flavour = torch_switches.capability()
        check_flavour(self.spec, here=self.flavour)
        self._identity = torch_switches.identity()
        self._sdk = OpenVino(strict=strict, dynamic=self.spec.mode == "dynamic")

    def provenance(self) -> Mapping[str, str]:
        """Versions, the processor, and every property of the plugin as read back."""
        return {**self._identity, **self._open.properties()}

    def profile(self) -> Profile:
        """What `openvino_profile` declares."""
        return openvino_profile(self.setting)

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor into OpenVINO, row-major."""
        return self._open.put(tensor)

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        return self._open.get(handle)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Compile one step for these shapes, unless that was done before, and infer."""
        return self._open.run(step, inputs)

    def synchronize(self) -> None:
        """Nothing to wait for: `infer` returns when it is done."""

    def witness(self) -> Witness:
        """Every node of the graph that the plugin executed for the latest `run`."""
        return self._open.witness()

    @property
    def _open(self) -> OpenVino:
        assert self._sdk is not None, "open() comes first"
        return self._sdk
