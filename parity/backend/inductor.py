"""What torch's compiler Inductor makes for a CPU: its switches, whether it can work here, its kernels.

Reads generated code as text and imports no torch. Does not compile; `torch_graph` does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from parity.backend.base import Availability, Node
from parity.backend.vendor_api import find, said
from parity.case.dtype import DTYPES

__all__ = ["STRICT_ENV", "available", "borrowed", "kernels", "properties"]

# torch/_inductor/config.py reads these when it is imported. Each is the most exact value; intermediates
# that stay in float32 are nearer to the mathematics than eager's, so these casts are left out.
STRICT_ENV: Mapping[str, str] = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_ENABLE_FLOATING_POINT_CONTRACT_FLAG": "off",
    "TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG": "0",
    "TORCHINDUCTOR_CPP_USE_DECOMPOSE_TANH": "0",
    "TORCHINDUCTOR_EMULATE_PRECISION_CASTS": "0",
    "TORCHINDUCTOR_FREEZING": "0",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "0",
}
_READ_BACK = (
    "cpp.enable_floating_point_contract_flag",
    "cpp.enable_unsafe_math_opt_flag",
    "cpp.fallback_scatter_reduce_sum",
    "cpp.simdlen",
    "cpp.threads",
    "cpp.use_decompose_tanh",
    "emulate_precision_casts",
    "freezing",
    "max_autotune",
)
_DEFINED = re.compile(r"^(\w+) = async_compile\.cpp\w*\(\[(.*?)\], r'''(.*?)'''", re.MULTILINE | re.DOTALL)
_BORROWED = re.compile(r"\b(?:extern_kernels\.\w+|torch\.ops\.[\w.]+)\(")
# Where generated C++ names the type that it computes in.
_COMPUTED = re.compile(r"\b(?:VectorizedN?|convert|static_cast)<((?:at::)?\w+)")
_TYPES: Mapping[str, str] = {
    "double": "f64",
    "float": "f32",
    "at::BFloat16": "bf16",
    "at::Half": "f16",
    "at::Float8_e4m3fn": "e4m3fn",
    "at::Float8_e4m3fnuz": "e4m3fnuz",
    "at::Float8_e5m2": "e5m2",
    "at::Float8_e5m2fnuz": "e5m2fnuz",
    "int64_t": "i64",
    "int32_t": "i32",
    "int16_t": "i16",
    "int8_t": "i8",
    "uint8_t": "u8",
    "bool": "bool",
}


def available() -> Availability:
    """Whether what Inductor compiles C++ with is here: a compiler and Python's headers."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        return Availability(
            ok=False,
            reason=f"torch.compile needs a C++ compiler, and there is no '{name}'",
            hint="install g++ (apt-get install g++), or name another compiler in CXX",
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return Availability(
            ok=False,
            reason="torch.compile needs Python.h, which this Python came without",
            hint="install Python's headers (apt-get install python3-dev)",
        )
    return Availability(ok=True, reason=f"torch and {name} are installed")


def properties(config: ModuleType) -> dict[str, str]:
    """Return the switches of `torch._inductor.config` that change arithmetic, and the compiler's version."""
    found = {f"inductor.{name}": said(find(config, name)) for name in _READ_BACK}
    return {**found, "inductor.cxx": _version()}


def _version() -> str:
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    try:
        ran = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (ran.stdout.splitlines() or ["unknown"])[0]


def kernels(source: str) -> tuple[Node, ...]:
    """Return the C++ kernels that a generated program calls, in order.

    One that writes nothing only asserts something of its numbers, and is left out. A kernel's precision
    is the coarsest float type that it reads, computes in or writes; its kind says which wider one it
    computes in.
    """
    defined = {name: (tensors, body) for name, tensors, body in _DEFINED.findall(source)}
    rest = _DEFINED.sub("", source)
    called = [name for name in re.findall(r"^\s+(?:\w+ = )?(\w+)\(", rest, re.MULTILINE) if name in defined]
    return tuple(_node(name, *defined[name]) for name in called if _writes(defined[name][0]))


def borrowed(source: str) -> int:
    """Return how many kernels of a library a generated program calls."""
    return len(_BORROWED.findall(source))


def _pointers(tensors: str) -> list[str]:
    """Return the C++ types of the tensors among a kernel's parameters."""
    parameters = (text.strip().strip("'\"") for text in tensors.split(","))
    return [text.removesuffix("*") for text in parameters if text.endswith("*")]


def _writes(tensors: str) -> list[str]:
    return [text for text in _pointers(tensors) if not text.startswith("const ")]


def _node(name: str, tensors: str, body: str) -> Node:
    kind = f"inductor:{name.rstrip('0123456789').rstrip('_')}"
    pointers = [text.removeprefix("const ") for text in _pointers(tensors)]
    if any(text not in _TYPES for text in pointers):
        return Node(kind=kind, device="cpu", precision="?")
    floats = _floats([*pointers, *_COMPUTED.findall(body)])
    if not floats:
        widest = max((DTYPES[_TYPES[text]] for text in _writes(tensors)), key=lambda d: d.bits)
        return Node(kind=kind, device="cpu", precision=widest.name)
    finest = floats[-1]
    wider = finest not in _floats(pointers)
    return Node(kind=f"{kind} in {finest}" if wider else kind, device="cpu", precision=floats[0])


def _floats(types: Sequence[str]) -> list[str]:
    """Return our names of the float types among C++ ones, coarsest first."""
    names = {_TYPES[text] for text in types if text in _TYPES and DTYPES[_TYPES[text]].is_float}
    return sorted(names, key=lambda name: -DTYPES[name].unit_roundoff)
