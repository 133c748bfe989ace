import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from parity.errors import GoldenError
from parity.store import schema
from tests.store import drawn

NUMBERED = ("steps", "tensors", "witnesses", "nodes")
# What a field says that is not written. No two of one name mean another thing.
USUAL = {
    "results": [],
    "unobserved": [],
    # of a step
    "witness": None,
    "mutates": [],
    "replayable": True,
    "failure": None,
    "repeats": [],
    "seconds": None,
    "bytes": 0,
    "flops": 0,
    "rank": 0,
    "shard": "",
    # of a tensor
    "row": None,
    "stride": None,
    "offset": 0,
    # of a witness
    "executed": [],
    "moved": [],
    "host": [],
    "borrowed": 0,
}
DRAWS = 300
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


def test_a_recording_comes_back_as_it_was(example):
    recording, placed = schema.decode(schema.encode(example), file=FILE)
    assert recording == replace(example, tensors={})
    assert [(place.field, place.ref.name, place.row) for place in placed] == [
        ("tensors[0]", "x", 0),
        ("tensors[2]", "y", 1),
        ("tensors[3]", "flag", 2),
        ("tensors[4]", "y", 3),
        ("tensors[5]", "e", 4),
        ("tensors[6]", "last", 2),
    ]


def test_what_steps_share_is_written_once_and_named_by_number(document):
    first, second = document["steps"]
    assert [ref["name"] for ref in document["tensors"]] == ["x", "w", "y", "flag", "y", "e", "last"]
    assert (first["inputs"], first["outputs"], first["repeats"]) == ([0, None, 1], [2, 3], [[4, 3], []])
    assert (second["inputs"], second["outputs"]) == ([2, 5], [])
    assert (document["results"], document["unobserved"]) == ([2], [4, 6])
    assert document["nodes"] == [{"kind": "softmax_fwd", "device": "hpu:0", "precision": "bf16"}]
    assert document["witnesses"] == [{"executed": [0, 0], "moved": [0], "host": [0], "borrowed": 2}]
    assert first["witness"] == 0 and "witness" not in second


def test_what_is_as_usual_is_not_written(document, recording_of, tensor):
    assert [name for name in USUAL if name in document["steps"][1]] == ["failure"]
    plain = json.loads(schema.encode(recording_of(tensor([[1, 2]], "i8"))))
    assert list(plain) == [*("schema", "case", "revision", "environment"), *NUMBERED]
    assert [list(step) for step in plain["steps"]] == [["name", "op", "attrs", "inputs", "outputs"]]
    assert [list(ref) for ref in plain["tensors"]] == [["name", "role", "dtype", "shape", "digest", "row"]]
    assert (plain["witnesses"], plain["nodes"]) == ([], [])


def test_every_drawn_recording_comes_back_as_it_was():
    for seed in range(DRAWS):
        recording = drawn.recording(seed)
        document = schema.encode(recording)
        found, _ = schema.decode(document, file=FILE)
        # Its text tells 1 from 1.0 and true, and finds NaN the same.
        assert repr(found) == repr(replace(recording, tensors={})), seed
        assert schema.encode(replace(found, tensors=recording.tensors)) == document, seed


def test_drawn_recordings_hold_everything_that_a_recording_can():
    """Every field is written in some of them and left out in others, and what can be shared is."""
    documents = [json.loads(schema.encode(drawn.recording(seed))) for seed in range(DRAWS)]
    seen = Counter()
    for records in (
        documents,
        [step for document in documents for step in document["steps"]],
        [ref for document in documents for ref in document["tensors"]],
        [witness for document in documents for witness in document["witnesses"]],
    ):
        written = Counter(name for record in records for name in record if name in USUAL)
        assert all(5 < count < len(records) - 5 for count in written.values()), written
        seen |= written
    assert seen.keys() == USUAL.keys()
    named = [sum(len(step["inputs"] + step["outputs"]) for step in each["steps"]) for each in documents]
    assert sum(n > len(each["tensors"]) for n, each in zip(named, documents, strict=True)) > 100


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


@pytest.mark.parametrize(
    "version, shown",
    [(1, "1"), (3, "3"), ("2", "'2'"), (2.0, "2.0"), (True, "True"), (None, "None"), (0, "0")],
)
def test_another_schema_version_is_named(document, version, shown):
    document["schema"] = version
    assert refusal(document) == (
        f"runs/a.arrow: schema version {shown}, but this parity reads 2: "
        "record the case again, or use the parity that wrote the file"
    )


