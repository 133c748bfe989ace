import gc
import hashlib
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.store import arrow, rows, schema
from parity.store.recording import Failure, FailureKind, StepRecord
from tests.store import drawn

TRAILER = 40


def same(one, other):
    """Whether two recordings say the same and hold the same bits."""
    bits = [{d: t.array().tobytes() for d, t in side.tensors.items()} for side in (one, other)]
    return schema.encode(one) == schema.encode(other) and bits[0] == bits[1]


@pytest.fixture
def written(example, tmp_path):
    path = tmp_path / "a.arrow"
    arrow.write(example, path)
    return path


@pytest.fixture
def content(written):
    return written.read_bytes()[:-TRAILER]


def test_a_recording_comes_back_bit_for_bit(example, written):
    found = arrow.read(written)
    assert same(found, example)
    assert replace(found, tensors={}) == replace(example, tensors={})
    assert list(found.tensors) == schema.stored(example)


def test_every_drawn_recording_comes_back_bit_for_bit(tmp_path):
    for seed in range(100):
        recording = drawn.recording(seed)
        arrow.write(recording, tmp_path / "a")
        assert same(arrow.read(tmp_path / "a"), recording), seed


def test_every_dtype_keeps_every_bit_pattern(tmp_path, recording_of):
    made = []
    for name, element in DTYPES.items():
        bits = np.arange(256, dtype=np.uint8).repeat(element.itemsize)
        values = (bits & 1).view(np.bool_) if name == "bool" else bits.view(element.storage)
        made.append(HostTensor.of(values.reshape(2, -1), element))
    recording = recording_of(*made)
    arrow.write(recording, tmp_path / "a")
    found = arrow.read(tmp_path / "a")
    assert same(found, recording)
    assert [t.dtype.name for t in found.tensors.values()] == list(DTYPES)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0), (2, 3, 5), (1,) * 32])
def test_every_shape_comes_back(tmp_path, recording_of, tensor, shape):
    made = tensor(np.ones(shape), "f32")
    arrow.write(recording_of(made, tensor([7], "i64")), tmp_path / "a")
    found = arrow.read(tmp_path / "a").tensors[made.digest()]
    assert (found.shape, found.array().tobytes()) == (shape, made.array().tobytes())


def test_a_recording_without_tensors_comes_back(tmp_path, recording_of):
    failed = StepRecord(
        name="s",
        op="cast",
        attrs={},
        inputs=(),
        outputs=(),
        failure=Failure(kind=FailureKind.TIMED_OUT, text=""),
    )
    for steps in ((failed,), ()):
        recording = replace(recording_of(), steps=steps)
        arrow.write(recording, tmp_path / "a")
        assert arrow.read(tmp_path / "a") == recording


def test_every_tensor_begins_at_a_multiple_of_64_bytes(tmp_path, recording_of, tensor, buffers):
    for count in range(1, 12):
        made = [tensor(range(n + 1), "i16") for n in range(count)]
        arrow.write(recording_of(*made), tmp_path / "a")
        content = (tmp_path / "a").read_bytes()[:-TRAILER]
        (at, size) = buffers(content)[-1]
        assert at % 64 == 0 and size == 64 * count
        for i, one in enumerate(made):
            assert content[at + 64 * i :].startswith(one.storage.tobytes() + bytes(64 - one.nbytes))


def test_another_buffer_as_long_as_the_data_is_not_taken_for_it(tmp_path, recording_of, tensor):
    """Seven rows have 8 offsets of 8 bytes, and 64 bytes of data in all."""
    empty = [tensor(np.zeros((0, n)), "f32") for n in range(6)]
    recording = recording_of(*empty, tensor(range(8), "f64"))
    arrow.write(recording, tmp_path / "a")
    assert same(arrow.read(tmp_path / "a"), recording)


def test_equal_recordings_give_equal_bytes(example, written):
    turned = replace(example, tensors=dict(reversed(example.tensors.items())))
    first = written.read_bytes()
    arrow.write(turned, written)
    assert written.read_bytes() == first


def test_the_digest_returned_is_that_of_the_file_without_a_trailer(example, written, content, tmp_path):
    accepted = tmp_path / "b" / "accepted.arrow"
    digest = arrow.write(example, accepted, trailer=False)
    assert accepted.read_bytes() == content
    assert digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert written.read_bytes() == content + b"PARITY01" + hashlib.sha256(content).digest()
    assert same(arrow.read(accepted, digest=digest), example)


