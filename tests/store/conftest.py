"""Small recordings to store, and the means to forge files whose digest is right all the same."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.backend.base import Node, Witness
from parity.backend.profile import Accumulator, Declared, Profile
from parity.case.case import Case, Step, TensorSpec
from parity.case.dtype import dtype
from parity.case.ids import CaseId
from parity.case.tensor import HostTensor
from parity.store import schema
from parity.store.recording import Environment, Failure, FailureKind, Recording, StepRecord, TensorRef

PROFILE = Profile(
    accumulator=Accumulator(dtype=dtype("f32"), block=4),
    ulps={"exp": 1, "tanh": 2.5},
    declared=(
        Declared(fact="intermediate", ops=("softmax",), dtypes=("bf16",), value="bf16", source="a page"),
    ),
)
ENVIRONMENT = Environment(
    backend="sim/gaudi2:1+lazy",
    setting="strict",
    profile=PROFILE,
    provenance={"torch": "2.13.0", "driver": "1.24 ü"},
)


def host(values, name):
    return HostTensor.of(np.asarray(values, dtype=dtype(name).storage), dtype(name))


def ref_of(name, tensor, role="activation"):
    return TensorRef(
        name=name,
        role=role,
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=tensor.stride,
        offset=tensor.offset,
        digest=tensor.digest(),
    )


@pytest.fixture
def ref():
    return ref_of


@pytest.fixture
def tensor():
    return host


@pytest.fixture
def example():
    """A recording in which every field of the schema says something."""
    x = host(np.arange(12).reshape(3, 4), "f32")
    turned = HostTensor(dtype=x.dtype, storage=x.storage, shape=(4, 3), stride=(1, 4))
    y = host([[0x3F80, 0x7F80, 0xFFC0]], "bf16")
    scalar, empty = host(True, "bool"), host(np.zeros((0, 7)), "e4m3_gaudi2")
    other = host([[0x3F80, 0x7F80, 0xFFC1]], "bf16")
    generated = replace(ref_of("w", host([1, 2, 3], "i8"), role="weight"), offset=5)
    node = Node(kind="softmax_fwd", device="hpu:0", precision="bf16")
    steps = (
        StepRecord(
            name="L00.attn.softmax",
            op="softmax",
            attrs={"dim": -1, "scale": 0.1, "floor": -math.inf, "causal": True, "why": 'a "ü"', "none": None},
            inputs=(ref_of("x", turned, role="input"), None, generated),
            outputs=(ref_of("y", y), ref_of("flag", scalar)),
            mutates=("x",),
            replayable=False,
            witness=Witness(executed=(node, node), moved=(node,), host=(node,), borrowed=2),
            repeats=((ref_of("y", other), ref_of("flag", scalar)), ()),
            seconds=0.25,
            bytes=2**40,
            flops=3,
            rank=1,
            shard="0:2/8",
        ),
        StepRecord(
            name="L00.attn.context",
            op="an op of tomorrow",
            attrs={},
            inputs=(ref_of("y", y), ref_of("e", empty)),
            outputs=(),
            failure=Failure(kind=FailureKind.CRASHED, text="SIGSEGV\n\udcff"),
        ),
    )
    stored = (empty, other, scalar, turned, y)
    return Recording(
        case="engine/prefill:dtype=bf16,tokens=3",
        revision="sha256:" + "5" * 64,
        environment=ENVIRONMENT,
        steps=steps,
        tensors={t.digest(): t for t in stored},
        results=(ref_of("y", y),),
        unobserved=(ref_of("y", other), ref_of("last", scalar)),
    )


@pytest.fixture
def document(example):
    """The example's document, to be changed."""
    return json.loads(schema.encode(example))


@pytest.fixture
def recording_of():
    """A recording of one step for each tensor, whose output it is."""

    def make(*tensors):
        steps = (
            StepRecord(name=f"s{i}", op="cast", attrs={}, inputs=(), outputs=(ref_of("y", t),))
            for i, t in enumerate(tensors)
        )
        return Recording(
            case="ops/cast",
            revision="sha256:" + "0" * 64,
            environment=ENVIRONMENT,
            steps=tuple(steps),
            tensors={t.digest(): t for t in tensors},
        )

    return make


