from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.backend.base import Backend, Witness
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Step
from parity.case.dtype import DType, decode, dtype, encode
from parity.case.op import OPS, Attr
from parity.case.tensor import HostTensor


def _tensor(values: object, name: str) -> HostTensor:
    """A contiguous tensor of values that the dtype can hold, rounded once."""
    to: DType = dtype(name)
    array = np.asarray(values)
    if to.is_float:
        return HostTensor.of(encode(array.astype(np.float64), to).view(to.storage), to)
    return HostTensor.of(array.astype(to.storage), to)


def _values(host: HostTensor) -> np.ndarray:
    """The elements as numpy computes with them: floats in float64."""
    if not host.dtype.is_float:
        return host.array()
    bits = np.ascontiguousarray(host.array()).view(f"u{host.dtype.itemsize}")
    return decode(bits, host.dtype)


@dataclass(frozen=True)
class Ran:
    outputs: tuple[HostTensor, ...]
    witness: Witness

    @property
    def y(self) -> np.ndarray:
        return _values(self.outputs[0])


@dataclass(frozen=True)
class OpCase:
    """One call of an op with its expected outputs; floats are given in the dtype that is asked."""

    op: str
    arguments: list[Any]
    attrs: dict[str, Attr]
    outputs: list[np.ndarray]

    def inputs(self, floats: str) -> list[HostTensor | None]:
        named = [None if a is None else (a[0], floats if a[1] == "f64" else a[1]) for a in self.arguments]
        return [None if a is None else _tensor(*a) for a in named]


_EXPECTED = {
    op: cases
    for name in (
        "expected.py",
        "expected_decoder.py",
        "expected_function.py",
        "expected_fused.py",
        "expected_indexing.py",
        "expected_product.py",
    )
    for op, cases in runpy.run_path(str(Path(__file__).with_name(name)))["EXPECTED"].items()
}
_OP_CASES = {
    f"{op}-{number}": OpCase(op, *case)
    for op, cases in _EXPECTED.items()
    for number, case in enumerate(cases)
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "op_case" in metafunc.fixturenames:
        metafunc.parametrize("op_case", list(_OP_CASES.values()), ids=list(_OP_CASES))


def _run(backend: Backend, op: str, inputs: list[HostTensor | None], **attrs: Attr) -> Ran:
    """Run one op on an open backend and bring everything back."""
    names = tuple(None if x is None else f"i{n}" for n, x in enumerate(inputs))
    outputs = tuple(f"y{number}" for number in range(len(OPS[op].outputs)))
    step = Step(name="s", op=op, inputs=names, outputs=outputs, attrs=attrs)
    results = backend.run(step, [None if x is None else backend.put(x) for x in inputs])
    backend.synchronize()
    return Ran(tuple(backend.get(handle) for handle in results), backend.witness())


def _opened(text: str, setting: Setting = Setting.STRICT) -> Backend:
    backend = create(BackendSpec.parse(text), setting)
    backend.open()
    return backend


@pytest.fixture(autouse=True)
def _switches_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends.mkldnn, "fp32_precision"):  # since torch 2.9
        for group in (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn):
            group.fp32_precision = "none"
    if hasattr(torch._C, "_set_cpu_allow_fp16_reduced_precision_reduction"):
        torch._C._set_cpu_allow_fp16_reduced_precision_reduction(False)


# Helpers come as fixtures: a test file cannot import its conftest under importlib mode.
@pytest.fixture
def cpu() -> Backend:
    return _opened("cpu")


@pytest.fixture
def tensor() -> Callable[..., HostTensor]:
    return _tensor


@pytest.fixture
def op_cases() -> list[OpCase]:
    return list(_OP_CASES.values())


@pytest.fixture(scope="session")
def openvino() -> Backend:
    return _opened("openvino")


@pytest.fixture
def values() -> Callable[[HostTensor], np.ndarray]:
    return _values


@pytest.fixture
def run() -> Callable[..., Ran]:
    return _run


@pytest.fixture
def opened() -> Callable[..., Backend]:
    return _opened
