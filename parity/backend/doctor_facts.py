"""What is known of vendors' packages, releases and variables, each with its source, as data.

A release that stands in no table here is unknown, not wrong. Does not look at this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "CANN_OF_TORCH_NPU",
    "DEVICE_NODES",
    "FLOORS",
    "PLUGINS",
    "TORCH_OF_GAUDI",
    "VARIABLES",
    "DeviceNode",
    "Plugin",
    "Variable",
    "is_same_version",
    "release",
]

# As pyproject.toml declares them.
FLOORS: Mapping[str, tuple[int, ...]] = {"numpy": (1, 22), "pyarrow": (14,), "torch": (2, 5)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A vendor's package that adds a device to torch.

    `sdk_variable` is what the SDK's set-up script leaves behind, empty where none is documented;
    `sdk_remedy` is what to do when the SDK's libraries are not found.
    """

    family: str
    module: str
    distribution: str
    sdk_remedy: str
    sdk_variable: str = ""

    @property
    def package(self) -> str:
        """The top-level package, which can be found without importing anything."""
        return self.module.partition(".")[0]


# DEVICES.md §2, row "import", and the paragraphs on registration in 3.3, 3.4, 3.6, 3.8, 3.9.
PLUGINS = (
    Plugin(
        family="hpu",
        module="habana_frameworks.torch",
        distribution="habana-torch-plugin",
        sdk_remedy="run inside the vendor's image, or install SynapseAI's libraries of this release",
    ),
    Plugin(
        family="npu",
        module="torch_npu",
        distribution="torch_npu",
        sdk_variable="ASCEND_HOME_PATH",
        sdk_remedy="source /usr/local/Ascend/ascend-toolkit/set_env.sh in this shell, then try again",
    ),
    Plugin(
        family="xla",
        module="torch_xla",
        distribution="torch_xla",
        sdk_remedy="install the accelerator's runtime (libtpu or the Neuron runtime) of this release",
    ),
    Plugin(
        family="musa",
        module="torch_musa",
        distribution="torch_musa",
        sdk_remedy="run inside the vendor's image, or put the MUSA libraries on LD_LIBRARY_PATH",
    ),
    Plugin(
        family="mlu",
        module="torch_mlu",
        distribution="torch_mlu",
        sdk_variable="NEUWARE_HOME",
        sdk_remedy="run inside the vendor's image, or set NEUWARE_HOME to the installed toolkit",
    ),
)

# DEVICES.md §2, "Torch floor by Gaudi release" [D docs.habana.ai, vllm-gaudi]; the page of 1.20 was not read.
TORCH_OF_GAUDI: Mapping[str, str] = {
    "1.10": "2.0",
    "1.14": "2.1",
    "1.15": "2.2",
    "1.16": "2.2",
    "1.17": "2.3",
    "1.18": "2.4",
    "1.19": "2.5",
    "1.21": "2.6",
    "1.22": "2.7",
    "1.23": "2.9",
    "1.24.0": "2.10",
    "1.24.1": "2.11",
}