def open_files():
    return sorted(path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


def test_tensors_are_read_only_views_of_the_file_and_outlive_it(example, written):
    before = open_files()
    found = arrow.read(written)
    assert open_files() == before
    written.unlink()
    gc.collect()
    for tensor in found.tensors.values():
        assert not tensor.storage.flags.writeable and not tensor.storage.flags.owndata
        assert tensor.storage.ctypes.data % 64 == 0 or not tensor.nbytes
    assert same(found, example)


def test_neither_writing_nor_reading_copies_large_tensors(tmp_path, recording_of, tensor, anonymous_bytes):
    recording = recording_of(*(tensor(np.full(2**24, value), "f32") for value in (1, 2)))
    before = anonymous_bytes()
    arrow.write(recording, tmp_path / "a")
    after_write = anonymous_bytes()
    found = arrow.read(tmp_path / "a")
    after_read = anonymous_bytes()
    assert [t.nbytes for t in found.tensors.values()] == [2**26, 2**26]
    assert after_write - before < 2**24 and after_read - after_write < 2**24


def test_who_reads_a_file_keeps_it_when_another_takes_its_place(example, written, recording_of, tensor):
    found = arrow.read(written)
    arrow.write(recording_of(tensor(range(1000), "f64")), written)
    assert same(found, example)


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def small_disk():
    """A disk that takes 1,000 bytes a file, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_reported_and_leaves_what_was_there(example, tmp_path):
    path = tmp_path / "a.arrow"
    path.write_bytes(b"what was there")
    with pytest.raises(GoldenError) as caught:
        arrow.write(example, path)
    assert str(caught.value) == (
        f"{path}: cannot be written: File too large. Make room or name a folder that can be written"
    )
    assert path.read_bytes() == b"what was there"
    assert leftovers(tmp_path) == ["a.arrow"]


@pytest.mark.parametrize(
    "place, reason",
    [
        ("file/a.arrow", "Not a directory"),
        ("folder", "Is a directory"),
        ("n" * 300 + "/a.arrow", "File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_reported(example, tmp_path, place, reason):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(GoldenError) as caught:
        arrow.write(example, tmp_path / place)
    assert str(caught.value) == (
        f"{tmp_path / place}: cannot be written: {reason}. Make room or name a folder that can be written"
    )
    assert leftovers(tmp_path) == ["file", "folder"]


def contradiction(recording, path):
    """What `read` says of a file that was written of a recording which contradicts itself."""
    arrow.write(recording, path)
    with pytest.raises(GoldenError) as caught:
        arrow.read(path)
    return str(caught.value)


def test_memory_that_changed_after_its_digest_was_taken_is_not_read(recording_of, tensor, tmp_path):
    made = tensor([1, 2, 3], "i32")
    recording = recording_of(made)
    before = made.digest()
    made.storage[1] = 9
    assert contradiction(recording, tmp_path / "a") == (
        f"{tmp_path / 'a'}: row 0 says digest {before}, but its "
        f"bytes have {made.digest()}. The digest is right, so it was written this way: record the case again"
    )


def test_a_reference_that_is_not_the_stored_tensor_is_not_read(recording_of, tensor, tmp_path):
    recording = recording_of(tensor([1, 2, 3], "i32"))
    (step,) = recording.steps
    lying = replace(step, outputs=(replace(step.outputs[0], shape=(1, 3), stride=(3, 1)),))
    digest = step.outputs[0].digest
    assert contradiction(replace(recording, steps=(lying,)), tmp_path / "a") == (
        f"{tmp_path / 'a'}: field 'tensors[0]' is "
        f"i32[1, 3] with digest {digest}, but row 0 declares i32[3] with digest {digest}. "
        "The digest is right, so it was written this way: record the case again"
    )


def test_a_field_of_another_type_is_not_read(recording_of, tensor, tmp_path):
    recording = recording_of(tensor([1], "i32"))
    lying = replace(recording.steps[0], mutates=(1,))
    assert contradiction(replace(recording, steps=(lying,)), tmp_path / "a") == (
        f"{tmp_path / 'a'}: field 'steps[0].mutates[0]' must be a "
        "string, got 1. The digest is right, so it was written this way: record the case again"
    )


def test_a_writer_that_does_not_align_is_caught(example, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "ALIGNMENT", 8)
    first, *others = example.steps
    # Of two places that are 8 bytes apart, one is no multiple of 64.
    said = []
    for name in ("L", "L" + "0" * 8):
        moved = replace(example, steps=(replace(first, name=name), *others))
        arrow.write(moved, tmp_path / "a")
        try:
            arrow.read(tmp_path / "a")
        except GoldenError as error:
            said.append(str(error))
    assert "row 0 begins at byte" in said[0] and "no multiple of 64" in said[0]


def test_an_arrow_that_takes_the_stand_in_for_the_tensors_is_caught(
    recording_of, tensor, tmp_path, monkeypatch
):
    monkeypatch.setattr(arrow._Sink, "write", arrow._Sink._put)
    monkeypatch.setattr(arrow._Sink, "spliced", True)
    assert "row 0 says digest" in contradiction(recording_of(tensor([1], "i32")), tmp_path / "a")


def test_an_arrow_that_puts_the_data_elsewhere_is_noticed(recording_of, tensor, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "_MAGIC_BYTES", 16)
    with pytest.raises(AssertionError, match="elsewhere"):
        arrow.write(recording_of(tensor([1], "i32")), tmp_path / "a")
    assert leftovers(tmp_path) == []


def test_the_alignment_is_one_for_writing_and_reading():
    assert arrow.ALIGNMENT is rows.ALIGNMENT
