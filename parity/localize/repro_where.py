"""Where a step ran, as a program without parity can name it: device, switches, variables, compiler.

Asks a backend what it states before it is opened, so that it need not be here. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.backend.device import TorchDevice
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.errors import ParityError

__all__ = ["Where", "where_of"]

# What brings a device into torch that torch itself does not have (DEVICES.md 3).
_PLUGINS = {
    "hpu": ("habana_frameworks.torch.core",),
    "mlu": ("torch_mlu",),
    "musa": ("torch_musa",),
    "npu": ("torch_npu",),
    "xla": ("torch_xla",),
}

# As `backend.runtimes.openvino_sdk` sets them, which cannot be asked without OpenVINO.
_OPENVINO_EXACT = {
    "CPU_DENORMALS_OPTIMIZATION": False,
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 1.0,
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_NUM_THREADS": 1,
    "KV_CACHE_PRECISION": "f32",
    "NUM_STREAMS": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """`name` is the backend's; `device` is torch's, None where a plain program has none of that kind.

    `runtime` names a package that runs the step instead of torch. `pinned` rows are a path below torch,
    its most exact values, and the function that sets them; `pins_cpu` says that the host's are set too.
    `properties` are what a runtime is set to under strict.
    """

    name: str
    device: str | None = None
    runtime: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    pinned: tuple[tuple[str, tuple[object, ...], str], ...] = ()
    pins_cpu: bool = False
    strict: bool = True
    compiler: str | None = None
    properties: Mapping[str, object] = field(default_factory=dict)

    def words(self) -> str:
        """Return what running the program without arguments does."""
        if self.runtime:
            return f"run it by {self.runtime}"
        return f"run it on {self.device}" if self.device else "show what was recorded"


def where_of(backend: str, setting: str) -> Where:
    """Return where a recording of this backend and setting was made."""
    try:
        spec = BackendSpec.parse(backend)
        made = create(spec, Setting(setting))
    except (ParityError, ValueError):  # of another package that is not here
        return Where(name=backend)
    strict = setting == Setting.STRICT.value
    if spec.family == "cpu":
        return Where(
            name=backend,
            device="cpu",
            environment=dict(made.env()),
            pins_cpu=strict,
            strict=strict,
            compiler="inductor" if spec.mode == "compile" else None,
        )
    if spec.family == "openvino":
        return Where(
            name=backend,
            runtime="openvino",
            environment=dict(made.env()),
            strict=strict,
            properties=_OPENVINO_EXACT,
        )
    if not isinstance(made, TorchDevice) or spec.family == "sim" or spec.mode == "graph":
        return Where(name=backend, strict=strict)
    compiler = made.compiler() if spec.mode == "compile" else None
    if compiler is not None and not isinstance(compiler, str):
        return Where(name=backend, strict=strict)
    index = f":{spec.index[0]}" if spec.index else ""
    kind = made.device_type or spec.family
    return Where(
        name=backend,
        device=f"{kind}{index}",
        environment=_environment(made),
        plugins=_PLUGINS.get(kind, ()),
        pinned=tuple((s.path, s.exact, s.setter) for s in made.switch_table if s.exact) if strict else (),
        strict=strict,
        compiler=compiler,
    )


def _environment(made: TorchDevice) -> dict[str, str]:
    try:
        return dict(made.env())
    except (OSError, ParityError):  # of an index that this host does not have
        return {}
