from __future__ import annotations

import pytest

from parity.case.ids import CaseId
from parity.errors import UsageError
from parity.judge.deviations import Kind, apply, load
from parity.judge.verdict import Verdict

CASE = CaseId.parse("ops/gelu:dist=bits,dtype=f32")
OTHER = CaseId.parse("ops/gelu:dist=normal,dtype=f32")
ENTRY = """\
[[deviation]]
case = "ops/gelu:dist=bits"
expect = "exceeds"
cause = "x (1 + t) overflows before it is halved"
kind = "upstream"
reason = "gelu(2e38) is inf"
"""


@pytest.fixture
def written(tmp_path):
    """Load one file of deviations of the family `npu`."""

    def read(text, *, known=(CASE, OTHER)):
        folder = tmp_path / "deviations"
        folder.mkdir(exist_ok=True)
        (folder / "npu.toml").write_text(text, encoding="utf-8")
        return load([tmp_path], "npu", known)

    return read


def ask(entries, verdict, *, case=CASE, mode="", setting="strict", **provenance):
    found, entry = apply(entries, case, verdict, mode=mode, setting=setting, provenance=provenance)
    return found.value, entry


def test_an_entry_is_read_with_all_that_it_says(written):
    (entry,) = written(ENTRY)
    assert (entry.expect, entry.kind, entry.reason) == (Verdict.EXCEEDS, Kind.UPSTREAM, "gelu(2e38) is inf")
    assert entry.where.endswith("npu.toml: entry 1")


def test_an_entry_that_lists_cases_speaks_of_each_and_each_can_be_stale(written, tmp_path):
    listed = changed('case = "ops/gelu:dist=bits"', f'case = ["{CASE}", "{OTHER}"]')
    entries = written(listed)
    assert [ask(entries, Verdict.EXCEEDS, case=case)[0] for case in (CASE, OTHER)] == ["known", "known"]
    assert ask(entries, Verdict.WITHIN, case=OTHER) == ("stale", entries[1])
    with pytest.raises(UsageError) as refused:
        written(listed, known=[CASE])
    assert f"'{OTHER}' matches no case" in str(refused.value)


def test_a_family_without_a_file_has_none(tmp_path):
    assert load([tmp_path], "npu", [CASE]) == ()


def test_the_expected_departure_is_known(written):
    entries = written(ENTRY)
    assert ask(entries, Verdict.EXCEEDS) == ("known", entries[0])


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in {Verdict.EXCEEDS, Verdict.WITHIN}])
def test_another_verdict_than_the_expected_stays_what_it_is(written, verdict):
    assert ask(written(ENTRY), verdict) == (verdict.value, None)


def test_a_family_has_what_it_inherits_and_that_is_never_stale(written, tmp_path):
    written(ENTRY)
    own = ENTRY.replace("dist=bits", "dist=normal")
    (tmp_path / "deviations" / "sim.toml").write_text('inherits = "npu"\n' + own)
    entries = load([tmp_path], "sim", [CASE, OTHER])
    assert [entry.inherited for entry in entries] == [False, True]
    assert ask(entries, Verdict.EXCEEDS) == ("known", entries[1])
    assert ask(entries, Verdict.WITHIN) == ("within", None)
    assert ask(entries, Verdict.WITHIN, case=OTHER) == ("stale", entries[0])


def test_inheriting_ends_after_one_family(written, tmp_path):
    written(ENTRY)
    (tmp_path / "deviations" / "npu.toml").write_text('inherits = "cpu"\n')
    (tmp_path / "deviations" / "sim.toml").write_text('inherits = "npu"\n')
    with pytest.raises(UsageError, match="inherits 'npu', which inherits in turn; name 'cpu' itself"):
        load([tmp_path], "sim", [CASE, OTHER])


def test_an_entry_that_no_longer_departs_is_stale(written):
    entries = written(ENTRY)
    assert ask(entries, Verdict.WITHIN) == ("stale", entries[0])


def test_a_case_that_no_entry_names_is_untouched(written):
    assert ask(written(ENTRY), Verdict.EXCEEDS, case=OTHER) == ("exceeds", None)
    assert ask(written(ENTRY), Verdict.WITHIN, case=OTHER) == ("within", None)


def test_of_two_entries_the_one_that_expects_the_verdict_decides(written):
    entries = written(ENTRY + ENTRY.replace('"exceeds"', '"crashed"'))
    assert ask(entries, Verdict.CRASHED) == ("known", entries[1])


@pytest.mark.parametrize(
    "key, right, other", [("mode", "lazy", "compile"), ("setting", "production", "strict")]
)
def test_an_entry_for_one_mode_or_setting_is_silent_on_others(written, key, right, other):
    entries = written(ENTRY + f'{key} = "{right}"\n')
    assert ask(entries, Verdict.EXCEEDS, **{key: right})[0] == "known"
    assert ask(entries, Verdict.EXCEEDS, **{key: other})[0] == "exceeds"
    assert ask(entries, Verdict.WITHIN, **{key: other})[0] == "within"


