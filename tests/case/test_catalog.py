from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from parity.case import catalog as catalog_module
from parity.case.catalog import SMOKE_ROWS, Catalog
from parity.case.ids import CaseId, Selector
from parity.errors import UsageError

GOOD = (Path(__file__).parent / "data" / "two_families.txt").read_text()
HEAD = GOOD.splitlines(keepends=True)[0]


def load(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Catalog.load([folder])


def select(catalog, *texts, suite=None):
    return [str(case.id) for case in catalog.select([Selector.parse(text) for text in texts], suite=suite)]


def test_two_functions_of_one_name_in_a_file_are_two_families(folder):
    assert load(folder, a=GOOD).paths() == ["mine/exp", "mine/exp1"]


def test_every_case_is_selected_without_a_selector(folder):
    assert select(load(folder, a=GOOD)) == [
        "mine/exp:dist=normal,n=1",
        "mine/exp:dist=normal,n=2",
        "mine/exp:dist=normal,n=3",
        "mine/exp:dist=small,n=1",
        "mine/exp:dist=small,n=2",
        "mine/exp:dist=small,n=3",
        "mine/exp1:n=1",
    ]


@pytest.mark.parametrize(
    "texts, count",
    [
        (["mine"], 7),
        (["mine/"], 7),
        (["mine/exp"], 6),
        (["mine/exp1"], 1),
        (["mine/exp:n=2"], 2),
        (["mine/exp:dist=small,n=2"], 1),
        (["mine/exp:n=2", "mine/exp:dist=small"], 4),
        (["mine/exp:n=2", "mine/exp1"], 3),
        (["mine:n=1"], 3),
        (["mine/exp:n=7"], 0),
        (["mine/exp:m=1"], 0),
    ],
)
def test_a_selector_is_a_path_prefix_and_a_subset_of_parameters(folder, texts, count):
    assert len(select(load(folder, a=GOOD), *texts)) == count


def test_cases_come_in_one_order_whatever_the_order_of_selectors(folder):
    loaded = load(folder, a=GOOD)
    assert select(loaded, "mine/exp1", "mine/exp") == select(loaded, "mine/exp", "mine/exp1")


@pytest.mark.parametrize(
    "text, message",
    [
        ("mine/ex", "'mine/ex' names no case; did you mean 'mine/exp'?; list them: parity list"),
        ("mnie", "'mnie' names no case; did you mean 'mine'?; list them: parity list"),
        (
            "mine/exp/deeper",
            "'mine/exp/deeper' names no case; did you mean 'mine/exp'?; list them: parity list",
        ),
        ("zzz", "'zzz' names no case; list them: parity list"),
    ],
)
def test_a_path_that_names_nothing_is_a_usage_error_with_its_near_miss(folder, text, message):
    loaded = load(folder, a=GOOD)
    with pytest.raises(UsageError) as refused:
        select(loaded, text)
    assert str(refused.value) == message
    assert refused.value.exit_code == 2


def test_a_wrong_path_beside_a_right_one_is_a_usage_error_all_the_same(folder):
    with pytest.raises(UsageError, match=r"^'mine/xyz' names no case"):
        select(load(folder, a=GOOD), "mine/exp", "mine/xyz")


def test_get_gives_the_case_of_an_id(folder):
    case = load(folder, a=GOOD).get(CaseId.parse("mine/exp:dist=small,n=2"))
    assert case.inputs[0].shape == (2,)
    assert case.source == "cases/a.py:3"


def test_get_refuses_an_id_that_is_not_there_with_its_near_miss(folder):
    loaded = load(folder, a=GOOD)
    with pytest.raises(UsageError) as refused:
        loaded.get(CaseId.parse("mine/exp:dist=smal,n=2"))
    assert str(refused.value) == (
        "no case 'mine/exp:dist=smal,n=2'; did you mean 'mine/exp:dist=small,n=2'?; "
        "list them: parity list mine/exp"
    )
    with pytest.raises(UsageError, match=r"^'mine/expo' names no case; did you mean 'mine/exp'\?"):
        loaded.get(CaseId.parse("mine/expo:n=2"))


def test_suites_are_the_first_words_of_paths_and_the_derived_ones(folder):
    loaded = load(folder, a=GOOD)
    assert loaded.suites() == ["large", "mine", "opinfo", "sample", "smoke"]
    assert len(select(loaded, suite="mine")) == 7
    assert select(loaded, suite="large") == []


def test_an_unknown_suite_is_a_usage_error(folder):
    with pytest.raises(UsageError) as refused:
        select(load(folder, a=GOOD), suite="smok")
    assert (
        str(refused.value)
        == "no suite 'smok'; did you mean 'smoke'?; there are large, mine, opinfo, sample, smoke"
    )


def test_a_selector_and_a_suite_both_restrict(folder):
    loaded = load(folder, a=GOOD)
    assert select(loaded, "mine/exp1", suite="smoke") == ["mine/exp1:n=1"]


def test_sample_holds_every_value_and_smoke_is_a_part_of_it(folder):
    many = GOOD.replace('("1", "2", "3")', '("1", "2", "3", "4", "5", "6")')
    loaded = load(folder, a=many)
    sample, smoke = select(loaded, suite="sample"), select(loaded, suite="smoke")
    for value in ["n=1", "n=2", "n=3", "n=4", "n=5", "n=6", "dist=normal", "dist=small"]:
        assert any(value in case for case in sample)
    assert len([case for case in sample if case.startswith("mine/exp:")]) == 6
    assert len(smoke) == SMOKE_ROWS + 1
    assert set(smoke) < set(sample)


def test_a_large_case_runs_when_its_suite_or_full_id_is_named(folder, monkeypatch):
    monkeypatch.setattr(catalog_module, "LARGE_BYTES", 8)
    loaded = load(folder, a=GOOD)
    large = ["mine/exp:dist=normal,n=3", "mine/exp:dist=small,n=3"]
    assert select(loaded, suite="large") == large
    for suite in (None, "mine", "sample", "smoke"):
        assert not set(select(loaded, suite=suite)) & set(large)
    assert select(loaded, "mine/exp:n=3") == []
    assert select(loaded, large[0]) == [large[0]]
    assert [str(case) for case in loaded.ids() if str(case) in large] == large


def test_a_case_of_exactly_the_limit_is_not_large(folder, monkeypatch):
    monkeypatch.setattr(catalog_module, "LARGE_BYTES", 12)
    assert select(load(folder, a=GOOD), suite="large") == []


def test_two_families_of_one_path_may_share_it_when_their_ids_differ(folder):
    other = GOOD.replace('n=("1", "2", "3")', 'n=("8", "9")').replace("mine/exp1", "mine/exp2")
    assert len(select(load(folder, a=GOOD, b=other), "mine/exp")) == 10


def test_a_folder_named_twice_is_loaded_once(folder):
    load(folder, a=GOOD)
    assert len(Catalog.load([folder, folder / "a.py", folder.parent / "cases"]).ids()) == 7


def test_a_single_file_may_be_named(folder):
    (folder / "a.py").write_text(GOOD)
    (folder / "b.py").write_text("1 / 0")
    assert len(Catalog.load([folder / "a.py"]).ids()) == 7


def test_files_and_folders_that_begin_with_an_underscore_or_dot_are_not_loaded(folder):
    for name in ("_helper.py", ".hidden.py"):
        (folder / name).write_text("1 / 0")
    for name in ("_private", "__pycache__", ".git"):
        (folder / name).mkdir()
        (folder / name / "c.py").write_text("1 / 0")
    (folder / "deep").mkdir()
    (folder / "deep" / "a.py").write_text(GOOD)
    assert Catalog.load([folder]).paths() == ["mine/exp", "mine/exp1"]


def test_loading_writes_nothing_into_the_folder_and_leaves_no_module(folder):
    before = set(sys.modules)
    load(folder, a=GOOD)
    assert [path.name for path in folder.rglob("*")] == ["a.py"]
    assert set(sys.modules) == before


def test_a_case_file_may_define_dataclasses_and_use_its_own_helpers(folder):
    text = "\n".join(
        [
            "from __future__ import annotations",
            "from dataclasses import dataclass",
            "@dataclass",
            "class Size:",
            "    n: int",
            "def size(p): return Size(n=int(p.n)).n",
            GOOD.replace("int(p.n),", "size(p),"),
        ]
    )
    assert len(select(load(folder, a=text))) == 7


def test_a_source_outside_the_current_folder_is_an_absolute_path(folder, monkeypatch, tmp_path):
    loaded = load(folder, a=GOOD)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert loaded.get(CaseId.parse("mine/exp1:n=1")).source == f"{(folder / 'a.py').resolve()}:9"


def test_selecting_every_case_imports_neither_torch_nor_pyarrow():
    code = (
        "import sys; from parity.case.catalog import Catalog, builtin_cases\n"
        "cases = Catalog.load([builtin_cases()]).select([], suite='smoke')\n"
        "assert cases and not {'torch', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
