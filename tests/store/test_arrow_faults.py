"""Files that a reader must refuse: damaged ones, and forged ones whose digest is right all the same."""

import hashlib
import json
import random
import struct
import tracemalloc
from collections import Counter

import pyarrow as pa
import pytest

from parity.errors import GoldenError
from parity.store import arrow, schema

TRAILER = 40
AGAIN = "Record the case again, or copy the file again from where it was recorded"
WRITTEN_SO = "The digest is right, so it was written this way: record the case again"
HUGE = f"{2**62:,}"
NO_DIGEST = (
    "does not end in a digest: it was cut short, or is no recording, or is a golden without its manifest"
)


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


def test_one_flipped_bit_in_any_byte_is_refused(path, put, recording_of, tensor):
    arrow.write(recording_of(tensor([1.5], "f32")), path)
    whole = path.read_bytes()
    draw = random.Random(0)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        put(path, damaged)
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
    assert (
        refusal(tmp_path / "text" / "a")
        == f"{tmp_path / 'text' / 'a'}: cannot be read: Not a directory. {AGAIN}"
    )
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").startswith(f"{tmp_path / 'loop'}: cannot be read: ")


@pytest.mark.parametrize("text", [b"", b"\0", b"schema = 1\n" * 100, b"PARITY01" + bytes(31)])
def test_what_is_no_recording_is_refused(path, text):
    path.write_bytes(text)
    assert refusal(path) == f"{path}: {NO_DIGEST}. {AGAIN}"


@pytest.mark.parametrize(
    "text",
    [b"", b"schema = 1\n" * 100, b"ARROW1\0\0" + bytes(100) + b"ARROW1", b"\xff" * 1000, b"PARITY01" * 9],
)
def test_what_is_not_arrow_is_refused_though_its_digest_is_right(path, forge, text):
    forge(path, text)
    said = refusal(path)
    assert said.startswith(f"{path}: Arrow cannot read it: ") and said.endswith(WRITTEN_SO)


COLUMNS = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.field("item", pa.int64(), nullable=False)), nullable=False),
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)


# Of the example's list of tensors: the one of row 0, one that is not stored, and the one of row 4.
TURNED, WEIGHT, EMPTY = 0, 1, 5


class Forgery:
    """The parts of a recording's file, to be changed and put together again as Arrow would."""

    def __init__(self, content):
        batch = pa.ipc.open_file(content).get_batch(0)
        self.document = json.loads(batch.schema.metadata[b"parity"])
        self.table = batch.to_pydict()
        self.columns = COLUMNS
        self.batches = 1
        self.options = None
        self.aligned = True

    def content(self):
        for spaces in range(0, 64, 8):
            content = self._content(json.dumps(self.document).encode() + b" " * spaces)
            data = pa.ipc.open_file(content).get_batch(0).columns[-1].buffers()[-1]
            if self.aligned is ((data.address - pa.py_buffer(content).address) % 64 == 0):
                return content
        raise AssertionError

    def _content(self, metadata):
        columns = self.columns.with_metadata({b"parity": metadata})
        arrays = [pa.array(self.table[name], columns.field(name).type) for name in columns.names]
        batch = pa.record_batch(arrays, schema=columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, columns, options=self.options) as writer:
            for _ in range(self.batches):
                writer.write_batch(batch)
        return sink.getvalue().to_pybytes()


@pytest.fixture
def forgery(content):
    return Forgery(content)


@pytest.fixture
def said(path, forge):
    """What the reader says of a forged file, without its path and the repair."""

    def refuse(forged):
        forge(path, forged if isinstance(forged, bytes) else forged.content())
        text = refusal(path)
        assert text.startswith(f"{path}: ") and text.endswith(f". {WRITTEN_SO}")
        return text[len(f"{path}: ") : -len(f". {WRITTEN_SO}")]

    return refuse


def test_a_forgery_without_a_fault_is_read(forgery, path, forge, example):
    forge(path, forgery.content())
    assert schema.encode(arrow.read(path)) == schema.encode(example)


def test_a_row_that_is_not_there_is_refused(forgery, said):
    forgery.document["tensors"][EMPTY]["row"] = 5
    assert said(forgery) == "field 'tensors[5]' names row 5, but there are 5"


