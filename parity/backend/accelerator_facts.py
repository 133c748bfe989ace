"""What is documented of accelerators that need no file of their own: one row each, with its source.

What a row does not say is unknown, and reported so. Reads nothing of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from parity.backend.arithmetic import Arithmetic
from parity.backend.host_fallback import FallbackWarning, Repeat
from parity.backend.switch import Switch

__all__ = ["ANY", "FACTS", "Facts"]

_IMAGE = "work in the vendor's image, and leave the torch in it alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One family.

    module           what to import after torch, empty when torch has the device itself
    strict_env       exported under strict; `unset` must not be set then, whatever its value
    product          what may round float32 products, `convolution` the same for convolutions
    reduced          what is rounded by default where no switch says so: None nothing, `?` unknown;
                     `reduced_strict` the same with what strict exports
    fallback         how an operator that ran on the host is warned of
    lazy             whether operations can be collected into a graph before they run
    compiler         what torch.compile is given, None where that is unknown
    graph            the class of a device graph in the device's module
    versions         where identity is read: attribute paths below torch, functions end in `()`
    """

    family: str
    device_type: str
    source: str
    hint: str
    module: str = ""
    strict_env: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    numeric_env: Sequence[str] = ()
    switches: Sequence[Switch] = ()
    product: Switch | None = None
    convolution: Switch | None = None
    reduced: str | None = "?"
    reduced_strict: str | None = "?"
    fallback: FallbackWarning | None = None
    lazy: bool = False
    compiler: str | None = None
    graph: str | None = None
    collective: str | None = None
    versions: Sequence[str] = ()
    name_path: str = ""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that the vendor documents."""
        had = {"lazy": self.lazy, "compile": self.compiler, "graph": self.graph}
        return ("eager", *(mode for mode, has in had.items() if has))


def _is_warned(maker: str, *, repeat: Repeat, source: str) -> FallbackWarning:
    return FallbackWarning(
        pattern=rf"The operator '(?P<op>[^']+)' is not currently supported on the {maker} backend",
        repeat=repeat,
        source=source,
    )


_MPS = Facts(
    family="mps",
    device_type="mps",
    source="DEVICES.md 3.7",
    hint="run on a Mac with Apple silicon, with torch's ordinary wheel for macOS",
    strict_env={"PYTORCH_MPS_FAST_MATH": "0", "PYTORCH_ENABLE_MPS_FALLBACK": "0"},
    numeric_env=("PYTORCH_MPS_FAST_MATH", "PYTORCH_MPS_PREFER_METAL", "PYTORCH_ENABLE_MPS_FALLBACK"),
    reduced=None,
    reduced_strict=None,
    # A TORCH_WARN_ONCE, which torch.set_warn_always makes one per call; some operators always fall back.
    fallback=_is_warned("MPS", repeat=Repeat.EVERY_CALL, source="DEVICES.md 3.7, fallback"),
    compiler="inductor",
    collective="gloo",
    versions=("backends.mps.get_core_count()",),
    name_path="backends.mps.get_name",
    arithmetic=Arithmetic(float64="unsupported"),
)
_MUSA_TF32 = Switch(path="backends.mudnn.allow_tf32", exact=(False,), source="DEVICES.md 3.8, numerics")
_MUSA = Facts(
    family="musa",
    device_type="musa",
    source="DEVICES.md 3.8",
    hint=f"torch_musa comes with Moore Threads' own torch, from the vendor only: {_IMAGE}",
    module="torch_musa",
    # With it, float64 is computed as float32 and still called float64.
    unset=("TORCH_USE_MUSA_DOUBLE_CAST",),
    numeric_env=("TORCH_USE_MUSA_DOUBLE_CAST",),
    switches=(_MUSA_TF32,),
    product=_MUSA_TF32,
    convolution=_MUSA_TF32,
    # No fallback to the host is in its source, which proves little of a release (DEVICES.md 10, item 5).
    compiler="inductor",
    graph="MUSAGraph",
    collective="mccl",
    versions=("version.musa", "backends.mudnn.version()"),
)
_MLU_PRODUCT = Switch(path="backends.mlu.matmul.allow_tf32", exact=(False,), source="DEVICES.md 3.9")
_MLU_CONVOLUTION = Switch(path="backends.cnnl.allow_tf32", exact=(False,), source="DEVICES.md 3.9")
_MLU = Facts(
    family="mlu",
    device_type="mlu",
    source="DEVICES.md 3.9, public sources of 2024-09",
    hint=f"torch_mlu comes from Cambricon only: {_IMAGE}",
    module="torch_mlu",
    strict_env={"ENABLE_FALLBACK_TO_CPU": "0"},
    # Would hide kernels that fail.
    unset=("ENABLE_MLU_FAIL_FALLBACK",),
    numeric_env=("ENABLE_FALLBACK_TO_CPU", "ENABLE_MLU_FAIL_FALLBACK", "DISABLE_VIEW_SPECIFIC_IO"),
    switches=(
        _MLU_PRODUCT,
        Switch(path="backends.mlu.custom.allow_tf32", exact=(False,), source="DEVICES.md 3.9"),
        _MLU_CONVOLUTION,
    ),
    product=_MLU_PRODUCT,
    convolution=_MLU_CONVOLUTION,
    fallback=_is_warned("MLU", repeat=Repeat.ONCE_PER_OP, source="DEVICES.md 3.9, fallback"),
    compiler="inductor",
    graph="MLUGraph",
    collective="cncl",
    arithmetic=Arithmetic(float64="f32"),
)
# Whichever path torch takes to Neuron (DEVICES.md 3.6, Neuron numerics; 6).
_NEURON_STRICT = {"NEURON_CC_FLAGS": "--auto-cast none", "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0"}
_NEURON_ENV = ("NEURON_CC_FLAGS", "NEURON_RT_STOCHASTIC_ROUNDING_EN")
_XLA_SWITCHES_OFF = ("XLA_USE_BF16", "XLA_DOWNCAST_BF16")
_XLA = Facts(
    family="xla",
    device_type="xla",
    source="DEVICES.md 3.6, torch_xla",
    hint="install torch_xla of exactly torch's version in an environment of its own; the last one is 2.9",
    module="torch_xla",
    strict_env=_NEURON_STRICT,
    # They compute in bfloat16 what is still called float32.
    unset=_XLA_SWITCHES_OFF,
    numeric_env=("PJRT_DEVICE", *_XLA_SWITCHES_OFF, "XLA_USE_32BIT_LONG", *_NEURON_ENV),
    lazy=True,
    compiler="openxla",
    collective="xla",
)
_NEURON = Facts(
    family="neuron",
    device_type="neuron",
    source="DEVICES.md 3.6, TorchNeuron (beta)",
    hint=f"TorchNeuron drives trn2 and trn3 and registers itself with torch: {_IMAGE}",
    module="torch_neuronx",
    strict_env=_NEURON_STRICT,
    numeric_env=_NEURON_ENV,
    reduced_strict=None,  # `--auto-cast none`; what an installed compiler does without it is unknown
    compiler="neuron",
    arithmetic=Arithmetic(float64="f32"),
)
_TPU = Facts(
    family="tpu",
    device_type="tpu",
    source="DEVICES.md 3.6, TorchTPU: announced, its API unverified",
    hint="torch_tpu replaces torch_xla once it is public; until then write 'xla'",
    module="torch_tpu",
)

FACTS: Mapping[str, Facts] = MappingProxyType(
    {row.family: row for row in (_MPS, _MUSA, _MLU, _XLA, _NEURON, _TPU)}
)

# A device that another package registers with torch, of which nothing is documented here.
ANY = Facts(
    family="accelerator",
    device_type="",
    source="DEVICES.md 3.0",
    hint="install the vendor's package for torch; write a family of 'parity devices' where it has one",
)
