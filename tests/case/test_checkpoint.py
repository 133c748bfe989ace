"""Weights are read bit for bit from the file that has the digest, and from no other."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from parity.case.case import Case, Role, Step, TensorSpec
from parity.case.checkpoint import FOLDERS, file_digest
from parity.case.dtype import dtype
from parity.case.ids import CaseId
from parity.case.inputs import generate
from parity.errors import GoldenError, UsageError

CODES = np.array([[0x3F80, 0xFFC1, 0x0001], [0x8000, 0x7F80, 0x4049]], dtype="<u2")  # a NaN and a subnormal


def container(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Write a file that the environment leads to; returns its path."""
    monkeypatch.setenv(FOLDERS, f"{tmp_path / 'absent'}{os.pathsep}{tmp_path}")

    def written(content):
        path = tmp_path / "m.safetensors"
        path.write_bytes(content)
        return path

    return written


@pytest.fixture
def good(weights):
    entry = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [2, 14]}
    return weights(container({"__metadata__": {"format": "pt"}, "w": entry}, b"\0\0" + CODES.tobytes()))


def case(digest, *, tensor="w", kind="bf16", shape=(2, 3)):
    spec = TensorSpec(
        name="w",
        dtype=dtype(kind),
        shape=shape,
        dist="checkpoint",
        role=Role.WEIGHT,
        options={"file": "m.safetensors", "digest": digest, "tensor": tensor},
    )
    step = Step(name="exp", op="exp", inputs=("w",), outputs=("y",))
    return Case(id=CaseId.parse("layers/one"), inputs=(spec,), steps=(step,))


def refused(one):
    with pytest.raises(GoldenError) as caught:
        generate(one)
    return str(caught.value)


def test_elements_are_those_of_the_file_bit_for_bit(good):
    made = generate(case(file_digest(good)))["w"]
    assert made.array().tolist() == CODES.tolist()


def test_a_file_that_changed_is_other_weights(good):
    digest = file_digest(good)
    good.write_bytes(good.read_bytes()[:-1] + b"\x7f")
    assert f"tensor 'w' of weights 'm.safetensors' with {digest}: other weights are here: {good}" in refused(
        case(digest)
    )


def test_a_file_that_is_nowhere_says_where_it_was_looked_for(good, tmp_path, monkeypatch):
    digest = file_digest(good)
    good.unlink()
    assert f"is not here (looked in {tmp_path / 'absent'}, {tmp_path})" in refused(case(digest))
    monkeypatch.delenv(FOLDERS)
    assert "(looked in nowhere). Copy the file and name its folder in PARITY_WEIGHTS" in refused(case(digest))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"tensor": "v"}, "has no tensor 'v'"),
        ({"tensor": "__metadata__"}, "is ?None, but the case declares bf16[2, 3]"),
        ({"kind": "f16"}, "tensor 'w' is bf16[2, 3], but the case declares f16[2, 3]"),
        ({"shape": (3, 2)}, "tensor 'w' is bf16[2, 3], but the case declares bf16[3, 2]"),
    ],
)
def test_a_tensor_that_is_not_the_declared_one_is_refused(good, change, says):
    assert says in refused(case(file_digest(good), **change))


@pytest.mark.parametrize("offsets", [[2, 99], [-2, 10], [9, 3], "all", None, [2, 12], [2, 13]])
def test_offsets_that_do_not_hold_the_tensor_are_refused(weights, offsets):
    entry = {"dtype": "BF16", "shape": [2, 3], "data_offsets": offsets}
    path = weights(container({"w": entry}, CODES.tobytes()))
    assert str(path) in refused(case(file_digest(path)))


@pytest.mark.parametrize(
    "content", [b"", b"\x05", b"\xff" * 40, (4).to_bytes(8, "little") + b"nope", container([1], b"")]
)
def test_a_file_of_another_format_is_refused(weights, content):
    path = weights(content)
    assert "is no safetensors file" in refused(case(file_digest(path)))


def test_the_three_options_are_required():
    with pytest.raises(UsageError, match="needs option 'digest'"):
        generate(
            Case(
                id=CaseId.parse("layers/one"),
                inputs=(
                    TensorSpec(
                        name="w",
                        dtype=dtype("f32"),
                        shape=(1,),
                        dist="checkpoint",
                        options={"file": "m", "tensor": "w"},
                    ),
                ),
                steps=(Step(name="exp", op="exp", inputs=("w",), outputs=("y",)),),
            )
        )
