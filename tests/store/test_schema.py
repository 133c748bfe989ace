import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from parity.errors import GoldenError
from parity.store import schema

FILE = Path("runs/a.arrow")
AGAIN = "The digest is right, so it was written this way: record the case again"


PROFILE = "{'accumulator': {...}, 'declared': [...], 'flush_subnormals': False, 'ulps': {...}}"


def decoded(document):
    return schema.decode(json.dumps(document).encode(), file=FILE)[0]


def refusal(document):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(GoldenError) as caught:
        schema.decode(text, file=FILE)
    return str(caught.value)


@pytest.fixture
def document(example):
    return json.loads(schema.encode(example))


def test_a_recording_comes_back_as_it_was(example):
    recording, placed = schema.decode(schema.encode(example), file=FILE)
    assert recording == replace(example, tensors={})
    assert [(place.field, place.ref.name, place.row) for place in placed] == [
        ("steps[0].inputs[0]", "x", 0),
        ("steps[0].outputs[0]", "y", 1),
        ("steps[0].outputs[1]", "flag", 2),
        ("steps[0].repeats[0][0]", "y", 3),
        ("steps[0].repeats[0][1]", "flag", 2),
        ("steps[1].inputs[0]", "y", 1),
        ("steps[1].inputs[1]", "e", 4),
    ]


def test_attributes_keep_their_exact_types(document):
    attrs = {"i": 1, "f": 1.0, "b": True, "s": "1", "n": None, "z": -0.0, "inf": {"float": "inf"}}
    document["steps"][0]["attrs"] = attrs | {"nan": {"float": "nan"}}
    found = dict(decoded(document).steps[0].attrs)
    assert math.isnan(found.pop("nan"))
    assert repr(found) == "{'i': 1, 'f': 1.0, 'b': True, 's': '1', 'n': None, 'z': -0.0, 'inf': inf}"


def test_neither_the_order_of_tensors_nor_of_names_changes_the_document(example):
    provenance = dict(reversed(example.environment.provenance.items()))
    first, *others = example.steps
    turned = replace(
        example,
        steps=(replace(first, attrs=dict(reversed(first.attrs.items()))), *others),
        tensors=dict(reversed(example.tensors.items())),
        environment=replace(example.environment, provenance=provenance),
    )
    assert schema.encode(turned) == schema.encode(example)


def test_a_tensor_that_no_step_names_is_refused(example, tensor):
    stray = tensor([9], "i8")
    with pytest.raises(ValueError, match="no step names") as caught:
        schema.encode(replace(example, tensors={**example.tensors, stray.digest(): stray}))
    assert str(caught.value) == f"recording of {example.case}: no step names tensor {stray.digest()}"


@pytest.mark.parametrize("version, shown", [(2, "2"), ("1", "'1'"), (True, "True"), (None, "None"), (0, "0")])
def test_another_schema_version_is_named(document, version, shown):
    document["schema"] = version
    assert refusal(document) == (
        f"runs/a.arrow: schema version {shown}, but this parity reads 1: "
        "record the case again, or use the parity that wrote the file"
    )


def test_a_document_without_a_version_is_named(document):
    del document["schema"]
    assert refusal(document) == (
        "runs/a.arrow: schema version none, but this parity reads 1: "
        "record the case again, or use the parity that wrote the file"
    )


