"""ONNX Runtime's CPU provider: each step is one small model, written from the op table.

Importing this module imports neither onnx nor ONNX Runtime: `open` does, in the child. Weights are
inputs of the model, never constants. Does not take strides: `put` lays a tensor out row-major.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from parity.backend.base import Availability, Handle, Witness
from parity.backend.cpu import STRICT_ENV
from parity.backend.profile import Profile
from parity.backend.runtimes.onnxruntime_profile import onnxruntime_profile
from parity.backend.spec import BackendSpec, Setting, check_flavour, check_spec
from parity.case.case import Step
from parity.case.tensor import HostTensor

if TYPE_CHECKING:
    from parity.backend.runtimes.onnxruntime_sdk import OnnxRuntime

__all__ = ["OnnxRuntimeBackend"]

_NEEDED = ("torch", "onnxruntime", "onnx")


class OnnxRuntimeBackend:
    """The protocol `Backend` on ONNX Runtime's CPU provider; `flavour` as for `cpu`."""

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        check_spec(spec, modes=("eager",))
        self.spec = spec
        self.setting = setting
        self.flavour = ""
        self._sdk: OnnxRuntime | None = None

    def env(self) -> Mapping[str, str]:
        """As for `cpu` under strict, since torch computes between an engine's sites; else nothing."""
        return STRICT_ENV if self.setting is Setting.STRICT else {}

    def available(self) -> Availability:
        """Whether what writes models and what runs them are installed."""
        for name in _NEEDED:
            if importlib.util.find_spec(name) is None:
                return Availability(
                    ok=False, reason=f"{name} is not installed", hint="pip install 'chip-parity[onnxruntime]'"
                )
        return Availability(ok=True, reason="onnxruntime is installed")

    def open(self) -> None:
        """Import ONNX Runtime, whose switches each session pins under strict.

        Raises BackendError when the flavour that was asked for is another machine's.
        """
        # Not at the top of the module: the launcher asks `env` and `available` without the SDK.
        from parity.backend import torch_switches
        from parity.backend.runtimes.onnxruntime_sdk import OnnxRuntime

        strict = self.setting is Setting.STRICT
        if strict:
            torch_switches.pin()
        self.flavour = torch_switches.capability()
        check_flavour(self.spec, here=self.flavour)
        self._identity = torch_switches.identity()
        self._sdk = OnnxRuntime(strict=strict)

    def provenance(self) -> Mapping[str, str]:
        """Versions, the processor, and every option of a session as read back."""
        return {**self._identity, **self._open.properties()}

    def profile(self) -> Profile:
        """What `onnxruntime_profile` declares."""
        return onnxruntime_profile(self.setting)

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor into ONNX Runtime, row-major."""
        return self._open.put(tensor)

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        return self._open.get(handle)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Compile one step for these shapes, unless that was done before, and run it."""
        return self._open.run(step, inputs)

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when it is done."""

    def witness(self) -> Witness:
        """Every kernel that the runtime's profile names for the latest `run`."""
        return self._open.witness()

    @property
    def _open(self) -> OnnxRuntime:
        assert self._sdk is not None, "open() comes first"
        return self._sdk
