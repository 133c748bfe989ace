"""The one importer of onnx and ONNX Runtime: build a model of one step, run it, read what ran.

How a step is written is `onnx_ops`' affair, what a witness means `onnxruntime_witness`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as states

from parity.backend.base import Unsupported, Witness
from parity.backend.runtimes.onnx_graph import CONTRIB, OPSET, Argument, Attribute, Graph, GraphNode
from parity.backend.runtimes.onnx_ops import ONNX_OPS
from parity.backend.runtimes.onnxruntime_witness import Kernel, sort
from parity.case.case import Step
from parity.case.dtype import DTYPES, DType
from parity.case.tensor import HostTensor

__all__ = ["OnnxRuntime", "last_words"]

_PROVIDER = "CPUExecutionProvider"
_TYPES: Mapping[str, int] = {
    "f64": TensorProto.DOUBLE,
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "e4m3fn": TensorProto.FLOAT8E4M3FN,
    "e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "e5m2": TensorProto.FLOAT8E5M2,
    "e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "i64": TensorProto.INT64,
    "i32": TensorProto.INT32,
    "i16": TensorProto.INT16,
    "i8": TensorProto.INT8,
    "u8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
_NAMES = {code: name for name, code in _TYPES.items()}
# Every session switch that changes arithmetic or order, at its most exact value; what the keys mean is
# in onnxruntime_session_options_config_keys.h.
_STRICT: Mapping[str, str] = {
    "mlas.enable_gemm_fastmath_arm64_bfloat16": "0",
    "optimization.enable_gelu_approximation": "0",
    "session.set_denormal_as_zero": "0",
    "session.x64quantprecision": "1",
}
_OPTIONS = (
    "enable_mem_pattern",
    "execution_mode",
    "graph_optimization_level",
    "inter_op_num_threads",
    "intra_op_num_threads",
    "use_deterministic_compute",
)
# How the runtime says that it has no kernel or no rule for the types of a legal graph.
_INABILITY = (states.NotImplemented, states.InvalidGraph)
# Kernels that look at types and sizes only as they run say it in words, as does a runtime that is older
# than an opset.
_WORDS = re.compile(
    r"data type is not supported|not implemented|sequence length must be greater than 0"
    r"|Opset \d+ is under development|max supported IR version",
    re.IGNORECASE,
)
_PLACE = re.compile(r"^/\S+:\d+ .*?\) ")  # file, line and function
_FATAL = 4  # messages below this severity are not printed: exceptions say what matters
_KEPT = 256  # sessions: the engine comes back to its sites with every token


class _Session:
    """A compiled step; its witness is what the runtime's profile of the first run names."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.names = [port.name for port in session.get_inputs()]
        self.results = [port.name for port in session.get_outputs()]
        self.witness: Witness | None = None


class OnnxRuntime:
    """The CPU provider; under `strict` one thread, no rewriting of the graph, switches pinned."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._sessions: dict[Any, _Session] = {}
        self._witness = Witness()
        # A folder of this process's own: the runtime names a profile by the second and its thousandth.
        self._profiles = Path(tempfile.mkdtemp(prefix="parity-onnxruntime-"))
        weakref.finalize(self, shutil.rmtree, self._profiles, ignore_errors=True)
        self._compiled = 0

    def properties(self) -> dict[str, str]:
        """Return versions, providers and every option of a session as read back."""
        options = self._options("")
        found = {name: str(getattr(options, name)) for name in _OPTIONS}
        for key in _STRICT:
            try:
                found[key] = options.get_session_config_entry(key)
            except RuntimeError:  # never set in this session
                found[key] = "default"
        return {
            "onnxruntime": ort.__version__,
            "onnx": onnx.__version__,
            "onnxruntime.opset": str(OPSET),
            "onnxruntime.providers": ",".join(ort.get_available_providers()),
            **{f"onnxruntime.{name}": text for name, text in found.items()},
        }

    def put(self, tensor: HostTensor) -> ort.OrtValue:
        """Copy a host tensor into memory of the runtime, row-major."""
        code = _TYPES.get(tensor.dtype.name)
        if code is None:
            raise Unsupported(f"ONNX has no element type for {tensor.dtype.tag}")
        value = ort.OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), code, "cpu")
        _memory(value)[...] = tensor.contiguous().storage.view(np.uint8)
        return value

    def get(self, handle: ort.OrtValue) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        of = _dtype_of(handle)
        array = _memory(handle).copy().view(of.storage)
        return HostTensor.of(array.reshape(handle.shape()), of)

    def run(self, step: Step, inputs: Sequence[ort.OrtValue | None]) -> tuple[ort.OrtValue, ...]:
        """Compile one step for these shapes, unless that was done before, and run it."""
        self._witness = Witness()
        made = self._session(step, inputs)
        fed = {name: value for name, value in _named(inputs) if name in made.names}
        with _supported():
            outputs = made.session.run_with_ort_values(made.results, fed)
        if made.witness is None:
            made.witness = sort(_executed(made.session), asked=_PROVIDER)
        self._witness = made.witness
        return tuple(outputs)

    def witness(self) -> Witness:
        """Every kernel that ran for the latest `run`, or for the first with its shapes."""
        return self._witness

    def _session(self, step: Step, inputs: Sequence[ort.OrtValue | None]) -> _Session:
        signature = tuple(None if t is None else (t.element_type(), *t.shape()) for t in inputs)
        key = (step.op, tuple(sorted(step.attrs.items())), signature)
        if key not in self._sessions:
            while len(self._sessions) >= _KEPT:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[key] = self._compile(step, inputs)
        return self._sessions[key]

    def _compile(self, step: Step, inputs: Sequence[ort.OrtValue | None]) -> _Session:
        if step.op not in ONNX_OPS:
            raise Unsupported(f"op '{step.op}' is not written in ONNX")
        arguments = {name: Argument(name, _dtype_of(t), tuple(t.shape())) for name, t in _named(inputs)}
        graph = Graph()
        given = [arguments.get(f"x{i}") for i in range(len(inputs))]
        made = ONNX_OPS[step.op](graph, *given, **step.attrs)
        model = _model(graph, list(arguments.values()), made if isinstance(made, tuple) else (made,))
        self._compiled += 1
        profile = self._profiles / str(self._compiled)
        with _supported():
            return _Session(ort.InferenceSession(model, self._options(str(profile)), providers=[_PROVIDER]))

    def _options(self, profile: str) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        if self._strict:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.use_deterministic_compute = True
            for key, value in _STRICT.items():
                options.add_session_config_entry(key, value)
        return options


@contextlib.contextmanager
def _supported() -> Iterator[None]:
    """Turn the runtime's ways to say that it cannot do a legal graph into Unsupported."""
    try:
        yield
    except _INABILITY as error:
        raise Unsupported(f"ONNX Runtime: {last_words(str(error))}") from error
    except (states.RuntimeException, states.Fail) as error:
        if not _WORDS.search(str(error)):
            raise
        raise Unsupported(f"ONNX Runtime: {last_words(str(error))}") from error


