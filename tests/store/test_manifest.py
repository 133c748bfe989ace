from dataclasses import replace

import pytest

from parity.errors import GoldenError
from parity.store import manifest
from parity.store.manifest import Golden, Kind, Manifest

GOLDEN = Golden(
    case="ops/softmax:dtype=bf16",
    revision="sha256:" + "a" * 64,
    digest="sha256:" + "b" * 64,
    set=2,
    date="2026-11-20",
    steps=1,
    elements=8,
    non_finite=0,
    reason="first recording",
    producer="parity 0.1.0",
)
MANIFEST = Manifest(
    set=2,
    kind=Kind(family="cpu", flavour="avx2", mode="compile", setting="strict"),
    producer="parity 0.1.0",
    date="2026-11-20",
    host="a-host",
    environment={"torch": "2.13.0 | 2.14.0", "mkldnn.matmul": "ieee"},
    goldens=(GOLDEN, replace(GOLDEN, case="ops/exp:dtype=f32", reason='a "better" one \\ für \u202eall')),
)
TEXT = f"""\
# Written by parity, which reads it strictly. The format: golden/README.md
schema = 2
set = 2
family = "cpu"
flavour = "avx2"
mode = "compile"
setting = "strict"
producer = "parity 0.1.0"
date = "2026-11-20"
host = "a-host"

[environment]
"mkldnn.matmul" = "ieee"
torch = "2.13.0 | 2.14.0"

[[golden]]
case = "ops/exp:dtype=f32"
revision = "sha256:{"a" * 64}"
digest = "sha256:{"b" * 64}"
set = 2
date = "2026-11-20"
steps = 1
elements = 8
non_finite = 0
reason = "a \\"better\\" one \\\\ für \\u202eall"
producer = "parity 0.1.0"

[[golden]]
case = "ops/softmax:dtype=bf16"
revision = "sha256:{"a" * 64}"
digest = "sha256:{"b" * 64}"
set = 2
date = "2026-11-20"
steps = 1
elements = 8
non_finite = 0
reason = "first recording"
producer = "parity 0.1.0"
"""