@pytest.mark.parametrize(
    "versions, found, holds",
    [
        ("torch>=2.13", "2.13.0+cpu", True),
        ("torch>=2.13,<2.14", "2.13.1", True),
        ("torch>=2.13,<2.14", "2.14.0", False),
        ("torch==2.13", "2.13.0", True),
        ("torch==2.13", "2.13.1", False),
        ("torch<2.9", "2.13", False),
        ("torch>2.9", "2.13", True),
        ("torch<=2.13", "2.13.0a0+git1234", True),
        ("torch>=2.13", "nightly", False),
        ("driver>=1", "2.13", False),
    ],
)
def test_an_entry_speaks_of_its_versions_alone(written, versions, found, holds):
    entries = written(ENTRY + f'versions = "{versions}"\n')
    assert ask(entries, Verdict.EXCEEDS, torch=found)[0] == ("known" if holds else "exceeds")
    assert ask(entries, Verdict.WITHIN, torch=found)[0] == ("stale" if holds else "within")


def test_an_entry_that_matches_no_case_is_an_error(written, tmp_path):
    with pytest.raises(UsageError) as refused:
        written(ENTRY, known=[OTHER])
    assert str(refused.value) == (
        f"{tmp_path}/deviations/npu.toml: entry 1: 'ops/gelu:dist=bits' matches no case; "
        "remove the entry or mend its selector"
    )


def changed(old, new=""):
    assert old in ENTRY
    return ENTRY.replace(old, new)


LEGAL = "one of crashed, timed_out, exceeds, unstable, substituted, fell_back, unsupported"
MALFORMED = [
    (changed('cause = "x (1 + t) overflows before it is halved"\n'), "entry 1: needs 'cause'"),
    (changed('reason = "gelu(2e38) is inf"', 'reason = ""'), "entry 1: needs 'reason'"),
    (changed("reason =", "reasons ="), "entry 1: unknown key 'reasons'; did you mean 'reason'?"),
    (changed('"upstream"', '"vendor"'), "entry 1: kind 'vendor' is not one of ours, upstream, never"),
    (changed('"upstream"', "7"), "entry 1: 'kind' must be text, got 7"),
    (changed('"exceeds"', '"within"'), f"entry 1: cannot expect 'within'; {LEGAL}"),
    (changed('"exceeds"', '"unjudged"'), f"entry 1: cannot expect 'unjudged'; {LEGAL}"),
    (ENTRY + 'versions = "torch 2.13"\n', "entry 1: versions 'torch 2.13' is not like 'torch>=2.13,<3'"),
    # It would never apply, and never be stale.
    (
        ENTRY + 'setting = "prodution"\n',
        "entry 1: unknown setting 'prodution'; did you mean 'production'?; one of strict, production",
    ),
    (ENTRY + 'versions = ">=2.13"\n', "entry 1: versions '>=2.13' is not like 'torch>=2.13,<3'"),
    (ENTRY + "[other]\n", "expected `inherits = \"family\"` and [[deviation]] tables alone, found 'other'"),
    (changed('case = "ops/gelu:dist=bits"', "case = []"), "entry 1: 'case' must be text, got []"),
    (
        "deviation = [3]\n",
        "expected `inherits = \"family\"` and [[deviation]] tables alone, found 'deviation'",
    ),
    ("deviation = 3\n", "expected `inherits = \"family\"` and [[deviation]] tables alone, found 'deviation'"),
    ("inherits = 3\n", "expected `inherits = \"family\"` and [[deviation]] tables alone, found 'inherits'"),
]


@pytest.mark.parametrize("text, message", MALFORMED, ids=[message for _, message in MALFORMED])
def test_a_malformed_entry_is_an_error_that_says_what_and_where(written, tmp_path, text, message):
    with pytest.raises(UsageError) as refused:
        written(text)
    assert str(refused.value) == f"{tmp_path}/deviations/npu.toml: {message}"


def test_stale_is_no_verdict_to_expect(written):
    with pytest.raises(UsageError, match="cannot expect 'stale'"):
        written(changed('"exceeds"', '"stale"'))


def test_a_file_that_is_no_toml_is_an_error_that_names_it(written, tmp_path):
    with pytest.raises(UsageError) as refused:
        written("[[deviation\n")
    assert str(refused.value).startswith(f"{tmp_path}/deviations/npu.toml: ")


def test_a_malformed_selector_is_an_error(written):
    with pytest.raises(UsageError, match="expected param=value"):
        written(changed("ops/gelu:dist=bits", "ops/gelu:dist"))
