from dataclasses import fields, replace

import numpy as np
import pytest

from parity.backend.base import Node, Witness
from parity.case.dtype import DTYPES, decode
from parity.case.tensor import HostTensor
from parity.store import accept, schema
from parity.store.recording import FailureKind, StepRecord, TensorRef
from tests.store import drawn


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


NODE = Node(kind="a", device="hpu:0", precision="bf16")
STEP_CHANGES = {
    "name": ("L01", "'L00.attn.context' there, 'L01' here"),
    "op": ("exp", "'an op of tomorrow' there, 'exp' here"),
    "attrs": ({"dim": 1}, "0 items there, 1 items here"),
    "inputs": ((), "2 items there, 0 items here"),
    "outputs": ((None,), "0 items there, 1 items here"),
    "mutates": (("y",), "0 items there, 1 items here"),
    "replayable": (False, "True there, False here"),
    "witness": (Witness(executed=(NODE,)), "None there, 4 items here"),
    "failure": (None, "2 items there, None here"),
    "repeats": (((),), "0 items there, 1 items here"),
    "seconds": (0.0, "None there, 0.0 here"),
    "bytes": (1, "0 there, 1 here"),
    "flops": (1, "0 there, 1 here"),
    "rank": (1, "0 there, 1 here"),
    "shard": ("0:1/2", "'' there, '0:1/2' here"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(StepRecord)])
def test_every_field_of_a_step_that_differs_is_named(example, name):
    first, second = example.steps
    value, says = STEP_CHANGES[name]
    changed = replace(example, steps=(first, replace(second, **{name: value})))
    assert accept.difference(example, changed) == f"steps[1].{name} is {says}"


REF_CHANGES = {
    "name": ("z", "name is 'e' there, 'z' here"),
    "role": ("weight", "role is 'activation' there, 'weight' here"),
    "dtype": (DTYPES["u8"], "dtype is 'float8_e4m3_gaudi2' there, 'uint8' here"),
    "shape": ((0, 8), "shape[1] is 7 there, 8 here"),
    "stride": ((8, 1), "stride[0] is 7 there, 8 here"),
    "offset": (1, "offset is 0 there, 1 here"),
    "digest": ("sha256:6", None),
}


@pytest.mark.parametrize("name", [field.name for field in fields(TensorRef)])
def test_every_field_of_a_reference_that_differs_is_named_by_its_step(example, name):
    """Steps are written with the numbers of their tensors, which are the same whatever the tensors are."""
    first, second = example.steps
    value, says = REF_CHANGES[name]
    ref = replace(second.inputs[1], **{name: value})
    changed = replace(example, steps=(first, replace(second, inputs=(second.inputs[0], ref))))
    says = says or f"digest is '{second.inputs[1].digest}' there, 'sha256:6' here"
    assert accept.difference(example, changed) == f"steps[1].inputs[1].{says}"


def test_every_other_fact_that_differs_is_named(example):
    (y,), (other, last) = example.results, example.unobserved
    first, second = example.steps
    witness = replace(first.witness, moved=(replace(NODE, kind="copy"),))
    slow = replace(second.failure, kind=FailureKind.TIMED_OUT)
    kept = [t for digest, t in example.tensors.items() if digest != other.digest]
    for changes, says in (
        ({"results": (other,)}, f"results[0].digest is '{y.digest}' there, '{other.digest}' here"),
        ({"unobserved": (other, replace(last, name="l"))}, "unobserved[1].name is 'last' there, 'l' here"),
        (
            {"steps": (replace(first, witness=witness), second)},
            "steps[0].witness.moved[0].kind is 'softmax_fwd' there, 'copy' here",
        ),
        (
            {"steps": (first, replace(second, failure=slow))},
            "steps[1].failure.kind is 'crashed' there, 'timed_out' here",
        ),
        ({"tensors": {t.digest(): t for t in kept}}, "tensors is 5 items there, 4 items here"),
        ({"case": "ops/exp"}, "case is 'engine/prefill:dtype=bf16,tokens=3' there, 'ops/exp' here"),
    ):
        assert accept.difference(example, replace(example, **changes)) == says


def test_of_drawn_recordings_there_is_no_difference_exactly_where_they_are_written_alike():
    made = [drawn.recording(seed % 40) for seed in range(44)]
    written = [schema.encode(recording) for recording in made]
    alike = 0
    for one, one_written in zip(made, written, strict=True):
        for other, other_written in zip(made, written, strict=True):
            assert (accept.difference(one, other) is None) == (one_written == other_written)
            alike += one_written == other_written
    assert 44 < alike < 44 * 44


def test_provenance_of_several_runs_lists_all_values_once():
    once = accept.summed_up({}, {"torch": "2.13.0", "cpu": "a"})
    assert once == {"torch": "2.13.0", "cpu": "a"}
    twice = accept.summed_up(once, {"torch": "2.12.0", "cpu": "a", "mkl": "1"})
    assert twice == {"torch": "2.12.0 | 2.13.0", "cpu": "a", "mkl": "1"}
    assert accept.summed_up(twice, {"torch": "2.13.0"}) == twice