def test_a_row_of_another_tensor_is_refused(forgery, said, example):
    forgery.document["tensors"][EMPTY]["row"] = 1
    _, y, _, _, empty = schema.stored(example)
    assert said(forgery) == (
        f"field 'tensors[5]' is e4m3_gaudi2[0, 7] with digest {empty}, "
        f"but row 1 declares bf16[1, 3] with digest {y}"
    )


@pytest.mark.parametrize(
    "field, value, is_now",
    [
        ("dtype", "float16", "f16[4, 3]"),
        ("shape", [3, 4], "f32[3, 4]"),
        ("digest", "sha256:" + "0" * 64, "f32[4, 3]"),
    ],
)
def test_a_reference_that_is_not_what_its_row_declares_is_refused(forgery, said, field, value, is_now):
    ref = forgery.document["tensors"][TURNED]
    digest = ref["digest"]
    ref[field] = value
    assert said(forgery) == (
        f"field 'tensors[0]' is {is_now} with digest {ref['digest']}, "
        f"but row 0 declares f32[4, 3] with digest {digest}"
    )


def test_a_row_that_no_step_names_is_refused(forgery, said):
    del forgery.document["tensors"][EMPTY]["row"]
    assert said(forgery) == "row 4 is named by no step"


def test_a_row_that_only_a_tensor_without_use_names_is_refused(forgery, said):
    """The row is named, but by nothing that a step reads or writes."""
    del forgery.document["steps"][1]["inputs"][1]
    assert said(forgery).startswith("field 'tensors[5]' must be in use, got {")


def test_a_number_of_a_tensor_that_is_not_listed_is_refused(forgery, said):
    forgery.document["steps"][1]["inputs"][1] = 7
    assert said(forgery) == "field 'steps[1].inputs[1]' must be a number below 7, got 7"


def test_a_tensor_that_is_stored_twice_is_refused(forgery, said):
    for column in forgery.table.values():
        column.append(column[1])
    assert said(forgery) == f"row 5 stores {forgery.table['digest'][1]} again, after row 1"


@pytest.mark.parametrize("version", [1, 3])
def test_another_schema_version_is_named_even_when_its_columns_are_others(forgery, path, forge, version):
    forgery.document["schema"] = version
    forgery.columns = COLUMNS.append(pa.field("colour", pa.string()))
    forgery.table["colour"] = ["red"] * 5
    forge(path, forgery._content(json.dumps(forgery.document).encode()))
    assert refusal(path) == (
        f"{path}: schema version {version}, but this parity reads 2: "
        "record the case again, or use the parity that wrote the file"
    )


def test_metadata_that_is_missing_or_wrong_is_refused(forgery, said):
    assert said(forgery._content(b"{")).startswith("the metadata is not JSON: ")
    bare = forgery.content().replace(b"parity", b"purity")
    assert said(bare) == "is an Arrow file without the metadata 'parity'"
    forgery.document["steps"][0]["bytes"] = -1
    assert said(forgery) == "field 'steps[0].bytes' must be an integer >= 0, got -1"


def test_other_columns_are_refused(forgery, said):
    forgery.columns = pa.schema([field.with_nullable(True) for field in COLUMNS])
    assert said(forgery) == (
        "has the columns pyarrow.Field<digest: string>, pyarrow.Field<dtype: string>, "
        "pyarrow.Field<shape: list<item: int64 not null>>, pyarrow.Field<data: large_binary>"
    )


@pytest.mark.parametrize("column", ["digest", "dtype", "shape", "data"])
def test_nulls_are_refused(forgery, said, column):
    forgery.table[column][4] = None
    assert said(forgery) == f"Arrow cannot read it: column '{column}' holds nulls"


@pytest.mark.parametrize("batches", [0, 2])
def test_another_number_of_batches_is_refused(forgery, said, batches):
    forgery.batches = batches
    assert said(forgery._content(json.dumps(forgery.document).encode())) == (
        f"Arrow cannot read it: {batches} record batches instead of one"
    )


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_tensors_are_refused(forgery, said, codec):
    forgery.options = pa.ipc.IpcWriteOptions(compression=codec)
    assert said(forgery._content(json.dumps(forgery.document).encode())) == (
        "its tensors are compressed instead of lying in the file as they are"
    )


