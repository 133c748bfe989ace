import os
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

import parity
from parity.backend.spec import BackendSpec, Setting
from parity.case.ids import CaseId
from parity.errors import GoldenError, UsageError
from parity.store import arrow, folder, manifest, schema
from parity.store.folder import MissingGolden, Store, builtin_goldens, recording_path
from parity.store.recording import Recording

SETTING = Setting.STRICT


def refusal(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No clock, no host."""
    monkeypatch.setattr(folder, "_today", lambda: "2026-11-20")
    monkeypatch.setattr(folder.platform, "node", lambda: "a-host")


@pytest.fixture
def add():
    """Add recordings to a set the way `parity record --golden` does."""

    def run(path, *recordings, reason="recorded", producer="parity 0.1.0"):
        """One argument may be an iterator, which may fail half way."""
        recordings = chain.from_iterable([one] if isinstance(one, Recording) else one for one in recordings)
        with Store.create(path) as store:
            return [store.add(recording, reason=reason, producer=producer) for recording in recordings]

    return run


def same(one, other):
    return schema.encode(one) == schema.encode(other) and list(one.tensors) == list(other.tensors)


def files(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def test_what_record_writes_is_a_reference_with_no_further_act(tmp_path, add, case, record):
    cases = [case(rows=rows) for rows in ("2", "16")]
    recordings = [record(one) for one in cases]
    assert add(tmp_path / "set", *recordings) == [True, True]
    assert files(tmp_path / "set") == [
        "manifest.toml",
        "ops/softmax/rows=16.arrow",
        "ops/softmax/rows=2.arrow",
    ]
    store = Store.open(tmp_path / "set")
    assert [str(found) for found in store.cases()] == ["ops/softmax:rows=16", "ops/softmax:rows=2"]
    for one, recording in zip(cases, recordings, strict=True):
        assert same(store.load(one), recording)
    assert str(store.kind) == "cpu/avx2 (strict)"
    assert store.environment() == {"torch": "2.13.0", "threads": "1"}


def test_the_manifest_says_what_was_added_and_why(tmp_path, add, case, record):
    one = case()
    add(tmp_path, record(one, value=float("nan")), reason="first recording")
    digest = store_digest(tmp_path, one)
    assert (
        (tmp_path / "manifest.toml").read_text()
        == f"""\
# Written by parity, which reads it strictly. The format: golden/README.md
schema = 2
set = 1
family = "cpu"
flavour = "avx2"
mode = "eager"
setting = "strict"
producer = "parity 0.1.0"
date = "2026-11-20"
host = "a-host"

[environment]
threads = "1"
torch = "2.13.0"

[[golden]]
case = "ops/softmax:rows=2"
revision = "{one.revision}"
digest = "{digest}"
set = 1
date = "2026-11-20"
steps = 1
elements = 8
non_finite = 8
reason = "first recording"
producer = "parity 0.1.0"
"""
    )


def store_digest(path, case):
    (golden,) = [g for g in manifest.read(path / "manifest.toml").goldens if g.case == str(case.id)]
    return golden.digest


def test_two_runs_in_sequence_add_to_one_set(tmp_path, add, case, record):
    add(tmp_path, record(case(rows="2")))
    add(tmp_path, record(case(rows="3"), torch="2.14.0"), reason="more", producer="parity 0.2.0")
    found = manifest.read(tmp_path / "manifest.toml")
    assert [(g.case, g.set, g.reason, g.producer) for g in found.goldens] == [
        ("ops/softmax:rows=2", 1, "recorded", "parity 0.1.0"),
        ("ops/softmax:rows=3", 2, "more", "parity 0.2.0"),
    ]
    assert (found.set, found.producer) == (2, "parity 0.2.0")
    assert found.environment == {"torch": "2.13.0 | 2.14.0", "threads": "1"}


def test_an_equal_recording_is_no_change(tmp_path, add, case, record, monkeypatch):
    one = case()
    add(tmp_path, record(one, seconds=0.5))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    monkeypatch.setattr(folder, "_today", lambda: "2026-11-21")
    assert add(tmp_path, record(one, seconds=0.7), reason="again") == [False]
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    assert Store.open(tmp_path).load(one).steps[0].seconds is None


def again(case, place="NEW_FOLDER"):
    return f"Record it: parity record {case.id} --backend cpu/avx2 --golden {place}"


def test_a_golden_is_never_overwritten(tmp_path, add, case, record):
    one = case()
    add(tmp_path, record(one))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    old, new = (record(one, value=value).steps[0].outputs[0].digest for value in (0.25, 0.5))
    path = recording_path(tmp_path, one.id)
    for other, differs in (
        (record(one, value=0.5), f"steps[0].outputs[0].digest is '{old}' there, '{new}' here"),
        (record(one, torch="2.14.0"), "environment.provenance.torch is '2.13.0' there, '2.14.0' here"),
    ):
        assert refusal(GoldenError, add, tmp_path, other) == (
            f"{path}: is there already and differs: {differs}. Goldens are never overwritten. {again(one)}"
        )
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_the_same_case_twice_in_one_run_is_compared_too(tmp_path, add, case, record):
    assert add(tmp_path, record(case()), record(case())) == [True, False]
    with pytest.raises(GoldenError, match="is there already and differs"):
        add(tmp_path, record(case(rows="3")), record(case(rows="3"), value=0.5))
    assert len(Store.open(tmp_path).cases()) == 2


def test_a_recording_that_contradicts_itself_becomes_no_golden(tmp_path, add, case, record):
    recording = record(case())
    next(iter(recording.tensors.values())).storage[...] = 9
    with pytest.raises(GoldenError, match="row 0 says digest"):
        add(tmp_path, recording)
    assert [name for name in files(tmp_path) if name.endswith(".arrow")] == []


def test_a_set_is_of_one_backend_and_setting(tmp_path, add, case, record):
    add(tmp_path, record(case()))
    for other, kind in (
        (record(case(rows="3"), backend="cpu/avx512"), "cpu/avx512 (strict)"),
        (record(case(rows="3"), backend="cpu/avx2+compile"), "cpu/avx2+compile (strict)"),
        (record(case(rows="3"), backend="cpu/avx2", setting="production"), "cpu/avx2 (production)"),
    ):
        assert refusal(GoldenError, add, tmp_path, other) == (
            f"{tmp_path / 'ops/softmax/rows=3.arrow'}: is of {kind}, but {tmp_path} is of cpu/avx2 (strict). "
            "Give each backend and setting a folder of its own"
        )
    add(tmp_path, record(case(rows="3"), backend="cpu/avx2:1"))  # another device of one kind


def test_what_was_recorded_before_an_interruption_stays(tmp_path, add, case, record):
    def recordings():
        yield record(case())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(tmp_path, recordings())
    assert [str(found) for found in Store.open(tmp_path).cases()] == ["ops/softmax:rows=2"]


def test_files_of_a_killed_run_are_no_goldens_and_may_be_recorded_again(tmp_path, add, case, record):
    killed = Store.create(tmp_path)
    killed.add(record(case(), value=0.5), reason="recorded", producer="p")
    store = Store.open(tmp_path)
    assert store.cases() == [] and store.environment() == {}
    assert refusal(MissingGolden, store.load, case()) == (
        f"{tmp_path}: has no recording of ops/softmax:rows=2. {again(case(), tmp_path)}"
    )
    assert add(tmp_path, record(case())) == [True]
    assert same(Store.open(tmp_path).load(case()), record(case()))


def test_a_manifest_that_another_run_changed_meanwhile_is_not_overwritten(tmp_path, add, case, record):
    slow = Store.create(tmp_path)
    slow.add(record(case()), reason="recorded", producer="p")
    add(tmp_path, record(case(rows="3")))
    before = (tmp_path / "manifest.toml").read_bytes()
    assert refusal(GoldenError, slow.save) == (
        f"{tmp_path / 'manifest.toml'}: another run changed it, so nothing was listed. Run this again"
    )
    assert (tmp_path / "manifest.toml").read_bytes() == before


def test_loose_recordings_are_a_reference_too(tmp_path, case, record):
    one = case(path="engine/prefill/deep", rows="7")
    arrow.write(record(one, seconds=0.5), recording_path(tmp_path / "run", one.id))
    (tmp_path / "run" / "journal.txt").touch()
    for name in ("not a case.arrow", "rows=8", "rows=9.arrow.part", "rows=1,a=2.arrow", "default"):
        (tmp_path / "run" / "engine" / "prefill" / name).touch()
    shutil.copytree(tmp_path / "run", tmp_path / "copied")
    store = Store.open(tmp_path / "copied")
    assert [str(found) for found in store.cases()] == ["engine/prefill/deep:rows=7"]
    assert same(store.load(one), record(one, seconds=0.5))
    assert str(store.kind) == "cpu/avx2 (strict)"
    assert store.environment() == {"torch": "2.13.0", "threads": "1"}
    assert store.manifest is None


def test_a_case_without_parameters_has_a_file_called_default(tmp_path, add, case, record):
    one = replace(case(), id=CaseId.parse("ops/softmax"))
    add(tmp_path / "set", record(one))
    assert files(tmp_path / "set") == ["manifest.toml", "ops/softmax/default.arrow"]
    arrow.write(record(one), recording_path(tmp_path / "run", one.id))
    for path in ("set", "run"):
        assert Store.open(tmp_path / path).cases() == [one.id]
        assert same(Store.open(tmp_path / path).load(one), record(one))


def test_a_missing_recording_is_told_from_a_damaged_one(tmp_path, case, record):
    arrow.write(record(case()), recording_path(tmp_path, case().id))
    store = Store.open(tmp_path)
    other = case(rows="3")
    assert refusal(MissingGolden, store.load, other) == (
        f"{tmp_path}: has no recording of ops/softmax:rows=3. "
        "Record it: parity record ops/softmax:rows=3 --backend BACKEND --golden NEW_FOLDER"
    )
    store.load(case())
    assert refusal(MissingGolden, store.load, other).endswith(again(other))


def test_the_production_setting_is_part_of_the_command_that_repairs(tmp_path, add, case, record):
    add(tmp_path, record(case(), setting="production"))
    assert refusal(MissingGolden, Store.open(tmp_path).load, case(rows="3")).endswith(
        f"parity record ops/softmax:rows=3 --backend cpu/avx2 --production --golden {tmp_path}"
    )


@pytest.mark.parametrize("loose", [True, False])
def test_a_recording_of_another_revision_is_refused(tmp_path, add, case, record, loose):
    one, now = case(), case(dist="uniform")
    path = recording_path(tmp_path, one.id)
    if loose:
        arrow.write(record(one), path)
    else:
        add(tmp_path, record(one))
    store = Store.open(tmp_path)
    store.load(one)
    assert refusal(GoldenError, store.load, now) == (
        f"{path}: was recorded from another revision of this case, {one.revision}; "
        f"it is {now.revision} now. {again(one)}"
    )


def test_a_golden_that_is_outdated_and_damaged_is_said_to_be_outdated(tmp_path, add, case, record):
    """Restoring the file would not help."""
    add(tmp_path, record(case()))
    recording_path(tmp_path, case().id).unlink()
    with pytest.raises(GoldenError, match="was recorded from another revision of this case"):
        Store.open(tmp_path).load(case(dist="uniform"))


def test_a_manifest_that_claims_another_revision_than_the_file_is_refused(tmp_path, add, case, record):
    one, now = case(), case(dist="uniform")
    add(tmp_path, record(one))
    text = (tmp_path / "manifest.toml").read_text()
    (tmp_path / "manifest.toml").write_text(text.replace(one.revision, now.revision))
    assert refusal(GoldenError, Store.open(tmp_path).load, now) == (
        f"{recording_path(tmp_path, one.id)}: was recorded from another revision of this case, "
        f"{one.revision}; it is {now.revision} now. {again(one)}"
    )


def test_a_recording_under_the_name_of_another_case_is_refused(tmp_path, case, record):
    one, other = case(rows="2"), case(rows="3")
    arrow.write(record(one), recording_path(tmp_path, other.id))
    assert refusal(GoldenError, Store.open(tmp_path).load, other) == (
        f"{recording_path(tmp_path, other.id)}: is a recording of ops/softmax:rows=2. {again(other)}"
    )


def test_a_golden_that_is_not_the_one_that_was_listed_is_refused(tmp_path, add, case, record):
    one, path = case(), recording_path(tmp_path, case().id)
    add(tmp_path, record(one))
    listed = store_digest(tmp_path, one)
    other = arrow.write(record(one, value=0.5), path, trailer=False)
    assert refusal(GoldenError, Store.open(tmp_path).load, one) == (
        f"{path}: is damaged: its content has {other}, but it is listed with {listed}. "
        f"Restore it: git checkout -- {path}"
    )
    path.unlink()
    assert refusal(GoldenError, Store.open(tmp_path).load, one) == (
        f"{path}: is not there. Restore it: git checkout -- {path}"
    )


def test_goldens_parted_from_their_manifest_are_refused(tmp_path, add, case, record):
    add(tmp_path, record(case()))
    (tmp_path / "manifest.toml").unlink()
    path = recording_path(tmp_path, case().id)
    assert refusal(GoldenError, Store.open(tmp_path).load, case()) == (
        f"{path}: does not end in a digest: it was cut short, or is no recording, or is a golden without its "
        "manifest. Record the case again, or copy the file again from where it was recorded"
    )


def test_loose_recordings_of_two_backends_are_not_mixed(tmp_path, case, record):
    one, other = case(rows="2"), case(rows="3")
    arrow.write(record(one), recording_path(tmp_path, one.id))
    arrow.write(record(other, backend="cuda/h200"), recording_path(tmp_path, other.id))
    store = Store.open(tmp_path)
    store.load(one)
    assert refusal(GoldenError, store.load, other) == (
        f"{recording_path(tmp_path, other.id)}: is of cuda/h200 (strict), but {tmp_path} is of "
        "cpu/avx2 (strict). Give each backend and setting a folder of its own"
    )


def test_a_manifest_that_claims_another_backend_than_its_files_is_refused(tmp_path, add, case, record):
    add(tmp_path, record(case()))
    text = (tmp_path / "manifest.toml").read_text()
    (tmp_path / "manifest.toml").write_text(text.replace('"avx2"', '"avx512"'))
    assert "is of cpu/avx2 (strict), but" in refusal(GoldenError, Store.open(tmp_path).load, case())


def test_the_kind_of_loose_recordings_is_that_of_the_first_readable_one(tmp_path, case, record):
    one, other = case(rows="2"), case(rows="3")
    arrow.write(record(other), recording_path(tmp_path, other.id))
    damaged = recording_path(tmp_path, one.id)
    damaged.write_bytes(b"damaged")
    assert str(Store.open(tmp_path).kind) == "cpu/avx2 (strict)"
    recording_path(tmp_path, other.id).unlink()
    with pytest.raises(GoldenError, match="does not end in a digest"):
        _ = Store.open(tmp_path).kind


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_that_leads_out_of_the_store_is_not_followed(tmp_path, add, case, record, link):
    add(tmp_path / "set", record(case()))
    inside = tmp_path / "set" / ("ops/softmax/rows=2.arrow" if link == "file" else "ops")
    outside = tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    path = recording_path(tmp_path / "set", case().id)
    assert refusal(GoldenError, Store.open(tmp_path / "set").load, case()) == (
        f"{path}: leads out of the store, to {os.path.realpath(path)}. Put the file itself there"
    )


def test_a_store_that_is_itself_a_link_is_read(tmp_path, add, case, record):
    add(tmp_path / "set", record(case()))
    (tmp_path / "link").symlink_to("set")
    assert same(Store.open(tmp_path / "link").load(case()), record(case()))


def test_no_folder_of_recordings_is_a_usage_error(tmp_path, add, case, record):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert (
        refusal(UsageError, Store.open, tmp_path / "none")
        == f"{tmp_path}/none: is not a folder of recordings"
    )
    assert (
        refusal(UsageError, Store.open, tmp_path / "file")
        == f"{tmp_path}/file: is not a folder of recordings"
    )
    assert refusal(UsageError, Store.open, tmp_path / "empty") == f"{tmp_path}/empty: holds no recordings"
    assert refusal(UsageError, Store.create, tmp_path / "file") == f"{tmp_path}/file: is not a folder"
    for flavour in ("avx2", "avx512"):
        add(tmp_path / "golden" / "cpu" / flavour / "eager-strict", record(case(), backend=f"cpu/{flavour}"))
    assert refusal(UsageError, Store.open, tmp_path / "golden") == (
        f"{tmp_path}/golden: is a folder of sets of goldens; name one of "
        f"{tmp_path}/golden/cpu/avx2/eager-strict, {tmp_path}/golden/cpu/avx512/eager-strict"
    )


def test_a_run_folder_is_not_turned_into_a_set(tmp_path, case, record):
    arrow.write(record(case()), recording_path(tmp_path, case().id))
    assert refusal(UsageError, Store.create, tmp_path) == (
        f"{tmp_path}: holds recordings that no manifest lists; name a new folder"
    )


@pytest.fixture
def root(tmp_path, add, case, record):
    """A golden root with sets of several kinds."""
    for backend, setting in (
        ("cpu/avx2", "strict"),
        ("cpu/avx512", "strict"),
        ("cpu/avx2+compile", "strict"),
        ("cuda/h200", "production"),
        ("reference", "strict"),
    ):
        recording = record(case(), backend=backend, setting=setting)
        add(tmp_path / manifest.Kind.of(recording.environment).folder, recording)
    return tmp_path


@pytest.mark.parametrize(
    "spec, setting, folder_",
    [
        ("cpu/avx2", "strict", "cpu/avx2/eager-strict"),
        ("cpu/avx512:0", "strict", "cpu/avx512/eager-strict"),
        ("cpu+compile", "strict", "cpu/avx2/compile-strict"),
        ("cuda", "production", "cuda/h200/eager-production"),
        ("reference", "strict", "reference/default/eager-strict"),
    ],
)
def test_a_backend_finds_its_goldens(root, spec, setting, folder_):
    store = Store.find(root, BackendSpec.parse(spec), Setting(setting))
    assert store.path == root / folder_
    assert len(store.cases()) == 1
    BackendSpec.parse(store.kind.backend)


@pytest.mark.parametrize(
    "spec, setting",
    [("cuda", "strict"), ("cuda/a100", "production"), ("hpu", "strict"), ("cpu/avx512+compile", "strict")],
)
def test_a_backend_without_goldens_finds_none(root, spec, setting):
    assert Store.find(root, BackendSpec.parse(spec), Setting(setting)) is None
    assert Store.find(root / "none", BackendSpec.parse(spec), Setting(setting)) is None


def test_several_flavours_are_listed(root):
    assert refusal(UsageError, Store.find, root, BackendSpec.parse("cpu"), SETTING) == (
        "'cpu' has goldens of several flavours; name one of cpu/avx2, cpu/avx512"
    )


def test_a_set_in_the_folder_of_another_backend_is_refused(root):
    shutil.rmtree(root / "cuda")
    (root / "cpu" / "avx2").rename(root / "cpu" / "moved")
    path = root / "cpu" / "moved" / "eager-strict"
    assert refusal(GoldenError, Store.find, root, BackendSpec.parse("cpu/moved"), SETTING) == (
        f"{path}/manifest.toml: is of cpu/avx2 (strict), which belongs into cpu/avx2/eager-strict. "
        f"Restore it: git checkout -- {path}"
    )


def test_a_flavour_that_the_backend_learned_is_taken_from_its_provenance(tmp_path, add, case, record):
    recording = record(case(), backend="cpu")
    environment = replace(recording.environment, provenance={"flavour": "amx"})
    add(tmp_path, replace(recording, environment=environment))
    assert str(Store.open(tmp_path).kind) == "cpu/amx (strict)"


def test_a_flavour_that_leads_elsewhere_is_refused(tmp_path, add, case, record):
    odd = record(case(), backend="cpu/..")
    says = "'cpu/..': flavour '..' cannot name a folder. Record it with the name of a backend"
    path = recording_path(tmp_path / "set", case().id)
    assert refusal(GoldenError, add, tmp_path / "set", odd) == f"{path}: {says}"
    assert not (tmp_path / "set").exists()
    arrow.write(odd, path)
    assert refusal(GoldenError, Store.open(tmp_path / "set").load, case()) == f"{path}: {says}"


def test_a_set_that_cannot_be_written_is_reported(tmp_path, add, case, record):
    (tmp_path / "file").touch()
    assert refusal(GoldenError, add, tmp_path / "file" / "set", record(case())) == (
        f"{tmp_path}/file/set/manifest.toml: cannot be written: Not a directory. "
        "Make room or name a folder that can be written"
    )


def test_the_built_in_goldens_are_the_bundled_ones_where_there_are_some(tmp_path, monkeypatch):
    checkout = Path(parity.__file__).parent.parent / "golden"
    assert builtin_goldens() == checkout
    monkeypatch.setattr(parity, "__file__", str(tmp_path / "parity" / "__init__.py"))
    assert builtin_goldens() == tmp_path / "golden"
    (tmp_path / "parity" / "_bundled" / "golden").mkdir(parents=True)
    assert builtin_goldens() == tmp_path / "parity" / "_bundled" / "golden"
