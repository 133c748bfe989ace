"""Tensors from plain numbers, and the judge asked about one step; helpers come as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from parity.backend.base import Node, Witness
from parity.backend.profile import Accumulator, Declared, Profile
from parity.case.case import Case, Step, TensorSpec
from parity.case.dtype import DTYPES, decode, encode
from parity.case.ids import CaseId
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.judge.compare import compare
from parity.judge.oracle import answers
from parity.store.recording import Environment, Recording, StepRecord, TensorRef

PLAIN = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))
ON_CPU = Witness(executed=(Node(kind="aten::cumsum", device="cpu", precision="f32"),))


def _tensor(values: object, name: str) -> HostTensor:
    """Contiguous, each number rounded once to the dtype."""
    to, array = DTYPES[name], np.asarray(values)
    if to.is_float:
        return HostTensor.of(encode(array.astype(np.float64), to).view(to.storage), to)
    return HostTensor.of(array.astype(to.storage), to)


def _bits(codes: object, name: str) -> HostTensor:
    to = DTYPES[name]
    return HostTensor.of(np.asarray(codes, dtype=f"u{to.itemsize}").view(to.storage), to)


def _values(host: HostTensor) -> np.ndarray:
    if not host.dtype.is_float:
        return np.array(host.array())
    return decode(np.array(host.array()).view(f"u{host.dtype.itemsize}"), host.dtype)


def _declaring(fact: str, op: str, dtype: str, value: str = "", **profile: object) -> Profile:
    declared = (Declared(fact=fact, ops=(op,), dtypes=(dtype,), value=value, source="a test"),)
    return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), declared=declared, **profile)


def _expected(op: str, *inputs: HostTensor | None, profile: Profile = PLAIN, **attrs: object) -> tuple:
    """What the outputs of one step may be, under the first reading."""
    return next(iter(answers(op, inputs, attrs, profile))).expected


def _judged(op: str, inputs: list, outputs: list, *, profile: Profile = PLAIN, **attrs: object) -> list:
    """One judgement an output."""
    expected = _expected(op, *inputs, profile=profile, **attrs)
    names = tuple(f"y{i}" for i in range(len(outputs)))
    return list(compare(tuple(outputs), names, expected))


@pytest.fixture
def tensor() -> Callable[..., HostTensor]:
    return _tensor


@pytest.fixture
def bits() -> Callable[..., HostTensor]:
    return _bits


@pytest.fixture
def values() -> Callable[[HostTensor], np.ndarray]:
    return _values


@pytest.fixture
def plain() -> Profile:
    return PLAIN


@pytest.fixture
def declaring() -> Callable[..., Profile]:
    return _declaring


@pytest.fixture
def expected() -> Callable[..., tuple]:
    return _expected


@pytest.fixture
def judged() -> Callable[..., list]:
    return _judged


@pytest.fixture
def verdict(judged) -> Callable[..., str]:
    """The verdict of the only output of a step, as it is spelled."""

    def ask(op: str, inputs: list, output: HostTensor, **options: object) -> str:
        return judged(op, inputs, [output], **options)[0].verdict.value

    return ask


@pytest.fixture
def case() -> Case:
    """Two steps: a running sum, and one of its rows."""
    x = TensorSpec(name="x", dtype=DTYPES["f32"], shape=(4, 8))
    total = Step(name="total", op="cumsum", inputs=("x",), outputs=("y",), attrs={"dim": -1})
    row = Step(name="row", op="slice", inputs=("y",), outputs=("z",), attrs={"index": "x[1]"})
    return Case(id=CaseId.parse("test/two"), inputs=(x,), steps=(total, row))


def _ref(name: str, tensor: HostTensor) -> TensorRef:
    return TensorRef(
        name=name,
        role="activation",
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=tensor.stride,
        offset=0,
        digest=tensor.digest(),
    )


def _recorded(case: Case, *, witness: Witness | None = ON_CPU, profile: Profile = PLAIN) -> Recording:
    """A right recording of the case above."""
    x = generate(case)["x"]
    y = HostTensor.of(np.cumsum(x.array(), -1, dtype=np.float32), x.dtype)
    z = HostTensor.of(np.array(y.array()[1]), x.dtype)
    steps = tuple(
        StepRecord(
            name=step.name,
            op=step.op,
            attrs=step.attrs,
            inputs=(_ref(step.inputs[0], given),),
            outputs=(_ref(step.outputs[0], made),),
            witness=witness,
            seconds=0.5,
        )
        for step, given, made in zip(case.steps, (x, y), (y, z), strict=True)
    )
    environment = Environment(backend="cpu", setting="strict", profile=profile, provenance={})
    return Recording(
        case=str(case.id),
        revision=case.revision,
        environment=environment,
        steps=steps,
        tensors={t.digest(): t for t in (y, z)},
    )


@pytest.fixture
def recorded() -> Callable[..., Recording]:
    return _recorded


@pytest.fixture
def ref() -> Callable[[str, HostTensor], TensorRef]:
    return _ref