# DEVICES.md §2, "Ascend" [D COMPATIBILITY.en.md]; releases that it leaves to an ellipsis are unknown.
CANN_OF_TORCH_NPU: Mapping[str, str] = {
    "2.12.0": "9.1.0",
    "2.11.0": "9.1.0",
    "2.10.0.post4": "9.1.0",
    "2.10.0.post2": "9.0.0",
    "2.9.0.post6": "9.1.0",
    "2.9.0.post2": "9.0.0",
    "2.9.0": "8.5.0",
    "2.8.0.post2": "8.5.0",
    "2.7.1.post8": "9.1.0",
    "2.7.1.post2": "8.5.0",
    "2.6.0.post5": "8.5.0",
    "2.6.0": "8.2.RC1",
    "2.5.1": "8.1.RC1",
    "2.4.0.post2": "8.0.0",
    "2.3.1.post4": "8.0.0",
    "2.1.0.post10": "8.0.0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """Device nodes that a driver makes, and what has to be installed before torch can use them.

    `toolkit` is the attribute of torch's `version.py` that a build for the chip sets, `package`
    the plugin that it needs otherwise.
    """

    family: str
    patterns: tuple[str, ...]
    needs: str
    toolkit: str = ""
    package: str = ""


# Names that the vendors' drivers are known to use, read in no source of ours: a finding says what is
# there and claims no chip from it. Intel's nodes are left out: every laptop has one.
DEVICE_NODES = (
    DeviceNode(
        family="cuda", patterns=("dev/nvidia[0-9]*",), toolkit="cuda", needs="a build of torch that has CUDA"
    ),
    DeviceNode(family="cuda", patterns=("dev/kfd",), toolkit="hip", needs="a build of torch that has ROCm"),
    DeviceNode(
        family="hpu",
        patterns=("dev/hl[0-9]*", "dev/accel/accel[0-9]*"),
        package="habana_frameworks",
        needs="Gaudi's own torch and habana-torch-plugin, if it is a Gaudi",
    ),
    DeviceNode(
        family="npu",
        patterns=("dev/davinci[0-9]*",),
        package="torch_npu",
        needs="torch_npu of exactly torch's version",
    ),
    DeviceNode(
        family="musa", patterns=("dev/mtgpu*",), package="torch_musa", needs="torch_musa and its torch"
    ),
    DeviceNode(family="mlu", patterns=("dev/cambricon_dev[0-9]*",), package="torch_mlu", needs="torch_mlu"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable that silently changes what is computed, or hides where; `harmless` is its default."""

    name: str
    effect: str
    harmless: tuple[str, ...] = ("0", "false")


# DEVICES.md §1.4, 3.1 to 3.9 and §6. One whose effect is only speed is not here.
VARIABLES = (
    # 3.3, env_flags.yaml of 1.19
    Variable(name="PT_HPU_LAZY_MODE", effect="lazy mode, where int64 is computed as int32"),
    Variable(name="PT_COMPILE_ONLY_MODE", effect="graphs are compiled and not executed: results are garbage"),
    Variable(
        name="PT_HPU_FORCE_TANH_FOR_GELU",
        effect="gelu no longer takes the default's tanh formula",
        harmless=("1", "true"),
    ),
    Variable(name="PT_HPU_ENABLE_DIV_PRECISE", effect="division takes another kernel than by default"),
    Variable(name="PT_HPU_ENABLE_NEGATIVE_INDEXING", effect="negative indices are read otherwise"),
    Variable(name="PT_ENABLE_INT64_SUPPORT", effect="int64 is computed as int32", harmless=("1", "true")),
    Variable(name="PT_HPU_GPU_MIGRATION", effect="torch.cuda is mapped to hpu"),
    Variable(name="PT_HPU_MATMUL3D_2D_RESHAPE", effect="products are reshaped before they are computed"),
    Variable(name="PT_HPU_OVERRIDE_LINEAR_MATMUL_EAGER", effect="linear and matmul are decomposed otherwise"),
    Variable(
        name="PT_HPU_MAX_COMPOUND_OP_SIZE", effect="lazy graphs are cut, so fusions change", harmless=()
    ),
    Variable(name="MME_ENABLE_STOCHASTIC_ROUNDING", effect="products are rounded at random"),
    Variable(name="GAUDI2_FORCE_MME_FP32_IEEE", effect="float32 products take another path than by default"),
    # 3.4
    Variable(name="TORCH_NPU_DISABLED_WARNING", effect="the warning of an op that fell back is not printed"),
    Variable(name="TORCH_NPU_USE_COMPATIBLE_IMPL", effect="ops take implementations that follow PyTorch's"),
    Variable(name="INF_NAN_MODE_ENABLE", effect="overflow saturates, NaN becomes 0", harmless=("1",)),
    Variable(name="INF_NAN_MODE_FORCE_DISABLE", effect="overflow saturates, NaN becomes 0"),
    Variable(name="CLOSE_MATMUL_K_SHIFT", effect="products are computed for determinism, not as by default"),
    # 3.1, 3.2
    Variable(name="NVIDIA_TF32_OVERRIDE", effect="the driver overrides what torch says of TF32", harmless=()),
    Variable(name="HIPBLASLT_ALLOW_TF32", effect="float32 products may be rounded to TF32"),
    Variable(
        name="ROCBLAS_INTERNAL_FP16_ALT_IMPL",
        effect="float16 products are computed in bfloat16",
    ),
    Variable(
        name="MIOPEN_DEBUG_CONVOLUTION_ATTRIB_FP16_ALT_IMPL",
        effect="float16 convolutions are computed in bfloat16",
    ),
    # 3.5
    Variable(name="PYTORCH_ENABLE_XPU_FALLBACK", effect="ops that xpu lacks run on the host"),
    Variable(name="PYTORCH_XPU_FALLBACK_OP", effect="the named ops run on the host", harmless=("",)),
    # 3.6
    Variable(name="XLA_USE_BF16", effect="float32 and float64 are computed in bfloat16 and called float"),
    Variable(name="XLA_DOWNCAST_BF16", effect="float32 is computed in bfloat16 and called float"),
    Variable(name="XLA_USE_32BIT_LONG", effect="int64 is computed as int32"),
    Variable(name="NEURON_RT_STOCHASTIC_ROUNDING_EN", effect="results are rounded at random"),
    # 3.7
    Variable(name="PYTORCH_MPS_FAST_MATH", effect="fast, less exact math functions"),
    Variable(name="PYTORCH_MPS_PREFER_METAL", effect="products take another library than by default"),
    Variable(name="PYTORCH_ENABLE_MPS_FALLBACK", effect="ops that mps lacks run on the host"),
    # 3.8, 3.9
    Variable(name="TORCH_USE_MUSA_DOUBLE_CAST", effect="float64 is computed in float32 and called float64"),
    Variable(name="ENABLE_MLU_FAIL_FALLBACK", effect="kernels that fail run on the host"),
)


def release(version: str | None) -> tuple[int, ...] | None:
    """Return (2, 10, 0) for `2.10.0a0+gitabc` and for `2.10.0.post4`, None where there are no numbers."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version or "")
    return tuple(int(part) for part in found[1].split(".")) if found else None


def is_same_version(first: str, second: str) -> bool:
    """Tell whether two texts are one version, as packaging tools rewrite it in METADATA.

    They lower the case, join with dots and drop leading zeros: `nv25.05` is recorded as `nv25.5`.
    """
    return _canonical(first) == _canonical(second)


def _canonical(version: str) -> tuple[str, ...]:
    public, _, local = version.strip().lower().removeprefix("v").partition("+")
    # `2.10.0-alpha.0`, `2.10.0.a0` and `2.10.0a0` are one.
    words = re.findall(r"\d+|[a-z]+", public.replace("alpha", "a").replace("beta", "b"))
    numbers = [part for part in re.split(r"[._-]", local) if part]
    return tuple(str(int(word)) if word.isdigit() else word for word in [*words, "+", *numbers])