def test_a_tensor_beside_a_multiple_of_64_bytes_is_refused(forgery, said):
    forgery.aligned = False
    text = said(forgery)
    assert text.startswith("row 0 begins at byte ") and text.endswith(", no multiple of 64")


@pytest.mark.parametrize("tag", ["float23", "f32", "", "Float32"])
def test_a_dtype_that_is_no_exact_tag_is_refused(forgery, said, tag):
    forgery.table["dtype"][0] = tag
    assert said(forgery) == f"row 0 is of dtype '{tag}', which this parity does not know"


@pytest.mark.parametrize(
    "shape, declares",
    [
        ([4, 2], "f32[4, 2] = 32 bytes, padded to 64, but holds 128"),
        ([2**60], f"f32[{2**60}] = {HUGE} bytes, padded to {HUGE}, but holds 64"),
        ([2**30, 2**30], f"f32[{2**30}, {2**30}] = {HUGE} bytes, padded to {HUGE}, but holds 64"),
        ([], "f32[] = 4 bytes, padded to 64, but holds 0"),
    ],
)
def test_a_shape_that_is_not_the_size_of_its_bytes_is_refused(forgery, said, shape, declares):
    forgery.table["shape"][0] = forgery.document["tensors"][TURNED]["shape"] = shape
    forgery.document["tensors"][TURNED]["stride"] = shape
    chunk = forgery.table["data"][0]
    forgery.table["data"][0] = {"f32[4, 2]": chunk * 2, "f32[]": b""}.get(declares.split(" =")[0], chunk)
    assert said(forgery) == f"row 0 declares {declares}"


@pytest.mark.parametrize(
    "shape", [[-4, -3], [4, None], [2**62, 4], [2**63 - 1, 2**63 - 1], [0, 2**62], [1] * 33]
)
def test_a_shape_that_cannot_be_is_refused(forgery, said, shape):
    forgery.table["shape"][0] = shape
    assert said(forgery) == f"row 0 declares the impossible shape {shape[:8]}"


@pytest.fixture
def costs_nothing(anonymous_bytes):
    """Fail when the test takes memory worth naming, Python's or anybody's."""
    tracemalloc.start()
    before = anonymous_bytes()
    yield
    assert tracemalloc.get_traced_memory()[1] < 2**20
    assert anonymous_bytes() - before < 2**24
    tracemalloc.stop()


@pytest.mark.usefixtures("costs_nothing")
def test_a_huge_shape_of_a_row_costs_no_memory(forgery, path, forge):
    forgery.table["shape"][0] = forgery.document["tensors"][TURNED]["shape"] = [2**20, 2**40]
    forge(path, forgery.content())
    assert "row 0 declares f32[1048576, 1099511627776] = 4,611,686,018,427,387,904 bytes" in refusal(path)


@pytest.mark.usefixtures("costs_nothing")
def test_a_huge_shape_of_a_tensor_that_is_not_stored_costs_no_memory(forgery, path, forge):
    forgery.document["tensors"][WEIGHT]["shape"] = [2**60]
    forge(path, forgery.content())
    assert arrow.read(path).steps[0].inputs[2].shape == (2**60,)


def test_a_tensor_that_is_not_its_digest_is_refused(content, said, buffers, example):
    damaged = bytearray(content)
    damaged[buffers(content)[-1][0] + 5] ^= 1
    found = said(bytes(damaged))
    assert found.startswith(f"row 0 says digest {schema.stored(example)[0]}, but its bytes have sha256:")


def test_padding_that_hides_something_is_refused(content, said, buffers):
    damaged = bytearray(content)
    damaged[buffers(content)[-1][0] + 63] = 7
    assert said(bytes(damaged)) == "row 0 is padded with something else than zeros"


@pytest.mark.parametrize("value", [-1, -64, -(2**63), 2**62, 2**63 - 1, 1, 63, 65, 10**6])
@pytest.mark.parametrize("row", range(6))
def test_offsets_that_lead_astray_are_refused(content, said, buffers, row, value):
    """Rows hold 64, 64, 64, 64 and 0 bytes, so no value above is the right one."""
    damaged = bytearray(content)
    struct.pack_into("<q", damaged, buffers(content)[-2][0] + 8 * row, value)
    assert said(bytes(damaged)).startswith(
        (f"row {max(row - 1, 0)} ", f"row {row} ", "the rows span", "Arrow cannot")
    )