def paths(value, above=()):
    """Yield the address of every value in a document."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*above, key))


def at(document, path):
    for key in path:
        document = document[key]
    return document


# Objects whose names are anybody's.
FREE = {
    ("environment", "provenance"),
    ("environment", "profile", "ulps"),
    ("steps", 0, "attrs"),
    ("steps", 1, "attrs"),
}


def named(path):
    return re.sub(r"^\.", "", "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path))


def test_every_missing_field_is_named(document):
    checked = 0
    for path in paths(document):
        if path in {(), ("schema",)} or isinstance(path[-1], int) or path[:-1] in FREE:
            continue
        broken = json.loads(json.dumps(document))
        del at(broken, path[:-1])[path[-1]]
        assert refusal(broken) == f"{FILE}: field '{named(path)}' is missing. {AGAIN}"
        checked += 1
    assert checked == 129


def test_every_unknown_field_is_named(document):
    checked = 0
    for path in paths(document):
        if not isinstance(at(document, path), dict) or path in FREE:
            continue
        broken = json.loads(json.dumps(document))
        at(broken, path)["colour"] = "red"
        assert refusal(broken) == f"{FILE}: field '{named((*path, 'colour'))}' is unknown. {AGAIN}"
        checked += 1
    assert checked == 22


def test_every_value_of_another_type_is_refused_by_name(document):
    checked = 0
    for path in paths(document):
        if not path or path == ("schema",) or path[:-1] in FREE:
            continue
        for wrong in ([[[]]], {"colour": []}, -1.5):
            broken = json.loads(json.dumps(document))
            at(broken, path[:-1])[path[-1]] = wrong
            text = refusal(broken)
            assert text.startswith(f"{FILE}: field '{named(path[:3])}") and text.endswith(AGAIN)
            checked += 1
    assert checked > 500


@pytest.mark.parametrize(
    "path, value, says",
    [
        (("case",), "../../etc", "field 'case' must be a case id, got '../../etc'"),
        (
            ("revision",),
            "sha256:12",
            "field 'revision' must be 'sha256:' and 64 hexadecimal digits, got 'sha256:12'",
        ),
        (("environment", "backend"), "CUDA", "field 'environment.backend' must be a backend, got 'CUDA'"),
        (
            ("environment", "setting"),
            "lax",
            "field 'environment.setting' must be one of 'strict', 'production', got 'lax'",
        ),
        (
            ("environment", "profile", "flush_subnormals"),
            "no",
            "field 'environment.profile.flush_subnormals' must be true or false, got 'no'",
        ),
        (
            ("environment", "profile", "declared", 0, "source"),
            "",
            f"field 'environment.profile' must be a profile, got {PROFILE}",
        ),
        (("steps", 0, "bytes"), True, "field 'steps[0].bytes' must be an integer >= 0, got True"),
        (("steps", 0, "bytes"), 1.0, "field 'steps[0].bytes' must be an integer >= 0, got 1.0"),
        (("steps", 0, "seconds"), -0.5, "field 'steps[0].seconds' must be a finite number >= 0, got -0.5"),
        (
            ("steps", 1, "failure", "kind"),
            "slept",
            (
                "field 'steps[1].failure.kind' must be one of 'crashed', 'timed_out', 'exceeds', "
                "'unsupported', got 'slept'"
            ),
        ),
        (
            ("steps", 0, "attrs", "floor", "float"),
            "1.5",
            "field 'steps[0].attrs.floor' must be one of 'inf', '-inf', 'nan', got {'float': '1.5'}",
        ),
        (
            ("steps", 0, "outputs", 0, "role"),
            "output",
            "field 'steps[0].outputs[0].role' must be one of 'input', 'weight', 'activation', got 'output'",
        ),
        (
            ("steps", 0, "outputs", 0, "dtype"),
            "bf16",
            "field 'steps[0].outputs[0].dtype' must be an exact dtype tag such as 'bfloat16', got 'bf16'",
        ),
        (
            ("steps", 0, "outputs", 0, "dtype"),
            "float4",
            "field 'steps[0].outputs[0].dtype' must be a dtype that this parity knows, got 'float4'",
        ),
        (
            ("steps", 0, "outputs", 0, "shape"),
            [3],
            "field 'steps[0].outputs[0].stride' must be as long as the shape, 1, got [3, 1]",
        ),
        (
            ("steps", 0, "outputs", 0, "shape"),
            [1] * 33,
            "field 'steps[0].outputs[0].shape' must be at most 32 integers, got [1, 1, 1, 1, 1, 1, ...]",
        ),
        (
            ("steps", 0, "outputs", 0, "row"),
            -1,
            "field 'steps[0].outputs[0].row' must be an integer >= 0, got -1",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused(document, path, value, says):
    at(document, path[:-1])[path[-1]] = value
    assert refusal(document) == f"{FILE}: {says}. {AGAIN}"


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"schema":1,"schema":1}', "a name occurs twice in one object"),
        (b'{"schema":NaN}', "NaN is not JSON"),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"schema":' + b"9" * 5000 + b"}", None),
    ],
)
def test_what_is_not_json_is_refused(text, reason):
    said = refusal(text)
    assert said.startswith(f"{FILE}: the metadata is not JSON: {reason or ''}") and said.endswith(AGAIN)


@pytest.mark.parametrize("text, shown", [(b"[]", "[]"), (b"1", "1"), (b'"a"', "'a'")])
def test_json_that_is_no_object_is_refused(text, shown):
    assert refusal(text) == f"{FILE}: the document must be an object, got {shown}. {AGAIN}"
