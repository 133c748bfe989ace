from __future__ import annotations

import json

import pytest

from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES
from parity.report.probe import dumps, lines
from parity.run.probing import Probed
from parity.store.recording import Environment


def probed(*, declared, known, unknown=None, setting="production"):
    return Probed(
        environment=Environment(
            backend="sim/gaudi2",
            setting=setting,
            profile=Profile(accumulator=Accumulator(dtype=DTYPES["f32"])),
            provenance={"flavour": "gaudi2"},
        ),
        declared=declared,
        known=known,
        unknown=unknown or {},
        seconds=2.04,
    )


FOUND = probed(
    declared={"gelu": "erf", "division": "ieee", "batch": "yes"},
    known={"gelu": "tanh", "division": "ieee", "products.conv.f32.accumulator": "f32"},
    unknown={
        "batch": "unsupported: none of the sums that this looks at",
        "threads": "no backend can be asked for another number of threads",
        "products.conv.f32.block": "no order of blocks and runs explains what is lost: nearest is block 1, "
        "sequential, 8 splits, but M at 0 and -M at 128 lose 67 terms, not 83",
        "products.conv.f32.order": "no order of blocks and runs explains what is lost: nearest is block 1, "
        "sequential, 8 splits, but M at 0 and -M at 128 lose 67 terms, not 83",
    },
)

TEXT = """\
parity 0.1.0    probe of sim/gaudi2, production

fact                          declared       probed         agrees
batch                         yes            unknown
division                      ieee           ieee           yes
gelu                          erf            tanh           NO
products.conv.f32.accumulator -              f32
products.conv.f32.block       -              unknown
products.conv.f32.order       -              unknown
threads                       -              unknown

UNKNOWN batch
  = unsupported: none of the sums that this looks at

UNKNOWN products.conv.f32.block, products.conv.f32.order
  = no order of blocks and runs explains what is lost: nearest is block 1,
    sequential, 8 splits, but M at 0 and -M at 128 lose 67 terms, not 83

UNKNOWN threads
  = no backend can be asked for another number of threads

DISAGREES gelu: erf is declared, tanh was probed

3 facts probed in 2.0 s, 1 as declared, 1 not, 4 unknown
next    parity check --target sim/gaudi2 --production"""


def test_the_report_is_a_table_the_reasons_and_the_findings():
    assert list(lines(FOUND)) == TEXT.split("\n")


def test_no_line_is_wider_than_a_terminal():
    assert max(map(len, lines(FOUND))) <= 80


def test_json_holds_the_same():
    data = json.loads(dumps(FOUND))
    assert data["findings"] == [{"fact": "gelu", "declared": "erf", "probed": "tanh"}]
    assert (data["target"], data["setting"], data["exit_code"]) == ("sim/gaudi2", "production", 1)
    assert data["probed"] == dict(FOUND.known) and data["unknown"] == dict(FOUND.unknown)
    assert data["declared"] == dict(FOUND.declared) and data["provenance"] == {"flavour": "gaudi2"}


@pytest.mark.parametrize(
    "declared,known,code",
    [({"gelu": "erf"}, {"gelu": "erf"}, 0), ({"gelu": "erf"}, {"gelu": "tanh"}, 1), ({"gelu": "erf"}, {}, 3)],
)
def test_the_exit_code_says_whether_a_declaration_holds(declared, known, code):
    assert probed(declared=declared, known=known).exit_code == code


def test_the_next_command_checks_the_same_side():
    *_, last = lines(probed(declared={}, known={}, setting="strict"))
    assert last == "next    parity check --target sim/gaudi2"
