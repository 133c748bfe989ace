from dataclasses import replace

import numpy as np
import pytest

from parity.case.dtype import DTYPES, decode
from parity.case.tensor import HostTensor
from parity.store import accept


@pytest.mark.parametrize(
    "name", [name for name, element in DTYPES.items() if element.is_float and element.bits <= 16]
)
def test_every_code_that_is_infinite_or_nan_counts_as_non_finite(name, recording_of):
    element = DTYPES[name]
    codes = np.arange(2**element.bits, dtype=f"u{element.itemsize}")
    recording = recording_of(HostTensor.of(codes.view(element.storage), element))
    found = accept.entry(recording, digest="", set_number=1, date="", reason="", producer="")
    assert found.non_finite == np.count_nonzero(~np.isfinite(decode(codes, element)))
    assert found.elements == 2**element.bits


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_infinities_and_nans_of_wide_floats_count_as_non_finite(name, recording_of, tensor):
    made = tensor([1, -0.0, np.inf, -np.inf, np.nan, np.finfo(DTYPES[name].storage).max], name)
    found = accept.entry(recording_of(made), digest="", set_number=1, date="", reason="", producer="")
    assert (found.non_finite, found.elements, found.steps) == (3, 6, 1)


def test_integers_are_finite(recording_of, tensor):
    recording = recording_of(tensor([-1, 127], "i8"), tensor([255], "u8"), tensor([True], "bool"))
    assert accept.entry(recording, digest="", set_number=1, date="", reason="", producer="").non_finite == 0


def test_durations_are_dropped_and_nothing_else(example):
    found = accept.timeless(example)
    assert [step.seconds for step in found.steps] == [None, None]
    assert accept.difference(example, found) == "steps[0].seconds is 0.25 there, None here"


def test_values_that_differ_are_named_before_circumstances(example):
    environment = replace(example.environment, setting="production")
    assert accept.difference(example, replace(example, environment=environment)) == (
        "environment.setting is 'strict' there, 'production' here"
    )
    other = replace(example, environment=environment, steps=example.steps[:1], tensors={})
    assert accept.difference(example, other) == "steps is 2 items there, 1 items here"
    attrs = dict(example.steps[0].attrs) | {"causal": 1}
    other = replace(
        example, environment=environment, steps=(replace(example.steps[0], attrs=attrs), example.steps[1])
    )
    assert accept.difference(example, other) == "steps[0].attrs.causal is True there, 1 here"
    assert accept.difference(example, replace(other, revision="sha256:6")).startswith("revision is ")
    assert accept.difference(example, example) is None


def test_provenance_of_several_runs_lists_all_values_once():
    once = accept.summed_up({}, {"torch": "2.13.0", "cpu": "a"})
    assert once == {"torch": "2.13.0", "cpu": "a"}
    twice = accept.summed_up(once, {"torch": "2.12.0", "cpu": "a", "mkl": "1"})
    assert twice == {"torch": "2.12.0 | 2.13.0", "cpu": "a", "mkl": "1"}
    assert accept.summed_up(twice, {"torch": "2.13.0"}) == twice