@pytest.fixture
def case():
    """A small case, by test name."""

    def make(path="ops/softmax", *, rows="2", dist="normal"):
        return Case(
            id=CaseId.of(path, {"rows": rows}),
            inputs=(TensorSpec(name="x", dtype=dtype("f32"), shape=(int(rows), 4), dist=dist),),
            steps=(Step(name="softmax", op="softmax", inputs=("x",), outputs=("y",), attrs={"dim": -1}),),
        )

    return make


@pytest.fixture
def record():
    """A recording of a case of one step, whose output is filled with `value`."""

    def make(case, *, value=0.25, backend="cpu/avx2", setting="strict", torch="2.13.0", seconds=None):
        spec = case.inputs[0]
        x = host(np.ones(spec.shape), "f32")
        y = host(np.full(spec.shape, value), "f32")
        step = case.steps[0]
        environment = replace(
            ENVIRONMENT, backend=backend, setting=setting, provenance={"torch": torch, "threads": "1"}
        )
        made = StepRecord(
            name=step.name,
            op=step.op,
            attrs=dict(step.attrs),
            inputs=(ref_of("x", x, role="input"),),
            outputs=(ref_of("y", y),),
            seconds=seconds,
        )
        return Recording(
            case=str(case.id),
            revision=case.revision,
            environment=environment,
            steps=(made,),
            tensors={y.digest(): y},
        )

    return make


@pytest.fixture
def forge():
    """Write any content with the trailer that makes its digest right."""

    def write(path, content):
        fresh(path, content + b"PARITY01" + hashlib.sha256(content).digest())

    return write


def fresh(path, data):
    # A file that is emptied and filled again, ext4 sends to the disk at once.
    path.unlink(missing_ok=True)
    path.write_bytes(data)


@pytest.fixture
def put():
    """Write a file in place of another."""
    return fresh


@pytest.fixture
def anonymous_bytes():
    """What this process holds in memory, the pages of mapped files left out."""

    def measure():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return pytest.skip("this system does not tell mapped files from memory")

    return measure


@pytest.fixture
def buffers():
    """The file offset and size of every Arrow buffer, found as golden/README.md says, without Arrow."""
    return find_buffers


@pytest.fixture
def metadata():
    """The metadata of a file under the key `parity`, found likewise."""
    return find_metadata


def find_buffers(content):
    count, block = _vector(content, _footer(content)[3])
    assert count == 1
    message_at, head_bytes = struct.unpack_from("<qi", content, block)
    message = _table(content, _follow(content, message_at + 8))
    batch = _table(content, _follow(content, message[2]))
    count, at = _vector(content, batch[2])
    body = message_at + head_bytes
    pairs = [struct.unpack_from("<qq", content, at + 16 * i) for i in range(count)]
    return [(body + offset, size) for offset, size in pairs]


def find_metadata(content):
    schema = _table(content, _follow(content, _footer(content)[1]))
    count, at = _vector(content, schema[2])
    assert count == 1
    entry = _table(content, _follow(content, at))
    key, value = (
        content[begin : begin + size] for size, begin in (_vector(content, entry[i]) for i in (0, 1))
    )
    assert key == b"parity"
    return value


def _footer(content):
    assert content[:8] == b"ARROW1\0\0" and content[-6:] == b"ARROW1"
    (size,) = struct.unpack_from("<i", content, len(content) - 10)
    return _table(content, _follow(content, len(content) - 10 - size))


def _follow(content, at):
    return at + struct.unpack_from("<I", content, at)[0]


def _table(content, at):
    """Return where each field of a flatbuffer table lies, by its number."""
    vtable = at - struct.unpack_from("<i", content, at)[0]
    (size,) = struct.unpack_from("<H", content, vtable)
    slots = struct.unpack_from(f"<{(size - 4) // 2}H", content, vtable + 4)
    return {number: at + slot for number, slot in enumerate(slots) if slot}


def _vector(content, at):
    start = _follow(content, at)
    return struct.unpack_from("<I", content, start)[0], start + 4
