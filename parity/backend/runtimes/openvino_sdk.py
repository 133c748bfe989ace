"""The one importer of OpenVINO: export, convert, compile, infer, and read back what ran.

Does not decide what a witness means; `openvino_witness` sorts its nodes.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# OpenVINO's tools send usage data on import and conversion, and ship a stub for where the sender
# is not installed. A test tool keeps quiet.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None bars an import

import numpy as np  # noqa: E402 - after the line above
import openvino as ov  # noqa: E402
import torch  # noqa: E402

from parity.backend.base import Unsupported, Witness  # noqa: E402
from parity.backend.runtimes.openvino_witness import CONVERSIONS, GraphNode, sort  # noqa: E402
from parity.backend.torch_eager import inability  # noqa: E402
from parity.backend.torch_ops import PLAIN_OPS  # noqa: E402
from parity.backend.torch_tensor import torch_dtype  # noqa: E402
from parity.case.case import Step  # noqa: E402
from parity.case.dtype import DTYPES, DType  # noqa: E402
from parity.case.tensor import HostTensor  # noqa: E402

__all__ = ["OpenVino", "last_words"]

_DEVICE = "CPU"
_VERSION = ov.get_version().partition("-")[0]
_TYPES: Mapping[str, ov.Type] = {
    **{
        name: getattr(ov.Type, name)
        for name in ("f64", "f32", "f16", "bf16", "i8", "i16", "i32", "i64", "u8")
    },
    "bool": ov.Type.boolean,
    "e4m3fn": ov.Type.f8e4m3,
    "e5m2": ov.Type.f8e5m2,
}
_NAMES = {str(ov_type): name for name, ov_type in _TYPES.items()}
# The most exact value of every property that changes arithmetic or order of summation; what the
# step asks for decides INFERENCE_PRECISION_HINT.
_STRICT: Mapping[str, object] = {
    "CPU_DENORMALS_OPTIMIZATION": False,
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 1.0,
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_NUM_THREADS": 1,
    "KV_CACHE_PRECISION": "f32",
    "NUM_STREAMS": 1,
}
_READ_ONLY = ("DEVICE_ARCHITECTURE", "FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
_CAPABILITIES: Mapping[str, str] = {"bf16": "BF16", "f16": "FP16"}
# Compiled graphs kept, about 1 MB each: the engine comes back to its sites (44 different ones of a small
# mixture) with every token, and making a graph takes half a second, most of it torch.export's.
_KEPT = 256


class _Graph:
    """A compiled step; `reads` are the indices of the tensors that its inputs take.

    `witness` is what the plugin executes for it, asked for after a run and kept.
    """

    def __init__(self, compiled: ov.CompiledModel, reads: tuple[int, ...]) -> None:
        self.compiled = compiled
        self.reads = reads

    @functools.cached_property
    def witness(self) -> Witness:
        return sort([_node(op) for op in self.compiled.get_runtime_model().get_ordered_ops()], device=_DEVICE)


def _node(op: ov.Node) -> GraphNode:
    info = op.get_rt_info()
    sources = [port.get_source_output() for port in op.inputs()]
    shapes = [source.get_partial_shape() for source in sources]
    return GraphNode(
        layer=_layer(op),
        precision=_text(info["runtimePrecision"]),
        output=_text(info["outputPrecisions"]),
        reads=tuple(_layer(_converted(source.get_node())) for source in sources),
        layers=len(_text(info["originalLayersNames"]).split(",")),
        empty=any(shape.is_static and 0 in shape.to_shape() for shape in shapes),
    )


def _layer(op: ov.Node) -> str:
    return _text(op.get_rt_info()["layerType"])


def _converted(op: ov.Node) -> ov.Node:
    """Return the node whose result this one gives, in another type or layout or as it is."""
    while _layer(op) in CONVERSIONS:
        op = op.input(0).get_source_output().get_node()
    return op


class _Step(torch.nn.Module):
    """One op as a module; `present` says which arguments are tensors, the others are None."""

    def __init__(self, step: Step, present: Sequence[bool]) -> None:
        super().__init__()
        self._op = PLAIN_OPS[step.op]
        self._attrs = dict(step.attrs)
        self._present = tuple(present)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Put the absent arguments back and run the op."""
        rest = iter(tensors)
        return self._op(*(next(rest) if here else None for here in self._present), **self._attrs)


