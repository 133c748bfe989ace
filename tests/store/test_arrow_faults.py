"""Files that a reader must refuse: damaged ones, and forged ones whose digest is right all the same."""

import hashlib
import json
import random
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from parity.errors import GoldenError
from parity.store import arrow, schema

TRAILER = 40
AGAIN = "Record the case again, or copy the file again from where it was recorded"
WRITTEN_SO = "The digest is right, so it was written this way: record the case again"
NO_DIGEST = "does not end in a digest: it was cut short, or is no recording, or is a golden without its manifest"


def refusal(path, digest=None):
    with pytest.raises(GoldenError) as caught:
        arrow.read(path, digest=digest)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.arrow"


@pytest.fixture
def whole(example, path):
    arrow.write(example, path)
    return path.read_bytes()


@pytest.fixture
def content(whole):
    return whole[:-TRAILER]


def test_a_file_cut_short_anywhere_is_refused(path, whole):
    for length in [len(whole) * part // 16 for part in range(16)] + [len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert refusal(path) == f"{path}: {NO_DIGEST}. {AGAIN}"


def test_a_golden_cut_short_anywhere_is_refused(path, content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    for length in [len(content) * part // 16 for part in range(16)] + [len(content) - 1]:
        path.write_bytes(content[:length])
        found = hashlib.sha256(content[:length]).hexdigest()
        assert refusal(path, digest) == (
            f"{path}: is damaged: its content has sha256:{found}, but it is listed with {digest}. "
            f"Restore it: git checkout -- {path}"
        )


def test_one_flipped_bit_in_any_byte_is_refused(path, whole):
    draw = random.Random(0)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        text = refusal(path)
        if len(whole) - TRAILER <= at < len(whole) - 32:
            assert text == f"{path}: {NO_DIGEST}. {AGAIN}"
        else:
            assert text.startswith(f"{path}: is damaged: its content has sha256:")
            assert text.endswith(AGAIN)


def test_the_digest_of_a_manifest_governs_even_when_the_trailer_is_right(path, whole, content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    found = hashlib.sha256(whole).hexdigest()
    assert refusal(path, digest) == (
        f"{path}: is damaged: its content has sha256:{found}, but it is listed with {digest}. "
        f"Restore it: git checkout -- {path}"
    )


def test_what_is_no_file_at_all_is_refused(tmp_path):
    assert refusal(tmp_path / "a") == f"{tmp_path / 'a'}: is not there. {AGAIN}"
    assert refusal(tmp_path / "a", "sha256:1") == (
        f"{tmp_path / 'a'}: is not there. Restore it: git checkout -- {tmp_path / 'a'}"
    )
    assert refusal(tmp_path) == f"{tmp_path}: is not a file. {AGAIN}"
    (tmp_path / "text").touch()
    assert refusal(tmp_path / "text" / "a") == f"{tmp_path / 'text' / 'a'}: cannot be read: Not a directory. {AGAIN}"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").startswith(f"{tmp_path / 'loop'}: cannot be read: ")


@pytest.mark.parametrize("text", [b"", b"\0", b"schema = 1\n" * 100, b"PARITY01" + bytes(31)])
def test_what_is_no_recording_is_refused(path, text):
    path.write_bytes(text)
    assert refusal(path) == f"{path}: {NO_DIGEST}. {AGAIN}"


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"", "File is too small: 0"),
        (b"schema = 1\n" * 100, "Not an Arrow file"),
        (b"ARROW1\0\0" + bytes(100) + b"ARROW1", "File is smaller than indicated metadata size"),
    ],
)
def test_what_is_not_arrow_is_refused_though_its_digest_is_right(path, forge, text, reason):
    forge(path, text)
    said = refusal(path)
    assert said.startswith(f"{path}: Arrow cannot read it: ") and said.endswith(WRITTEN_SO)


def swapped(content, old, new, *, times=2):
    """Replace text in place: the metadata stands in the file twice."""
    assert len(old) == len(new) and content.count(old) == times
    return content.replace(old, new)


def test_a_row_that_is_not_there_is_refused(path, content, forge):
    forge(path, swapped(content, b'"row":4', b'"row":5'))
    assert refusal(path) == (
        f"{path}: field 'steps[1].inputs[1]' names row 5, but there are 5. {WRITTEN_SO}"
    )


def test_a_row_of_another_tensor_is_refused(path, content, forge, example):
    forge(path, swapped(content, b'"row":4', b'"row":1'))
    x, y, flag, other, empty = schema.stored(example)
    assert refusal(path) == (
        f"{path}: field 'steps[1].inputs[1]' is e4m3_gaudi2[0, 7] with digest {empty}, "
        f"but row 1 declares bf16[1, 3] with digest {y}. {WRITTEN_SO}"
    )


def test_a_row_that_no_step_names_is_refused(path, content, forge):
    shorter = swapped(content, b'"an op of tomorrow"', b'"a op of the day"  ')
    forge(path, swapped(shorter, b'"row":4', b'"row":4').replace(b'"row":4}', b'"row":4}'))
    moved = content.replace(b'"an op of tomorrow"', b'"op of tomorro"').replace(b'"row":4', b'"row":null')
    assert len(moved) == len(content) - 4
    forge(path, content.replace(b'"an op of tomorrow"', b'"op of tomorrow"').replace(b'"row":4', b'"row":null'))
    assert refusal(path) == f"{path}: row 4 is named by no step. {WRITTEN_SO}"


def test_another_schema_version_is_named(path, content, forge):
    forge(path, swapped(content, b'"schema":1', b'"schema":2'))
    assert refusal(path) == (
        f"{path}: schema version 2, but this parity reads 1: "
        "record the case again, or use the parity that wrote the file"
    )


def test_another_dtype_is_refused(path, content, forge):
    forge(path, swapped(content, b"float32bfloat16bool", b"float23bfloat16bool", times=1))
    assert refusal(path) == (
        f"{path}: row 0 is of dtype 'float23', which this parity does not know. {WRITTEN_SO}"
    )


def test_a_tensor_that_is_not_its_digest_is_refused(path, content, forge, buffers, example):
    at = buffers(content)[-1][0]
    damaged = bytearray(content)
    damaged[at + 5] ^= 1
    forge(path, bytes(damaged))
    text = refusal(path)
    assert text.startswith(f"{path}: row 0 says digest {schema.stored(example)[0]}, but its bytes have sha256:")
    assert text.endswith(WRITTEN_SO)


def test_padding_that_hides_something_is_refused(path, content, forge, buffers):
    at = buffers(content)[-1][0]
    damaged = bytearray(content)
    damaged[at + 48] = 7
    forge(path, bytes(damaged))
    assert refusal(path) == f"{path}: row 0 is padded with something else than zeros. {WRITTEN_SO}"


def put(content, at, value):
    damaged = bytearray(content)
    struct.pack_into("<q", damaged, at, value)
    return bytes(damaged)


def shape_values(content, buffers):
    """Return where the numbers of all shapes lie: the buffer before those of the data."""
    return buffers(content)[-4][0]


@pytest.mark.parametrize("huge", [2**60, 2**62, 2**63 - 1])
def test_a_huge_shape_is_refused_by_arithmetic(path, content, forge, buffers, huge):
    damaged = put(content, shape_values(content, buffers), huge)
    forge(path, swapped(damaged, b'"shape":[4,3]', b'"shape":[4,3]'))
    forge(path, damaged.replace(b'"shape":[4,3]', f'"shape":[{huge},3]'.encode()[:13].ljust(13)))