def test_a_document_without_a_version_is_named(document):
    del document["schema"]
    assert refusal(document) == (
        "runs/a.arrow: schema version none, but this parity reads 2: "
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


def fields(document):
    """Yield the address of every field whose name is ours."""
    for path in paths(document):
        if path not in {(), ("schema",)} and not isinstance(path[-1], int) and path[:-1] not in FREE:
            yield path


def test_every_missing_field_is_named(document):
    checked = 0
    for path in fields(document):
        if path[-1] in USUAL:
            continue
        broken = json.loads(json.dumps(document))
        del at(broken, path[:-1])[path[-1]]
        assert refusal(broken) == f"{FILE}: field '{named(path)}' is missing. {AGAIN}"
        checked += 1
    assert checked == 74


def outcome(document):
    """What is made of a document: the recording and where its tensors lie, or why it is refused."""
    try:
        return repr(schema.decode(json.dumps(document).encode(), file=FILE))
    except GoldenError as error:
        return str(error)


def test_a_field_that_is_left_out_says_what_is_usual(document):
    """Or is refused alike, where nothing else names what it did."""
    checked, unused = 0, []
    whole = outcome(document)
    for path in fields(document):
        if path[-1] not in USUAL:
            continue
        left_out, usual = (json.loads(json.dumps(document)) for _ in range(2))
        del at(left_out, path[:-1])[path[-1]]
        at(usual, path[:-1])[path[-1]] = USUAL[path[-1]]
        assert outcome(left_out) == outcome(usual) != whole, path
        checked += 1
        if outcome(usual).startswith(f"{FILE}: "):
            unused.append(named(path))
    assert checked == 24
    assert unused == ["steps[0].witness", "unobserved"]


def test_every_unknown_field_is_named(document):
    checked = 0
    for path in paths(document):
        if not isinstance(at(document, path), dict) or path in FREE:
            continue
        broken = json.loads(json.dumps(document))
        at(broken, path)["colour"] = "red"
        assert refusal(broken) == f"{FILE}: field '{named((*path, 'colour'))}' is unknown. {AGAIN}"
        checked += 1
    assert checked == 18


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
    assert checked == 426


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
            ("tensors", 2, "role"),
            "output",
            "field 'tensors[2].role' must be one of 'input', 'weight', 'activation', got 'output'",
        ),
        (
            ("tensors", 2, "dtype"),
            "bf16",
            "field 'tensors[2].dtype' must be an exact dtype tag such as 'bfloat16', got 'bf16'",
        ),
        (
            ("tensors", 2, "dtype"),
            "float4",
            "field 'tensors[2].dtype' must be a dtype that this parity knows, got 'float4'",
        ),
        (
            ("tensors", 0, "shape"),
            [3],
            "field 'tensors[0].stride' must be as long as the shape, 1, got [1, 4]",
        ),
        (
            ("tensors", 0, "stride"),
            [1],
            "field 'tensors[0].stride' must be as long as the shape, 2, got [1]",
        ),
        (
            ("tensors", 0, "stride", 1),
            -4,
            "field 'tensors[0].stride[1]' must be an integer >= 0, got -4",
        ),
        (("tensors", 1, "offset"), True, "field 'tensors[1].offset' must be an integer >= 0, got True"),
        (("tensors", 2, "row"), False, "field 'tensors[2].row' must be an integer >= 0, got False"),
        (
            ("tensors", 2, "shape"),
            [1] * 33,
            "field 'tensors[2].shape' must be at most 32 integers, got [1, 1, 1, 1, 1, 1, ...]",
        ),
        (
            ("tensors", 2, "row"),
            -1,
            "field 'tensors[2].row' must be an integer >= 0, got -1",
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
        (b'{"schema":2,"tensors":[{"row":0,"row":1}]}', "a name occurs twice in one object"),
        (b'{"schema":NaN}', "NaN is not JSON"),
        (b'{"schema":2,"steps":[{"seconds":NaN}]}', "NaN is not JSON"),
        (b'{"schema":2,"steps":[{"seconds":-Infinity}]}', "-Infinity is not JSON"),
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