def _named(inputs: Sequence[ort.OrtValue | None]) -> list[tuple[str, ort.OrtValue]]:
    return [(f"x{i}", value) for i, value in enumerate(inputs) if value is not None]


def _dtype_of(value: ort.OrtValue) -> DType:
    name = _NAMES.get(value.element_type())
    if name is None:
        raise Unsupported(f"{value.data_type()} is not one of parity's dtypes ({', '.join(DTYPES)})")
    return DTYPES[name]


def _memory(value: ort.OrtValue) -> npt.NDArray[np.uint8]:
    """Return the bytes of a tensor in the host's memory, to read and to write."""
    size = math.prod(value.shape()) * _dtype_of(value).itemsize
    if not size:
        return np.empty(0, np.uint8)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(value.data_ptr()), np.uint8)


def _model(graph: Graph, arguments: Sequence[Argument], results: Sequence[Any]) -> bytes:
    """Serialize a model; types of results are left to the runtime's own inference."""
    names = [graph("Identity", r) if isinstance(r, Argument) else r for r in results]
    proto = helper.make_graph(
        [_node(node) for node in graph.nodes],
        "step",
        [helper.make_tensor_value_info(a.name, _TYPES[a.dtype.name], a.shape) for a in arguments],
        [helper.make_empty_tensor_value_info(name) for name in names],
        [_tensor(name, value) for name, value in graph.constants.items()],
    )
    if graph.opset > onnx.defs.onnx_opset_version():
        raise Unsupported(f"onnx {onnx.__version__} does not know opset {graph.opset}")
    opsets = [helper.make_opsetid("", graph.opset), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(
        proto, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets[:1])
    )
    serialized: bytes = model.SerializeToString()
    return serialized


def _node(node: GraphNode) -> onnx.NodeProto:
    attrs = {name: _attribute(value) for name, value in node.attrs.items()}
    return helper.make_node(node.op, node.inputs, node.outputs, domain=node.domain, **attrs)


def _attribute(value: Attribute) -> Any:
    if isinstance(value, DType):
        if value.name not in _TYPES:
            raise Unsupported(f"ONNX has no element type for {value.tag}")
        return _TYPES[value.name]
    if isinstance(value, HostTensor):
        return _tensor("", value)
    return value if isinstance(value, (int, float, str)) else list(value)


def _tensor(name: str, value: HostTensor) -> onnx.TensorProto:
    raw = value.storage.tobytes()
    return helper.make_tensor(name, _TYPES[value.dtype.name], value.shape, raw, raw=True)


def _executed(session: ort.InferenceSession) -> list[Kernel]:
    """End a session's profile and return the kernels that it names."""
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return [_kernel(event["args"]) for event in events if event.get("cat") == "Node"]


def _kernel(args: Mapping[str, Any]) -> Kernel:
    def types(port: str) -> tuple[str, ...]:
        return tuple(name for each in args.get(port, ()) for name in each)

    return Kernel(
        op=args["op_name"],
        provider=args.get("provider", ""),
        reads=types("input_type_shape"),
        writes=types("output_type_shape"),
    )


def last_words(text: str) -> str:
    """Return what an error of ONNX Runtime says, without its code and the place in its sources."""
    first = (text.strip().splitlines() or ["no reason given"])[0]
    words = first.split(" : ", 3)[-1] if first.startswith("[ONNXRuntimeError]") else first
    words = _PLACE.sub("", words.rpartition("Status Message: ")[2])
    return (words.partition(" was false. ")[2] or words).strip()
