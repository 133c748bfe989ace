"""Recordings drawn at random, in which steps share tensors and witnesses as those of a real run do."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from parity.backend.base import Node, Witness
from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES, dtype
from parity.case.tensor import HostTensor
from parity.store.recording import Environment, Failure, FailureKind, Recording, StepRecord, TensorRef

ENVIRONMENT = Environment(
    backend="cpu/avx2",
    setting="strict",
    profile=Profile(accumulator=Accumulator(dtype=dtype("f32"))),
    provenance={"torch": "2.13.0"},
)
SHAPES = ((), (0,), (3,), (2, 3), (1, 1), (2, 0, 4), (1,) * 32)
ATTRS = (0, 1, 1.0, -0.0, True, False, None, "", "1", "ü\n", float("inf"), float("-inf"), float("nan"), 2**70)


def recording(seed: int) -> Recording:
    """Draw a recording of up to six steps; the same one for a seed on every machine."""
    draw = random.Random(seed)
    tensors = [_tensor(draw) for _ in range(draw.randrange(1, 8))]
    refs = [_ref(draw, tensor) for tensor in draw.choices(tensors, k=8)]
    witnesses = [_witness(draw) for _ in range(2)]
    steps = tuple(_step(draw, refs, witnesses) for _ in range(draw.randrange(7)))
    made = Recording(
        case="ops/cast:seed=1",
        revision="sha256:" + "7" * 64,
        environment=ENVIRONMENT,
        steps=steps,
        results=_some(draw, refs),
        unobserved=_some(draw, refs),
    )
    return replace(made, tensors=_kept(draw, made, tensors))


def _tensor(draw: random.Random) -> HostTensor:
    element, shape = DTYPES[draw.choice(sorted(DTYPES))], draw.choice(SHAPES)
    codes = np.frombuffer(draw.randbytes(element.itemsize * int(np.prod(shape))), np.uint8)
    codes = codes & 1 if element.name == "bool" else codes
    return HostTensor.of(codes.view(element.storage).reshape(shape), element)


def _ref(draw: random.Random, tensor: HostTensor) -> TensorRef:
    turned = draw.random() < 0.3
    return TensorRef(
        name=draw.choice("xyz"),
        role=draw.choice(("input", "weight", "activation")),
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=tensor.stride[::-1] if turned else tensor.stride,
        offset=draw.choice((0, 0, 5)),
        digest=tensor.digest(),
    )


def _witness(draw: random.Random) -> Witness:
    nodes = [Node(kind=kind, device="cpu", precision="f32") for kind in "abc"]
    executed, moved, host = (tuple(draw.choices(nodes, k=draw.randrange(3))) for _ in range(3))
    return Witness(executed=executed, moved=moved, host=host, borrowed=draw.choice((0, 2)))


def _step(draw: random.Random, refs: list[TensorRef], witnesses: list[Witness]) -> StepRecord:
    failure = Failure(kind=draw.choice(list(FailureKind)), text=draw.choice(("", "a\udcff")))
    return StepRecord(
        name=draw.choice(("L00.a", "L00.b", "")),
        op=draw.choice(("cast", "an op of tomorrow")),
        attrs={name: draw.choice(ATTRS) for name in sorted(draw.sample("abcd", draw.randrange(4)))},
        inputs=tuple(draw.choice((None, *refs)) for _ in range(draw.randrange(4))),
        outputs=_some(draw, refs),
        mutates=tuple(draw.choices("xyz", k=draw.randrange(3))),
        replayable=draw.random() < 0.5,
        witness=draw.choice((None, *witnesses)),
        failure=draw.choice((None, failure)),
        repeats=tuple(_some(draw, refs) for _ in range(draw.randrange(3))),
        seconds=draw.choice((None, 0.0, 0.25, 1e-9)),
        bytes=draw.choice((0, 1, 2**40)),
        flops=draw.choice((0, 3)),
        rank=draw.choice((0, 7)),
        shard=draw.choice(("", "0:2/8")),
    )


def _some(draw: random.Random, refs: list[TensorRef]) -> tuple[TensorRef, ...]:
    return tuple(draw.choices(refs, k=draw.randrange(3)))


def _kept(draw: random.Random, made: Recording, tensors: list[HostTensor]) -> dict[str, HostTensor]:
    """Draw which of the named tensors are stored."""
    named = {ref.digest for step in made.steps for ref in (*step.inputs, *step.outputs) if ref is not None}
    return {t.digest(): t for t in tensors if t.digest() in named and draw.random() < 0.7}
