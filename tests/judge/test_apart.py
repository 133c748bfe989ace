from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.apart import apart
from parity.store.recording import Environment, Recording, StepRecord, TensorRef

F32 = DTYPES["f32"]


def recording(values: list[float], *, name: str = "y") -> Recording:
    tensor = HostTensor.of(np.array(values, np.float32), F32)
    ref = TensorRef(
        name=name,
        role="activation",
        dtype=F32,
        shape=tensor.shape,
        stride=tensor.stride,
        offset=0,
        digest=tensor.digest(),
    )
    return Recording(
        case="ops/exp:x=1",
        revision="sha256:0",
        environment=Environment(
            backend="cpu",
            setting="strict",
            profile=Profile(accumulator=Accumulator(dtype=F32)),
            provenance={},
        ),
        steps=(StepRecord(name="exp", op="exp", attrs={}, inputs=(), outputs=(ref,)),),
        tensors={tensor.digest(): tensor},
    )


def test_the_distance_is_that_of_the_elements_that_are_finite_on_both_sides() -> None:
    (found,) = apart(recording([3.0, 4.0, np.inf, 1.0]), recording([3.0, 4.5, np.inf, np.nan]))
    assert (found.step, found.output, found.elements, found.unequal) == ("exp", "y", 4, 2)
    assert found.largest == 0.5
    assert found.relative_l2 == pytest.approx(0.5 / 5.0)


def test_equal_sides_are_no_distance_apart() -> None:
    (found,) = apart(recording([1.0, -0.0]), recording([1.0, 0.0]))
    assert (found.unequal, found.largest, found.relative_l2) == (0, 0.0, 0.0)


def test_outputs_of_another_shape_have_no_distance() -> None:
    assert apart(recording([1.0]), recording([1.0, 2.0])) == ()


def test_a_step_that_one_side_lacks_has_no_distance() -> None:
    lacking = dataclasses.replace(recording([1.0]), steps=())
    assert apart(lacking, recording([1.0])) == ()
    assert apart(recording([1.0]), lacking) == ()
