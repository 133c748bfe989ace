"""Weights are read bit for bit from the file that has the digest, and from no other."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from parity.case.builtin import builtin_cases
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


def case(digest, *, tensor="w", kind="bf16", shape=(2, 3), **more):
    spec = TensorSpec(
        name="w",
        dtype=dtype(kind),
        shape=shape,
        dist="checkpoint",
        role=Role.WEIGHT,
        options={"file": "m.safetensors", "digest": digest, "tensor": tensor, **more},
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
    models = builtin_cases() / "models"
    assert f"is not here (looked in {tmp_path / 'absent'}, {tmp_path}, {models})" in refused(case(digest))
    monkeypatch.delenv(FOLDERS)
    where = f"(looked in {models}). Copy the file and name its folder in PARITY_WEIGHTS"
    assert where in refused(case(digest))


def test_a_model_that_ships_with_the_cases_is_found_without_a_variable(monkeypatch):
    monkeypatch.delenv(FOLDERS, raising=False)
    name = "tiny-llama/model.safetensors"
    digest = file_digest(builtin_cases() / "models" / name)
    options = {"file": name, "digest": digest, "tensor": "model.norm.weight"}
    spec = TensorSpec(name="w", dtype=dtype("bf16"), shape=(192,), dist="checkpoint", options=options)
    step = Step(name="exp", op="exp", inputs=("w",), outputs=("y",))
    made = generate(Case(id=CaseId.parse("layers/one"), inputs=(spec,), steps=(step,)))["w"]
    assert made.array().size == 192


def test_weights_in_another_type_are_those_of_the_file_rounded_once(good):
    made = generate(case(file_digest(good), kind="f16", stored="bf16"))["w"].array()
    # A NaN, what is below the smallest f16 and what is not representable in f16 or is.
    assert made.view("u2").tolist() == [[0x3C00, 0x7E00, 0], [0x8000, 0x7C00, 0x4248]]
    wide = generate(case(file_digest(good), kind="f32", stored="bf16"))["w"].array()
    assert wide.view("u4")[1, 2] == 0x40490000


def test_weights_of_another_stored_type_than_declared_are_refused(good):
    text = "tensor 'w' is bf16[2, 3], but the case declares f16[2, 3]"
    assert text in refused(case(file_digest(good), kind="f32", stored="f16"))


def test_integers_are_not_rounded(weights):
    path = weights(container({"w": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8))
    with pytest.raises(UsageError, match=r"^dist 'checkpoint' rounds floats to floats, not i64 to f32$"):
        generate(case(file_digest(path), kind="f32", shape=(1,), stored="i64"))


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
