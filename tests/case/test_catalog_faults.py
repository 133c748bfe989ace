"""Case files that are wrong, each with the whole text of its refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity.case.catalog import Catalog
from parity.case.ids import Selector
from parity.errors import UsageError

GOOD = (Path(__file__).parent / "data" / "two_families.txt").read_text()
HEAD = GOOD.splitlines(keepends=True)[0]


def load(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Catalog.load([folder])


def select(catalog, *texts, suite=None):
    return [str(case.id) for case in catalog.select([Selector.parse(text) for text in texts], suite=suite)]


def refusal(folder, **files):
    with pytest.raises(UsageError) as refused:
        select(load(folder, **files))
    assert refused.value.__context__ is None or refused.value.__suppress_context__
    return str(refused.value)


# Where Python says that a decorator was called: its own line, before 3.11 the function's.
DECORATED = 3 if sys.version_info >= (3, 11) else 4

SYNTAX = HEAD + "\n\ndef broken(:\n    pass\n"
AT_IMPORT = HEAD + "\nprint(1 / 0)\n"
AT_EXIT = HEAD + "\nraise SystemExit('done')\n"
BUILDER = GOOD.replace("int(p.n)", "{}[p.n]")
SLIP = GOOD.replace("int(p.n)", "int(p.m)")
BAD_OP = GOOD.replace('one("exp"', 'one("epx"')
RAW_OP = GOOD.replace(
    'return one("exp", x, result=x.shape)',
    "from parity.case.case import Step\n"
    "    return parts([x], Step(name='s', op='epx', inputs=('x',), outputs=('y',)))",
    1,
)
BAD_DIST = GOOD.replace('("normal", "small")', '("nromal", "small")')
BAD_LAYOUT = GOOD.replace("p.dist)", "p.dist, layout='stided')")
BAD_ATTR = GOOD.replace("result=x.shape", "result=x.shape, dim=0", 1)
BAD_DTYPE = GOOD.replace('"f32", (int', '"f23", (int')
BAD_STEP = GOOD.replace('one("exp", x, result=x.shape)', 'parts([x], step("exp", "z"))', 1)
BAD_RESULT = GOOD.replace("return one", "one", 1)
ALLOWED = GOOD.replace('"small"))', '"small"), allowed=lambda p: p.k)')
NOTHING = GOOD.replace('"small"))', '"small"), allowed=lambda p: False)')
UNDOCUMENTED = GOOD.replace('"""An exponential that is wrong."""', "pass")

FAULTS = {
    "a syntax error": (SYNTAX, "cases/a.py:4: SyntaxError: invalid syntax"),
    "an exception": (AT_IMPORT, "cases/a.py:3: ZeroDivisionError: division by zero"),
    "an exit": (AT_EXIT, "cases/a.py:3: SystemExit: done"),
    "no family": (HEAD, "cases/a.py:1: declares no family; a helper's name begins with _"),
    "an exception in a builder": (
        BUILDER,
        "cases/a.py:6: building 'mine/exp:dist=normal,n=1': KeyError: '1'",
    ),
    "a slip in a builder": (
        SLIP,
        "cases/a.py:6: building 'mine/exp:dist=normal,n=1': AttributeError: the family has no parameter 'm'",
    ),
    "an unknown op": (
        BAD_OP,
        "cases/a.py:7: building 'mine/exp:dist=normal,n=1': unknown op 'epx'; did you mean 'exp'?",
    ),
    "an unknown op in a bare step": (
        RAW_OP,
        "cases/a.py:3: building 'mine/exp:dist=normal,n=1': step 's': unknown op 'epx'; did you mean 'exp'?",
    ),
    "an unknown distribution": (
        BAD_DIST,
        (
            "cases/a.py:3: building 'mine/exp:dist=nromal,n=1': tensor 'x': unknown dist 'nromal'; "
            "did you mean 'normal'?"
        ),
    ),
    "an unknown layout": (
        BAD_LAYOUT,
        (
            "cases/a.py:3: building 'mine/exp:dist=normal,n=1': tensor 'x': unknown layout 'stided'; "
            "did you mean 'strided'?"
        ),
    ),
    "an unknown attribute": (
        BAD_ATTR,
        "cases/a.py:7: building 'mine/exp:dist=normal,n=1': step 'exp': exp has no attribute 'dim'",
    ),
    "an unknown dtype": (
        BAD_DTYPE,
        "cases/a.py:6: building 'mine/exp:dist=normal,n=1': unknown dtype 'f23'; did you mean 'f32'?",
    ),
    "a step that reads nothing": (
        BAD_STEP,
        "cases/a.py:3: mine/exp:dist=normal,n=1: step 'exp' reads 'z', not made before it",
    ),
    "a builder that returns nothing": (
        BAD_RESULT,
        (
            "cases/a.py:3: building 'mine/exp:dist=normal,n=1': "
            "its function must return parts(...) or one(...), not NoneType"
        ),
    ),
    "a constraint that raises": (
        ALLOWED,
        "cases/a.py:3: AttributeError: the family has no parameter 'k'",
    ),
    "a constraint that allows nothing": (NOTHING, "cases/a.py:3: 'mine/exp': `allowed` leaves no case"),
    "a family without a docstring": (
        UNDOCUMENTED,
        f"cases/a.py:{DECORATED}: 'mine/exp': exp needs a docstring that says what it catches",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_case_file_with_a_fault_is_refused_by_file_and_line(folder, fault):
    text, message = FAULTS[fault]
    assert refusal(folder, a=text) == message


def test_the_file_that_the_faults_are_made_of_has_none(folder):
    assert len(select(load(folder, a=GOOD))) == 7


def test_a_file_that_is_not_text_is_refused(folder):
    (folder / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"^cases/a.py:1: UnicodeDecodeError: "):
        Catalog.load([folder])


def test_two_cases_of_one_id_are_refused_with_both_places(folder):
    twin = GOOD.replace('n=("1", "2", "3")', 'n=("3", "4")')
    assert refusal(folder, a=GOOD, b=twin) == (
        "cases/b.py:3: case 'mine/exp:dist=normal,n=3' is already defined at cases/a.py:3"
    )


def test_a_fault_is_found_only_when_its_case_is_asked_for(folder):
    loaded = load(folder, a=BUILDER)
    assert select(loaded, "mine/exp1") == ["mine/exp1:n=1"]


@pytest.mark.usefixtures("folder")
def test_a_folder_that_is_missing_or_holds_no_case_file_is_refused():
    with pytest.raises(UsageError, match=r"^no folder of case files at nowhere$"):
        Catalog.load([Path("nowhere")])
    with pytest.raises(UsageError, match=r"^cases holds no case file: expected one or more \*\.py$"):
        Catalog.load([Path("cases")])
