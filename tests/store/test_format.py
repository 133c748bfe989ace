"""The format that golden/README.md describes, read by its rules alone: no pyarrow, none of our code.

`data/example.arrow` is the README's example. It is never written again: that it can still be read
is the promise that goldens rely on.
"""

import hashlib
import itertools
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from parity.backend.base import Node, Witness
from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES, dtype
from parity.store import arrow, schema
from parity.store.recording import Environment, Recording, StepRecord
from tests.store.test_schema import USUAL

EXAMPLE = Path(__file__).parent / "data" / "example.arrow"
README = Path(__file__).parents[2] / "golden" / "README.md"


@pytest.fixture
def recording(tensor, ref):
    """What the README says the example holds."""
    x = tensor([[0x0000, 0x3F80, 0x4000], [0x4040, 0x4080, 0x40A0]], "bf16")
    y = tensor([[0x3DB8, 0x3E7A, 0x3F2A], [0x3DB8, 0x3E7A, 0x3F2A]], "bf16")
    best = tensor([[2], [2]], "i64")
    softmax = StepRecord(
        name="softmax",
        op="softmax",
        attrs={"dim": -1},
        inputs=(ref("x", x, role="input"),),
        outputs=(ref("y", y),),
        witness=Witness(executed=(Node(kind="aten::_softmax", device="cpu", precision="bf16"),)),
        bytes=24,
        flops=30,
    )
    argmax = StepRecord(
        name="argmax",
        op="argmax",
        attrs={"dim": -1, "keepdim": True},
        inputs=(ref("y", y),),
        outputs=(ref("best", best),),
    )
    environment = Environment(
        backend="cpu/avx2",
        setting="strict",
        profile=Profile(accumulator=Accumulator(dtype=dtype("f32"))),
        provenance={"torch": "2.13.0"},
    )
    return Recording(
        case="ops/softmax:dtype=bf16",
        revision="sha256:" + "0" * 64,
        environment=environment,
        steps=(softmax, argmax),
        tensors={y.digest(): y, best.digest(): best},
    )


@pytest.fixture
def content():
    data = EXAMPLE.read_bytes()
    assert data[-40:-32] == b"PARITY01" and data[-32:] == hashlib.sha256(data[:-40]).digest()
    return data[:-40]


def test_the_example_can_still_be_read(recording):
    found = arrow.read(EXAMPLE)
    assert schema.encode(found) == schema.encode(recording)
    assert {d: t.array().tolist() for d, t in found.tensors.items()} == {
        d: t.array().tolist() for d, t in recording.tensors.items()
    }


def test_the_writer_still_writes_what_the_example_holds(recording, content, tmp_path, buffers, metadata):
    """All but Arrow's own framing, which is another in another pyarrow."""
    arrow.write(recording, tmp_path / "a")
    written = (tmp_path / "a").read_bytes()[:-40]
    assert metadata(written) == metadata(content)
    for mine, golden in zip(buffers(written), buffers(content), strict=True):
        assert written[mine[0] :][: mine[1]] == content[golden[0] :][: golden[1]]


def test_every_byte_that_the_readme_shows_is_in_the_example():
    lines = re.findall(
        r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} )+)", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    data = EXAMPLE.read_bytes()
    assert len(lines) == 17
    for offset, shown in lines:
        at = int(offset, 16)
        assert data[at:].startswith(bytes.fromhex(shown)), offset


def test_the_document_that_the_readme_shows_is_that_of_the_example(content, metadata):
    (shown,) = re.findall(r"```json\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    document = metadata(content)
    at = 0
    for line in shown.splitlines():
        assert document.find(line.encode(), at) >= at, line
        at = document.index(line.encode(), at) + len(line)
    assert document[at:] == b" " * 24 and len(document) == 1_127 + 24


def test_a_reader_of_the_rules_alone_finds_the_tensors(content, buffers, metadata):
    document = json.loads(metadata(content))
    digests, tags, shapes, data = columns(content, buffers)
    found = {}
    for number in itertools.chain.from_iterable(step["outputs"] for step in document["steps"]):
        ref = document["tensors"][number]
        row = ref["row"]
        assert (ref["digest"], ref["dtype"], ref["shape"]) == (digests[row], tags[row], shapes[row])
        begin, end = data[row]
        kind = {"bfloat16": "<u2", "int64": "<i8"}[ref["dtype"]]
        size = int(np.prod(ref["shape"])) * np.dtype(kind).itemsize
        assert begin % 64 == 0 and end - begin == -(-size // 64) * 64
        assert content[begin + size : end] == bytes(end - begin - size)
        head = f"{ref['dtype']}{ref['shape']}".encode()
        digest = hashlib.sha256(head + content[begin : begin + size]).hexdigest()
        assert ref["digest"] == f"sha256:{digest}"
        found[ref["name"]] = np.frombuffer(content, kind, size // np.dtype(kind).itemsize, begin).tolist()
    assert found == {"y": [0x3DB8, 0x3E7A, 0x3F2A] * 2, "best": [2, 2]}


def columns(content, buffers):
    """Return the columns; of `data`, where each row begins and ends in the file."""
    spans = buffers(content)
    digest_ends, digests, tag_ends, tags = spans[1], spans[2], spans[4], spans[5]
    shape_ends, sizes, data_ends, data = spans[7], spans[9], spans[11], spans[12]

    def ints(span, form):
        return [value for (value,) in struct.iter_unpack(form, content[span[0] : span[0] + span[1]])]

    def cut(ends, values):
        return [values[begin:end] for begin, end in itertools.pairwise(ends)]

    def texts(ends, span):
        return cut(ints(ends, "<i"), content[span[0] : span[0] + span[1]].decode())

    offsets = [data[0] + offset for offset in ints(data_ends, "<q")]
    return (
        texts(digest_ends, digests),
        texts(tag_ends, tags),
        cut(ints(shape_ends, "<i"), ints(sizes, "<q")),
        list(itertools.pairwise(offsets)),
    )


def test_the_reader_in_the_readme_runs(capsys, monkeypatch):
    monkeypatch.chdir(README.parents[1])
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == (
        "softmax y bfloat16 [2, 3] b83d7a3e2a3fb83d\nargmax best int64 [2, 1] 0200000000000000\n"
    )


def names(value):
    """Yield the names of all objects in a document but those of the profile, which is not of this format."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key
        yield from () if key in {"attrs", "profile", "provenance"} else names(inner)
    for inner in value if isinstance(value, list) else ():
        yield from names(inner)


def test_every_dtype_and_every_field_is_in_the_readme(document):
    text = README.read_text(encoding="utf-8")
    shown = {*names(document), *(d.tag for d in DTYPES.values())}
    assert {"steps", "unobserved", "witness", "shard", "stride", "borrowed", "precision", "text"} <= shown
    assert [name for name in sorted(shown) if f"`{name}`" not in text] == []


def test_every_usual_value_is_in_the_readme():
    """A row of its tables names fields and what they say where they are not written."""
    tables = (
        README.read_text(encoding="utf-8").partition("What steps share")[2].partition("Same recording,")[0]
    )
    shown = {}
    for fields, value in re.findall(r"^\| (`.*?) \| (.*?) ?\| .* \|$", tables, re.MULTILINE):
        shown |= dict.fromkeys(re.findall(r"`(\w+)`", fields), value.strip("`"))
    usual = {name: json.dumps(value) for name, value in USUAL.items()} | {"stride": "row-major"}
    assert {name: value for name, value in shown.items() if value} == usual