class OpenVino:
    """The CPU plugin with its switches pinned when `strict`; shapes left open when `dynamic`."""

    def __init__(self, *, strict: bool, dynamic: bool) -> None:
        self._core = ov.Core()
        self._strict = strict
        self._dynamic = dynamic
        self._graphs: dict[Any, _Graph] = {}
        self._witness = Witness()
        if strict:
            supported = self._core.get_property(_DEVICE, "SUPPORTED_PROPERTIES")
            self._core.set_property(_DEVICE, {k: v for k, v in _STRICT.items() if k in supported})

    def properties(self) -> dict[str, str]:
        """Return every property of the plugin that can be set, as read back, and what it runs on.

        Whether 16-bit types are computed in comes as a number too, for conditions on provenance.
        """
        found = {"openvino": _VERSION, "openvino.build": ov.get_version()}
        capabilities = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        for name, capability in _CAPABILITIES.items():
            found[f"openvino_{name}"] = str(int(capability in capabilities))
        for name, access in self._core.get_property(_DEVICE, "SUPPORTED_PROPERTIES").items():
            if access == "RW" or name in _READ_ONLY:
                found[f"openvino.{name}"] = _text(self._core.get_property(_DEVICE, name))
        if self._strict:
            found["openvino.INFERENCE_PRECISION_HINT"] = "the step's own"
        return found

    def put(self, tensor: HostTensor) -> ov.Tensor:
        """Copy a host tensor, row-major."""
        if tensor.dtype.name not in _TYPES:
            raise Unsupported(f"OpenVINO {_VERSION} has no element type for {tensor.dtype.tag}")
        there = ov.Tensor(_TYPES[tensor.dtype.name], ov.Shape(list(tensor.shape)))
        _bits(there)[...] = np.ascontiguousarray(tensor.array()).view(_bits(there).dtype)
        return there

    def get(self, handle: ov.Tensor) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        ours = _dtype_of(handle)
        return HostTensor.of(np.array(_bits(handle)).view(ours.storage), ours)

    def run(self, step: Step, inputs: Sequence[ov.Tensor | None]) -> tuple[ov.Tensor, ...]:
        """Infer one step and keep its witness. Raises Unsupported for what no stage can express."""
        self._witness = Witness()
        graph = self._graph(step, inputs)
        request = graph.compiled.create_infer_request()
        present = [t for t in inputs if t is not None]
        for port, index in enumerate(graph.reads):
            request.set_input_tensor(port, present[index])
        request.infer()
        # The plugin may write the next result over this one.
        outputs = tuple(
            _copy(request.get_output_tensor(index)) for index in range(len(graph.compiled.outputs))
        )
        self._witness = graph.witness
        return outputs

    def witness(self) -> Witness:
        """What the latest `run` executed."""
        return self._witness

    def _graph(self, step: Step, inputs: Sequence[ov.Tensor | None]) -> _Graph:
        signature = tuple(None if t is None else (str(t.element_type), tuple(t.shape)) for t in inputs)
        key = (step.op, tuple(sorted(step.attrs.items())), signature)
        if key not in self._graphs:
            while len(self._graphs) >= _KEPT:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = self._compile(step, inputs)
        return self._graphs[key]

    def _compile(self, step: Step, inputs: Sequence[ov.Tensor | None]) -> _Graph:
        if step.op not in PLAIN_OPS:
            raise Unsupported(f"op '{step.op}' has no torch implementation")
        present = [t for t in inputs if t is not None]
        # Tensors of their own: torch.export makes one input of an argument that is given twice.
        examples = tuple(torch.zeros(tuple(t.shape), dtype=torch_dtype(_dtype_of(t))) for t in present)
        with _quiet():
            try:
                # Not strict is the default of newer torch; strict puts Dynamo between us and the export.
                program = torch.export.export(
                    _Step(step, [t is not None for t in inputs]), examples, strict=False
                )
            except Exception as error:
                words = inability(error)
                if words is None:
                    raise
                raise Unsupported(f"torch.export: {words}") from error
            try:
                model = ov.convert_model(program)
            except Exception as error:
                # What torch.export took is a legal program, so whatever stops here is OpenVINO's
                # inability; its exceptions have no common base.
                raise Unsupported(f"OpenVINO: {last_words(str(error))}") from error
        # By name, since conversion drops an input that nothing reads; a port may have more names.
        names = program.graph_signature.user_inputs
        reads = tuple(next(i for i, n in enumerate(names) if n in port.names) for port in model.inputs)
        try:
            if not self._dynamic:
                model.reshape(
                    {port: list(present[i].shape) for port, i in zip(model.inputs, reads, strict=True)}
                )
            compiled = self._core.compile_model(model, _DEVICE, self._hints(present))
        except RuntimeError as error:
            raise Unsupported(f"OpenVINO: {last_words(str(error))}") from error
        return _Graph(compiled, reads)

    def _hints(self, inputs: Sequence[ov.Tensor]) -> dict[str, str]:
        """Return the inference precision that a step asks for: its widest float input's."""
        if not self._strict:
            return {}
        asked = {_dtype_of(t).name for t in inputs}
        capabilities = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        for name, capability in _CAPABILITIES.items():
            # Without the capability the plugin takes another type unasked, bf16 where f16 was.
            if name in asked and not asked & {"f32", "f64"} and capability in capabilities:
                return {"INFERENCE_PRECISION_HINT": name}
        return {"INFERENCE_PRECISION_HINT": "f32"}


def _text(value: Any) -> str:
    plain = value.value if isinstance(value, ov.OVAny) else value
    return plain.to_string() if isinstance(plain, ov.Type) else str(plain)


def _dtype_of(tensor: ov.Tensor) -> DType:
    name = _NAMES.get(str(tensor.element_type))
    if name is None:
        raise Unsupported(f"{tensor.element_type} is not one of parity's dtypes ({', '.join(DTYPES)})")
    return DTYPES[name]


def _bits(tensor: ov.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the memory of a tensor as unsigned integers, so that no NaN is touched."""
    data: np.ndarray[Any, np.dtype[Any]] = tensor.data
    return data.view(f"u{data.dtype.itemsize}")


def _copy(tensor: ov.Tensor) -> ov.Tensor:
    own = ov.Tensor(tensor.element_type, tensor.shape)
    _bits(own)[...] = _bits(tensor)
    return own


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what export and conversion print and warn: their exceptions say what matters."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# Lines that say where in OpenVINO's sources a check failed, not what is wrong.
_NOISE = re.compile(
    r"Exception from |Check '.*' failed at |While validating node |FrontEnd API failed "
    r"|Model wasn't fully converted|Summary:|\s*$"
)


def last_words(text: str) -> str:
    """Return the innermost line of an error of OpenVINO that says what is wrong."""
    lines = [line.strip().removeprefix("-- ") for line in text.splitlines()]
    said = [line for line in lines if not _NOISE.match(line)]
    return (said or lines or ["no reason given"])[-1]