@pytest.mark.parametrize("value", [-8, -(2**63), 2**40, 2**62, 8, 16])
@pytest.mark.parametrize("field", [0, 8])
def test_buffers_that_lie_elsewhere_are_refused(content, path, forge, buffers, example, field, value):
    """The offset and the length of the data, as the record batch states them.

    Older versions of Arrow cut a length that is too great down to what is there.
    """
    at, size = buffers(content)[-1]
    body = buffers(content)[0][0]
    stated = struct.pack("<qq", at - body, size)
    assert content.count(stated) == 1
    damaged = bytearray(content)
    struct.pack_into("<q", damaged, content.index(stated) + field, value)
    forge(path, bytes(damaged))
    may_be_cut = field == 8 and value > size
    assert check_forged(path, example) in ({"refused", "as it was"} if may_be_cut else {"refused"})


def test_offsets_that_begin_late_are_refused(said, content, buffers):
    """All rows moved on by 64 bytes: inside the buffer, and none holds what it declares."""
    damaged = bytearray(content)
    for i, end in enumerate((64, 128, 192, 256, 256, 256)):
        struct.pack_into("<q", damaged, buffers(content)[-2][0] + 8 * i, end)
    assert said(bytes(damaged)) == "the rows span bytes 64 to 256 of 256"


def check_forged(path, example):
    """A forged file is refused, or is a consistent recording: what Arrow ignores may change."""
    try:
        found = arrow.read(path)
    except GoldenError as error:
        return "refused" if str(error).startswith(f"{path}: ") else "refused without its name"
    for digest, tensor in found.tensors.items():
        assert tensor.digest() == digest
    return "as it was" if schema.encode(found) == schema.encode(example) else "another"


def test_no_forged_byte_gives_a_traceback_or_a_wrong_tensor(path, content, forge, example):
    draw = random.Random(1)
    seen = Counter()
    for at in draw.sample(range(len(content)), 2_000):
        damaged = bytearray(content)
        damaged[at] = draw.choice((damaged[at] ^ 1 << draw.randrange(8), 0, 255, draw.randrange(256)))
        forge(path, bytes(damaged))
        seen[check_forged(path, example)] += 1
    assert seen.keys() == {"refused", "as it was", "another"} and seen["refused"] > 300


def test_no_forged_stretch_gives_a_traceback_or_a_wrong_tensor(path, content, forge, example):
    draw = random.Random(2)
    seen = Counter()
    for _ in range(1_000):
        begin = draw.randrange(len(content))
        end = min(begin + draw.choice((2, 4, 8, 16, 200)), len(content))
        kind = draw.randrange(4)
        filler = (
            draw.randbytes(end - begin),
            b"",
            bytes(end - begin),
            content[(other := draw.randrange(len(content))) : other + end - begin],
        )[kind]
        forge(path, content[:begin] + filler + content[end:])
        seen[check_forged(path, example)] += 1
    assert seen.keys() == {"refused", "as it was", "another"} and seen["refused"] > 500


def test_no_forged_cut_gives_a_traceback(path, content, forge, example):
    for length in range(0, len(content), 7):
        forge(path, content[:length])
        assert check_forged(path, example) == "refused"


@pytest.mark.parametrize(
    "error", [OSError("a"), UnicodeDecodeError("utf-8", b"", 0, 1, "b"), MemoryError(), KeyError("c")]
)
@pytest.mark.parametrize("place", ["opening", "reading"])
@pytest.mark.usefixtures("whole")
def test_whatever_pyarrow_raises_names_the_file(path, monkeypatch, error, place):
    def fail(*_args, **_kwargs):
        raise error

    fenced = (pa.ipc, "open_file") if place == "opening" else (arrow, "_table")
    monkeypatch.setattr(*fenced, fail)
    assert refusal(path) == f"{path}: Arrow cannot read it: {str(error) or 'MemoryError'}. {WRITTEN_SO}"