def refusal(path):
    with pytest.raises(GoldenError) as caught:
        manifest.read(path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "manifest.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_reviewer_reads_every_golden_in_one_order():
    assert manifest.text(MANIFEST) == TEXT
    assert manifest.text(replace(MANIFEST, goldens=MANIFEST.goldens[::-1])) == TEXT


def test_a_manifest_comes_back_as_it_was(path, tmp_path):
    assert manifest.read(path) == replace(MANIFEST, goldens=MANIFEST.goldens[::-1])
    manifest.write(MANIFEST, tmp_path / "new" / "manifest.toml")
    assert (tmp_path / "new" / "manifest.toml").read_bytes() == path.read_bytes()


def test_a_set_without_goldens_comes_back(tmp_path):
    empty = replace(MANIFEST, set=0, goldens=(), environment={})
    manifest.write(empty, tmp_path / "m")
    assert manifest.read(tmp_path / "m") == empty


def test_any_text_is_escaped_so_that_it_comes_back(tmp_path):
    every = "".join(map(chr, [*range(0x300), 0x2028, 0xFEFF, 0xFFFF, 0x1F600, 0xE0001, 0x10FFFF]))
    odd = replace(MANIFEST, host=every, environment={every: every, "": "", "a b": "]"})
    manifest.write(odd, tmp_path / "m")
    assert manifest.read(tmp_path / "m").host == every
    assert manifest.read(tmp_path / "m").environment == odd.environment
    assert manifest.tomllib.loads((tmp_path / "m").read_text(encoding="utf-8"))["host"] == every


def test_a_byte_that_is_no_text_is_shown(tmp_path):
    manifest.write(replace(MANIFEST, host="a\udcffb"), tmp_path / "m")
    assert manifest.read(tmp_path / "m").host == "a\\udcffb"


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('mode = "compile"\n', "", "field 'mode' is missing"),
        ("steps = 1\n", "", "field 'golden[0].steps' is missing"),
        ("host = ", "hots = ", "field 'host' is missing"),
        ('host = "a-host"', 'host = "a-host"\ncolour = "red"', "field 'colour' is unknown"),
        ("steps = 1", "steps = 1\ncolour = 2", "field 'golden[0].colour' is unknown"),
        ("set = 2\nfamily", 'set = "2"\nfamily', "field 'set' must be an integer >= 0, got '2'"),
        ("steps = 1", "steps = -1", "field 'golden[0].steps' must be an integer >= 0, got -1"),
        ("steps = 1", "steps = 1.0", "field 'golden[0].steps' must be an integer >= 0, got 1.0"),
        ("set = 2\ndate", "set = 0\ndate", "field 'golden[0].set' must be an integer >= 1, got 0"),
        (
            'setting = "strict"',
            'setting = "lax"',
            "field 'setting' must be one of 'strict', 'production', got 'lax'",
        ),
        (
            'family = "cpu"',
            'family = "../cpu"',
            "field 'family' must be the family of a backend, got '../cpu'",
        ),
        ("ops/exp:dtype=f32", "../exp", "field 'golden[0].case' must be a case id, got '../exp'"),
        (
            "sha256:" + "b" * 64,
            "sha256:b",
            "field 'golden[0].digest' must be 'sha256:' and 64 hexadecimal digits, got 'sha256:b'",
        ),
        (
            "torch = ",
            "torch.x = ",
            "field 'environment.torch' must be a string, got {'x': '2.13.0 | 2.14.0'}",
        ),
        (
            'host = "a-host"',
            "host = 2026-11-20",
            "field 'host' must be a string, got datetime.date(2026, 11, 20)",
        ),
        ("[[golden]]", "[golden]", None),
        ("ops/softmax:dtype=bf16", "ops/exp:dtype=f32", "lists ops/exp:dtype=f32 twice"),
    ],
)
def test_a_manifest_with_a_fault_is_refused(path, old, new, says):
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    repair = f"Restore it: git checkout -- {path}"
    if says is None:
        assert refusal(path).startswith(f"{path}: is not TOML: ") and refusal(path).endswith(repair)
    else:
        assert refusal(path) == f"{path}: {says}. {repair}"


@pytest.mark.parametrize(
    "version, shown",
    [("1", "1"), ("3", "3"), ('"2"', "'2'"), ("true", "True"), ("1.5", "1.5"), ("2.0", "2.0")],
)
def test_another_version_is_named(path, version, shown):
    path.write_text(TEXT.replace("schema = 2", f"schema = {version}"), encoding="utf-8")
    assert refusal(path) == (
        f"{path}: schema version {shown}, but this parity reads 2. "
        "Use the parity that wrote it, or record into a new folder"
    )


def test_a_manifest_without_a_version_is_named(path):
    path.write_bytes(b"")
    assert refusal(path) == (
        f"{path}: schema version none, but this parity reads 2. "
        "Use the parity that wrote it, or record into a new folder"
    )


@pytest.mark.parametrize("data", [b"\xff", b"schema = ", b"a = [" * 10_000, b"\0"])
def test_what_is_no_toml_is_refused(path, data):
    path.write_bytes(data)
    said = refusal(path)
    assert said.startswith(f"{path}: is not TOML: ") and said.endswith(
        f". Restore it: git checkout -- {path}"
    )


def test_a_manifest_that_cannot_be_read_is_named(tmp_path):
    assert refusal(tmp_path) == (
        f"{tmp_path}: cannot be read: Is a directory. Restore it: git checkout -- {tmp_path}"
    )
    missing = tmp_path / "m"
    assert refusal(missing) == (
        f"{missing}: cannot be read: No such file or directory. Restore it: git checkout -- {missing}"
    )


def test_a_manifest_cut_short_anywhere_is_refused_or_lists_less(path):
    """A manifest has no digest of its own: what it still says, it must say whole."""
    whole = manifest.read(path)
    for length in range(len(TEXT.encode())):
        path.write_bytes(TEXT.encode()[:length])
        try:
            found = manifest.read(path)
        except GoldenError:
            continue
        assert found == replace(
            whole, environment=found.environment, goldens=whole.goldens[: len(found.goldens)]
        )
